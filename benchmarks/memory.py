"""Peak memory and time of a fit with many classes: rows x classes alone would be 1.6 GB.

Run it as a script:

    python benchmarks/memory.py [--rows 200000] [--features 64] [--classes 2000]
"""

import argparse
import platform
import resource
import sys
import time

import numpy as np

import softhead


def peak():
    """Return the peak resident memory of this process in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--classes", type=int, default=2_000)
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    y = rng.integers(0, options.classes, options.rows)
    centres = rng.standard_normal((options.classes, options.features), dtype=np.float32)
    X = rng.standard_normal((options.rows, options.features), dtype=np.float32)
    X += centres[y]
    model = softhead.SoftmaxClassifier()
    before = peak()
    start = time.perf_counter()
    model.fit(X, y)
    seconds = time.perf_counter() - start
    print(f"{platform.platform()}, Python {platform.python_version()}, NumPy {np.__version__}")
    print(f"{options.rows} x {options.features} float32, {options.classes} classes; X has {X.nbytes / 1e6:.0f} MB")
    print(f"peak before the fit {before:.0f} MB, after it {peak():.0f} MB")
    print(f"{seconds:.1f} s, {model.n_passes_:.0f} passes, {model.status_}, gap {model.gap_ / model.objective_:.1e}")
    model.predict(X)
    print(f"peak after predicting all rows {peak():.0f} MB")


if __name__ == "__main__":
    main()
