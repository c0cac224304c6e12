"""The optimum beside scikit-learn's: objectives of both at tight tolerances, in float64, on the same features.

Run it as a script:

    python benchmarks/optimum.py [--data FOLDER] [--only NAME[:C] ...] [--plain]

Ours stops at tol=1e-9; scikit-learn's newton-cg at 1e-10. ``excess`` is ours over theirs, minus 1; ``frequencies`` the
largest difference between mean predicted probabilities and weighted class frequencies, where there is an intercept.
"""

import argparse
import warnings
from itertools import chain
from pathlib import Path

import numpy as np
from data_sets import problems
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight

import softhead
from softhead.linear.objective import LinearSoftmaxObjective


def value(model, X, codes, weight, C):
    """F of a fitted model, in float64."""
    two = len(model.classes_) == 2
    coef, intercept = model.coef_.astype(float), np.broadcast_to(model.intercept_, len(model.coef_)).astype(float)
    if two:
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    l2 = (2.0 if two else 1.0) / (C * weight.sum())
    objective = LinearSoftmaxObjective(X, codes, n_classes=len(model.classes_), sample_weight=weight, l2=l2)
    return objective.loss_gradient(np.column_stack([coef, intercept]))[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the larger data sets")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME[:C]", help="see classifier.py")
    parser.add_argument("--plain", action="store_true", help="only with an intercept and without weights")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # newton-cg's line search complains near the optimum
    X, y = load_iris(return_X_y=True)
    iris = ("iris, two classes", X[y > 0].astype(np.float32), y[y > 0], (1.0, np.inf))
    print("| data | C | weights | intercept | input | excess | relative gap | bound holds | frequencies |")
    print("|---" * 9 + "|")
    for name, X, y, penalties in chain([] if options.only else [iris], problems(options.data, options.only)):
        X = X.astype(float)  # the same numbers for both dtypes
        classes, codes = np.unique(y, return_inverse=True)
        for C in penalties:
            for weighted in (False,) if options.plain else (False, True):
                s = np.random.default_rng(0).exponential(size=len(y)) if weighted else np.ones(len(y))
                by_class = "balanced" if weighted else None
                total = s * compute_class_weight(by_class, classes=classes, y=y, sample_weight=s)[codes]
                for intercept in (True,) if options.plain else (True, False):
                    arguments = {"C": C, "fit_intercept": intercept, "class_weight": by_class}
                    peer = LogisticRegression(tol=1e-10, max_iter=5000, solver="newton-cg", **arguments).fit(X, y, s)
                    theirs = value(peer, X, codes, total, C)
                    for dtype in (np.float64, np.float32):
                        rows = X.astype(dtype)
                        model = softhead.SoftmaxClassifier(tol=1e-9, max_iter=10_000, **arguments).fit(rows, y, s)
                        ours = value(model, X, codes, total, C)
                        means = total @ model.predict_proba(rows) / total.sum()
                        off = np.abs(means - np.bincount(codes, weights=total) / total.sum()).max()
                        cells = (name, f"{C:.3g}", weighted, intercept, np.dtype(dtype), f"{ours / theirs - 1:.1e}")
                        holds = ours - min(ours, theirs) <= model.gap_
                        cells += (f"{model.gap_ / ours:.1e}", holds, f"{off:.0e}" if intercept else "")
                        print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
