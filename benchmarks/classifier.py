"""SoftmaxClassifier beside scikit-learn's LogisticRegression: seconds, passes and distance to the optimum.

    python benchmarks/classifier.py [--data FOLDER] [--repeats 5]

Each line is one problem. Both contestants get the same float32 array and the same BLAS, in one process, in turns; shown
is the median of the repeats. ``excess`` is the relative distance of the reached objective to the best value known, that
of a float64 run of ours to a certified relative gap of 1e-9. scikit-learn runs its default solver (lbfgs) with as many
iterations as it wants, at its default tolerance and at 1e-6.
With --data, the folder of the larger data sets (letter.csv.gz, mnist.npz, clinc150_minilm.npz), these are added.
"""

import argparse
import csv
import gzip
import platform
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import sklearn
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info

import softhead
from softhead.linear.objective import LinearSoftmaxObjective


def problems(folder):
    X, y = load_digits(return_X_y=True)
    yield "digits", X / 16.0, y, (1.0,)
    X, y = load_breast_cancer(return_X_y=True)
    yield "breast cancer", StandardScaler().fit_transform(X), y, (1.0,)
    if folder is None:
        return
    with gzip.open(folder / "letter.csv.gz", "rt") as file:
        rows = list(csv.reader(file))[1:]
    X = np.array([row[1:] for row in rows], float)
    yield "letter", StandardScaler().fit_transform(X), np.array([row[0] for row in rows]), (1.0, 100.0)
    clinc = np.load(folder / "clinc150_minilm.npz")
    yield "CLINC150 MiniLM", clinc["x_train"], clinc["y_train"], (1.0, 10.0, 100.0)
    mnist = np.load(folder / "mnist.npz")
    yield "MNIST", mnist["x_train"].reshape(60_000, -1) / 255.0, mnist["y_train"], (1 / 60,)


def objective(X, y, C, model):
    """F of a fitted model, in float64."""
    classes, codes = np.unique(y, return_inverse=True)
    two = len(classes) == 2
    l2 = (2.0 if two else 1.0) / (C * len(y))
    coef, intercept = model.coef_.astype(float), model.intercept_.astype(float)
    if two:
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    function = LinearSoftmaxObjective(X, codes, n_classes=len(classes), l2=l2, dtype=np.dtype(float))
    return function.loss_gradient(np.column_stack([coef, intercept]))[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the larger data sets")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    blas = [f"{info['internal_api']} {info.get('architecture')} x{info['num_threads']}" for info in threadpool_info()]
    print(f"{platform.processor() or platform.machine()}, {platform.platform()}, Python {platform.python_version()}")
    print(f"softhead {softhead.__version__}, scikit-learn {sklearn.__version__}, NumPy {np.__version__}")
    print(f"{', '.join(blas)}\n")
    columns = [
        "data",
        "rows x features, classes",
        "C",
        "softhead",
        "gap",
        "passes",
        "excess",
        "scikit-learn",
        "excess",
        "tol=1e-6",
        "excess",
    ]
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    ratios = []
    for name, X, y, penalties in problems(options.data):
        X = np.ascontiguousarray(X, np.float32)
        for C in penalties:
            best = softhead.SoftmaxClassifier(C=C, tol=1e-9, max_iter=10_000).fit(X.astype(float), y).objective_
            contestants = (
                softhead.SoftmaxClassifier(C=C),
                LogisticRegression(C=C, max_iter=10_000),
                LogisticRegression(C=C, max_iter=10_000, tol=1e-6),
            )
            seconds = [[], [], []]
            for _ in range(options.repeats):
                for times, model in zip(seconds, contestants, strict=True):
                    start = time.perf_counter()
                    model.fit(X, y)
                    times.append(time.perf_counter() - start)
            ours, default, tight = (statistics.median(times) for times in seconds)
            excess = [objective(X, y, C, model) / best - 1.0 for model in contestants]
            fitted = contestants[0]
            ratios.append(tight / ours)
            print(
                f"| {name} | {X.shape[0]} x {X.shape[1]}, {len(fitted.classes_)} | {C:.3g} | {ours:.3g} s "
                f"| {fitted.gap_ / fitted.objective_:.1e} | {fitted.n_passes_:.0f} | {excess[0]:.0e} "
                f"| {default:.3g} s | {excess[1]:.0e} | {tight:.3g} s | {excess[2]:.0e} |",
                flush=True,
            )
    print(f"\nGeometric mean of scikit-learn at tol=1e-6 / softhead, seconds: {statistics.geometric_mean(ratios):.2f}")


if __name__ == "__main__":
    main()
