"""Paths of penalties and cross-validation beside separate fits and scikit-learn's LogisticRegressionCV: seconds.

    python benchmarks/path.py [--data FOLDER] [--only NAME ...] [--repeats 3] [--limit 1200] [--loosest 1e-2]

``path``: 96 penalties evenly in log C from 1e-4 to 1e2, each certified to a relative gap of 1e-4, in units of one cold
fit at C = 10. ``cv``: SoftmaxClassifierCV(Cs=10, cv=5) beside LogisticRegressionCV of the same penalties, folds and
scoring, on the same float32 array, each at the loosest tolerance, in steps of a factor of the square root of ten, at
which the log losses of all folds and penalties are within 1e-3 of a reference, ours in float64 to a gap of 1e-8. The
peer's are tried from --loosest on until one has taken --limit seconds; the ratio is a lower bound then. Without --data
only digits are run.
"""

import argparse
import os
import platform
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import sklearn
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegressionCV
from threadpoolctl import threadpool_info

import softhead

TIGHTEST = 1e-8


def problems(folder):
    X, y = load_digits(return_X_y=True)
    yield "digits", X / 16.0, y
    if folder is None:
        return
    clinc = np.load(folder / "clinc150_minilm.npz")
    yield "CLINC150", clinc["x_train"], clinc["y_train"]
    mnist = np.load(folder / "mnist.npz")
    yield "MNIST 10000", mnist["x_train"][:10_000].reshape(10_000, -1) / 255.0, mnist["y_train"][:10_000]


def seconds(call):
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def measure_path(name, X, y, repeats):
    Cs = np.geomspace(1e-4, 1e2, 96)
    times = {"cold": [], "path": []}
    for _ in range(repeats):
        took, _ = seconds(lambda: softhead.SoftmaxClassifier(C=10.0).fit(X, y))
        times["cold"].append(took)
        took, path = seconds(lambda: softhead.softmax_path(X, y, Cs=Cs))
        times["path"].append(took)
    cold, whole = (statistics.median(times[key]) for key in ("cold", "path"))
    worst = (path.gaps / path.objectives).max()
    print(
        f"| {name} | {cold:.3g} s | {whole:.3g} s | {whole / cold:.2f} | {path.passes.sum():.0f} | {worst:.1e} "
        f"| {path.statuses.count('converged')} of 96 |",
        flush=True,
    )


def tolerances(loosest):
    """Return those from the loosest to the tightest, two for every power of ten."""
    steps = round(2.0 * np.log10(loosest / TIGHTEST))
    return [float(f"{tol:.2g}") for tol in TIGHTEST * 10.0 ** (0.5 * np.arange(steps, -1, -1))]


def measure_cv(name, X, y, limit, loosest):
    reference = softhead.SoftmaxClassifierCV(Cs=10, cv=5, tol=1e-8, max_iter=10_000).fit(X.astype(float), y)
    for tol in tolerances(1e-4):
        ours, model = seconds(lambda: softhead.SoftmaxClassifierCV(Cs=10, cv=5, tol=tol).fit(X, y))  # noqa: B023
        off = np.abs(model.scores_ - reference.scores_).max()
        print(f"{name}: softhead {ours:.3g} s at tol={tol:g}, off by {off:.1e}, C = {model.C_:.4g}", flush=True)
        if off <= 1e-3:
            break
    print(f"{name}: reference C = {reference.C_:.4g}, {(reference.statuses_ == 'converged').mean():.0%} converged")
    for tol in tolerances(loosest):
        peer = LogisticRegressionCV(
            Cs=10, cv=5, l1_ratios=(0,), scoring="neg_log_loss", tol=tol, max_iter=100_000, use_legacy_attributes=False
        )
        theirs, _ = seconds(lambda: peer.fit(X, y))  # noqa: B023
        off = np.abs(peer.scores_ - reference.scores_).max()
        print(
            f"{name}: scikit-learn {theirs:.3g} s at tol={tol:g}, log losses off by {off:.1e}, C = {peer.C_:.4g}: "
            f"{theirs / ours:.1f} times",
            flush=True,
        )
        if off <= 1e-3 or theirs > limit:
            break


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the larger data sets")
    parser.add_argument("--only", nargs="+", help="of path, cv and the names of the data")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds of the peer at one tolerance")
    parser.add_argument("--loosest", type=float, default=1e-2, help="tolerance that the peer begins with")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # fits that end early: the table says how far they got

    blas = [f"{info['internal_api']} {info.get('architecture')} x{info['num_threads']}" for info in threadpool_info()]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors, {platform.platform()}")
    print(f"softhead {softhead.__version__}, scikit-learn {sklearn.__version__}, NumPy {np.__version__}")
    print(f"{', '.join(blas)}\n")
    wanted = set(options.only or [])
    kinds = wanted & {"path", "cv"} or {"path", "cv"}
    names = wanted - {"path", "cv"}
    chosen = [
        (name, np.ascontiguousarray(X, np.float32), y)
        for name, X, y in problems(options.data)
        if not names or name in names
    ]
    softhead.SoftmaxClassifierCV(Cs=2, cv=2).fit(chosen[0][1][:500], chosen[0][2][:500])  # compiles
    if "path" in kinds:
        print("| data | one fit, C = 10 | 96 penalties | in fits | passes | largest relative gap | converged |")
        print("|---" * 7 + "|")
        for name, X, y in chosen:
            measure_path(name, X, y, options.repeats)
        print()
    if "cv" in kinds:
        for name, X, y in chosen:
            measure_cv(name, X, y, options.limit, options.loosest)


if __name__ == "__main__":
    main()
