"""A fit on a Parquet file that is read block by block: memory, the optimum, the speed of reading, kills and resumes.

Run it as a script; at full size the file has 3 GB:

    python benchmarks/streaming.py [--rows 6000000] [--classes 50] [--kills 10] [--folder DIR]

With --reading, only the speed of reading is measured: of pyarrow's scan alone, of the arithmetic alone on the same rows
in memory, and of a pass, which does both. With --scoring, only `softhead predict` and `softhead evaluate`.

Every measurement is a process of its own, whose peak memory is its own.
"""

import argparse
import contextlib
import hashlib
import io
import json
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

GROUP_ROWS = 65_536


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=6_000_000)
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--tol", type=float, default=1e-6)
    parser.add_argument("--kills", type=int, default=0, help="how often the fit is killed and resumed")
    parser.add_argument("--folder", help="for the file; a temporary one by default")
    parser.add_argument("--skip-memory", action="store_true", help="no fit in memory to compare with")
    parser.add_argument("--reading", action="store_true", help="nothing but the speed of reading")
    parser.add_argument("--scoring", action="store_true", help="nothing but predict and evaluate by the command line")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--arguments", type=json.loads, default={}, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(WORKERS[options.worker](**options.arguments)))
        return
    print(f"{platform.platform()}, Python {platform.python_version()}, NumPy {np.__version__}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        compare(options, Path(folder))


def compare(options, folder):
    path = str(folder / "rows.parquet")
    shape = {"rows": options.rows, "features": options.features, "classes": options.classes}
    made = run("write", path=path, **shape)
    size = options.rows * options.features * 4 / 1e9
    print(
        f"{options.rows} x {options.features} float32, {options.classes} classes: {size:.2f} GB, "
        f"written in {made['seconds']:.0f} s"
    )

    if options.scoring:
        score(folder, path)
        return
    reading(path, size)
    if options.reading:
        return
    streamed = run("fit", path=path, tol=options.tol, coef=str(folder / "streamed.npy"))
    report("streamed", streamed)
    if not options.skip_memory:
        whole = run("fit_in_memory", path=path, tol=options.tol)
        report("in memory", whole)
        print(f"relative difference of the objectives {streamed['objective'] / whole['objective'] - 1.0:.1e}")
    small = run("agree", path=path, rows=min(options.rows, 50_000))
    print(f"float64, {small['rows']} rows, tol=1e-10: coefficients differ by {small['difference']:.1e} at most")
    if options.kills:
        kill(options, folder, path, streamed)


def reading(path, size):
    """Print what a pass over the file costs, beside what it cannot do without."""
    found = run("passes", path=path)

    def line(name, key):
        wall, used = found[key]
        print(f"{name:28} {wall:6.3f} s, {size / wall:5.2f} GB/s, {used:6.3f} s of processors")

    line("pyarrow's scan alone", "scan")
    line("the same, not buffered ahead", "lean_scan")
    line("blocks of rows", "blocks")
    line("arithmetic alone, in memory", "arithmetic")
    line("a pass over the file", "pass")
    scan, lean, both = (found[key] for key in ("scan", "lean_scan", "pass"))
    sum_of_parts = (lean[1] + found["arithmetic"][1]) / found["processors"]
    print(
        f"a pass takes {both[0] / scan[0]:.2f} scans, {both[0] / lean[0]:.2f} of the faster ones, and "
        f"{both[0] / (lean[0] + found['arithmetic'][0]):.2f} times one of these and the arithmetic after each other;\n"
        f"the processors are busy for {both[1] / both[0] / found['processors']:.0%} of it; the two alone would keep "
        f"all {found['processors']} busy for {sum_of_parts:.3f} s"
    )


def score(folder, path):
    """Predict and evaluate from the file, in blocks and in memory, and compare what is written."""
    model, outputs = str(folder / "model"), {}
    few = ["--max-iter", "2", "--test-size", "0", "-q"]  # a poor model, whose scores are those of all rows
    run("softhead_command", arguments=["train", path, "--target", "y", "--stream", "--out", model, *few])
    for way in ("--stream", "--in-memory"):
        out = folder / f"{way}.parquet"
        for name, more in (("predict", ["-o", str(out)]), ("evaluate", ["--json"])):
            done = run("softhead_command", arguments=[name, model, path, way, *more])
            print(f"{name} {way:12} {done['seconds']:6.1f} s, peak memory {done['peak']:.0f} MB")
            outputs[name, way] = done["stdout"] if name == "evaluate" else hashlib.sha256(out.read_bytes()).digest()
    same = all(outputs[name, "--stream"] == outputs[name, "--in-memory"] for name in ("predict", "evaluate"))
    print(f"what they give is {'the same, byte for byte' if same else 'DIFFERENT'}")


def kill(options, folder, path, streamed):
    """Kill the fit at random moments, resume it each time, and compare the bits with those of the fit left alone."""
    rng = random.Random(0)
    same = {
        "path": path,
        "tol": options.tol,
        "checkpoint": str(folder / "fit.ckpt"),
        "coef": str(folder / "resumed.npy"),
    }
    kills = resumes = 0
    while kills < options.kills:
        process = start("fit", **same)
        moment = rng.uniform(0.2, 0.7) * streamed["seconds"] + streamed["begun"]
        try:
            process.communicate(timeout=moment)  # it may end before: then the next one begins anew
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            there = Path(same["checkpoint"]).exists()
            resumes += there
            print(f"kill {kills} after {moment:.1f} s: checkpoint {'there' if there else 'none yet'}")
    resumed = run("fit", **same)
    equal = np.array_equal(np.load(same["coef"]), np.load(folder / "streamed.npy"))
    equal = equal and all(resumed[key] == streamed[key] for key in ("objective", "gap", "passes"))
    print(
        f"after {kills} kills, {resumes} of them with a checkpoint: "
        f"{'bit-identical' if equal else 'DIFFERENT'} to the fit left alone"
    )


def report(name, fit):
    print(
        f"{name:10} {fit['seconds']:.1f} s, {fit['passes']:.1f} passes, {fit['status']}, "
        f"objective {fit['objective']:.9f}, relative gap {fit['gap'] / fit['objective']:.1e}, "
        f"peak memory {fit['peak']:.0f} MB"
    )


def start(worker, **arguments):
    command = [sys.executable, __file__, "--worker", worker, "--arguments", json.dumps(arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def run(worker, **arguments):
    process = start(worker, **arguments)
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{worker} failed")
    return json.loads(output)


def peak():
    """Return the peak resident memory of this process in MB; that of resource.getrusage begins with its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


def write(path, rows, features, classes):
    import pyarrow as pa
    from pyarrow import parquet

    begin = time.perf_counter()
    centres = np.random.default_rng(0).standard_normal((classes, features), dtype=np.float32)
    writer = None
    for first in range(0, rows, GROUP_ROWS):
        rng = np.random.default_rng([1, first])
        n = min(GROUP_ROWS, rows - first)
        y = rng.integers(0, classes, n)
        X = rng.standard_normal((n, features), dtype=np.float32)
        X += 0.4 * centres[y]
        columns = np.ascontiguousarray(X.T)
        table = pa.table({f"x{j}": columns[j] for j in range(features)} | {"y": y})
        if writer is None:
            writer = parquet.ParquetWriter(path, table.schema, compression="none", use_dictionary=False)
        writer.write_table(table)
    writer.close()
    return {"seconds": time.perf_counter() - begin}


def passes(path):
    """Time pyarrow's scans, blocks of rows, the arithmetic on as many rows that are in memory, and passes."""
    from pyarrow import parquet

    from softhead import open_rows
    from softhead.kernels.processors import processors
    from softhead.linear.stream import StreamedObjective, survey
    from softhead.linear.summed import Part

    def scan(**options):
        with parquet.ParquetFile(path, **options) as file:
            for _ in file.iter_batches(batch_size=GROUP_ROWS):
                pass

    def blocks():
        for _ in source.blocks:
            pass

    source = open_rows(path, target="y")
    found = survey(source.blocks)
    ones = np.ones(len(found.classes))
    objective = StreamedObjective(source.blocks, found, factors=ones, l2=1e-6, fit_intercept=True)
    coef = 0.01 * np.random.default_rng(0).standard_normal(objective.shape)
    parts, held = [], 0
    for X, y, _ in source:  # more of them than a cache holds
        parts.append(Part(X, np.searchsorted(found.classes, y), np.ones(len(y))))
        held += len(y)
        if held * X.shape[1] >= 2**26:
            break
    times = max(1, found.n_rows // held)

    def arithmetic():
        for part in times * parts:
            objective.part_sums(part, "loss_sums", coef)

    measured = fastest(
        {
            "scan": scan,
            "lean_scan": lambda: scan(pre_buffer=False),
            "blocks": blocks,
            "arithmetic": arithmetic,
            "pass": lambda: objective.loss_gradient(coef),
        }
    )
    share = found.n_rows / (times * held)
    measured["arithmetic"] = tuple(share * seconds for seconds in measured["arithmetic"])
    return {**measured, "processors": processors()}


def fastest(functions, repeats=5):
    """Return the least seconds of each function, called in turn, and those of the processors then."""
    best = {}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            wall, used = time.perf_counter(), time.process_time()
            function()
            took = time.perf_counter() - wall, time.process_time() - used
            if repeat:  # the first time, loops are compiled and memory is new
                best[name] = min(best.get(name, took), took)
    return best


def softhead_command(arguments):
    from softhead.app.cli import app

    begin = time.perf_counter()
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        app(arguments, standalone_mode=False)
    return {"seconds": time.perf_counter() - begin, "peak": peak(), "stdout": text.getvalue()}


def fit(path, tol, coef, checkpoint=None):
    begun = time.perf_counter()
    from softhead import SoftmaxClassifier, open_rows

    begin = time.perf_counter()
    model = SoftmaxClassifier(C=1e-3, tol=tol, checkpoint=checkpoint).fit(open_rows(path, target="y"))
    seconds = time.perf_counter() - begin
    np.save(coef, np.column_stack([model.coef_, model.intercept_]))
    return {**outcome(model), "seconds": seconds, "begun": begin - begun}


def fit_in_memory(path, tol):
    from softhead import SoftmaxClassifier, open_rows

    X, y = rows_of(open_rows(path, target="y"))
    begin = time.perf_counter()
    model = SoftmaxClassifier(C=1e-3, tol=tol).fit(X, y)
    return {**outcome(model), "seconds": time.perf_counter() - begin}


def agree(path, rows):
    from softhead import RowSource, SoftmaxClassifier, open_rows

    X, y = rows_of(open_rows(path, target="y"), rows)
    X = X.astype(np.float64)
    cuts = np.cumsum(np.random.default_rng(0).integers(1, rows // 8, 9))
    blocks = [(X[part], y[part]) for part in np.split(np.arange(rows), cuts)]
    whole = SoftmaxClassifier(C=0.1, tol=1e-10).fit(X, y)
    model = SoftmaxClassifier(C=0.1, tol=1e-10).fit(RowSource(blocks))
    return {"rows": rows, "difference": float(np.abs(model.coef_ - whole.coef_).max())}


def rows_of(source, most=np.inf):
    """Return the first rows of a source as arrays."""
    found, n = [], 0
    for X, y, _ in source:
        found.append((X, y))
        n += len(y)
        if n >= most:
            break
    X, y = (np.concatenate([part[k] for part in found]) for k in (0, 1))
    return (X, y) if most == np.inf else (X[:most], y[:most])


def outcome(model):
    return {
        "status": model.status_,
        "passes": model.n_passes_,
        "objective": model.objective_,
        "gap": model.gap_,
        "peak": peak(),
    }


WORKERS = {function.__name__: function for function in (write, passes, softhead_command, fit, fit_in_memory, agree)}

if __name__ == "__main__":
    main()
