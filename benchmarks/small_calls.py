"""What a small call costs beside SciPy's: one call on ten numbers, the import, and the first call of a process.

    python benchmarks/small_calls.py [--repeats 9]

A call's time is the least of the repeats, each a mean over 2,000 calls; the two libraries take turns. Imports and first
calls run in processes of their own, whose compiled loops come from the cache on disk; the least of the repeats, too.
"""

import argparse
import statistics
import subprocess
import sys
import time

import numpy as np
from scipy import special

import softhead

FUNCTIONS = ["softmax", "log_softmax", "logsumexp"]
PROCESSES = {
    "import numpy": "import numpy",
    "import softhead, numpy": "import softhead, numpy",
    "import softhead; first call": "import numpy as np, softhead; softhead.softmax(x)",
    "import scipy.special; first call": "import numpy as np, scipy.special; scipy.special.softmax(x)",
}
CALLS = 2000


def call_seconds(function, x):
    """Return the mean time of one call."""
    start = time.perf_counter()
    for _ in range(CALLS):
        function(x)
    return (time.perf_counter() - start) / CALLS


def process_seconds(statements):
    """Return the time that statements take in a new process, where numbers x are ready if NumPy is imported."""
    imports, _, call = statements.partition(";")
    lines = ["import time", "start = time.perf_counter()", imports, "middle = time.perf_counter()"]
    if call:
        lines += ["x = np.arange(10.0)", call.strip()]
    lines += ["print(middle - start, time.perf_counter() - middle)"]
    printed = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    ).stdout
    return [float(number) for number in printed.split()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    repeats = range(parser.parse_args().repeats)

    print("| one call on 10 numbers | softhead, us | SciPy, us | softhead / SciPy |")
    print("|---|---|---|---|")
    for dtype in ("float32", "float64"):
        x = np.random.default_rng(0).standard_normal(10).astype(dtype)
        for name in FUNCTIONS:
            ours, theirs = getattr(softhead, name), getattr(special, name)
            ours(x), theirs(x)
            times = [(call_seconds(ours, x), call_seconds(theirs, x)) for _ in repeats]
            own, other = (min(column) * 1e6 for column in zip(*times, strict=True))
            print(f"| {name}, {dtype} | {own:.2f} | {other:.2f} | {own / other:.2f} |")

    print("\n| a new process | import, s | first call, s |")
    print("|---|---|---|")
    times = {name: [] for name in PROCESSES}
    for _ in repeats:
        for name, statements in PROCESSES.items():
            times[name].append(process_seconds(statements))
    for name, pairs in times.items():
        cells = [f"{min(column):.3f} (median {statistics.median(column):.3f})" for column in zip(*pairs, strict=True)]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
