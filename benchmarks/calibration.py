"""CLINC150: calibration of a linear classifier of sentence embeddings, what abstaining buys, and rows out of scope.

    python benchmarks/calibration.py --data FOLDER [--C 1 10 100] [--peers]

FOLDER holds clinc150_minilm.npz. The classifier is fitted to the training split, the temperature to logits of the
training rows out of five folds, and every figure is of the test split, with its 95% interval. The second table has the
area under the receiver's curve of each score that tells sentences in none of the classes from the test split. The third
compares temperatures, and the seconds that finding them takes, with scikit-learn's on the same float64 logits. --peers
compares calibration errors with torchmetrics and netcal, where these are installed.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score

import softhead

METHODS = ("energy", "max_logit", "max_probability")


def load(folder):
    """Return features and codes of the training, validation and test rows, and features of the rows in no class."""
    data = np.load(folder / "clinc150_minilm.npz")
    parts = [(data[f"x_{name}"].astype(np.float32), data[f"y_{name}"]) for name in ("train", "val", "test")]
    return *parts, data["x_oos"].astype(np.float32)


def best(function, repeats=5):
    """Return a function's result and the least seconds of some calls."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def cell(estimate):
    return f"{estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.4f})"


def figures(C, who, model, X, y):
    p = model.predict_proba(X)
    curve = softhead.risk_coverage(p, y)
    at = [curve.risk[np.searchsorted(curve.coverage, share - 1e-9)] for share in (0.8, 0.9, 1.0)]
    cells = [
        f"{model.temperature_:.4f}",
        f"{1.0 - at[-1]:.4f}",
        cell(softhead.log_loss(model.predict_log_proba(X), y)),
        cell(softhead.brier_score(p, y)),
        cell(softhead.calibration_error(p, y)),
        cell(softhead.calibration_error(p, y, strategy="quantile")),
        cell(softhead.ks_calibration_error(p, y)),
        *(f"{100 * risk:.2f}%" for risk in at),
        cell(curve.area),
    ]
    print(f"| {C:g} | {who} | " + " | ".join(cells) + " |", flush=True)


def scopes(C, model, X, outside):
    logits = [model.decision_function(rows) for rows in (X, outside)]
    is_outside = np.repeat([0, 1], [len(X), len(outside)])
    cells = []
    for temperature in (1.0, model.temperature_):
        for method in METHODS:
            if method == "max_logit" and temperature != 1.0:
                continue
            scores = [softhead.out_of_scope_score(z, method=method, temperature=temperature) for z in logits]
            cells.append(f"{roc_auc_score(is_outside, np.concatenate(scores)):.4f}")
    print(f"| {C:g} | " + " | ".join(cells) + " |", flush=True)


def temperatures(name, model, X, y):
    X = X.astype(np.float64)
    logits = model.decision_function(X)
    ours, seconds = best(lambda: softhead.TemperatureScaler().fit(logits, y))
    peer = CalibratedClassifierCV(FrozenEstimator(model), method="temperature")
    whole, whole_seconds = best(lambda: peer.fit(X, y), 3)
    calibrator = whole.calibrated_classifiers_[0].calibrators[0]
    _, their_seconds = best(lambda: type(calibrator)().fit(logits, y))  # on these logits, without what leads there
    print(
        f"| {name} | {logits.shape[0]} x {logits.shape[1]} | {ours.temperature_:.9f} | {1.0 / calibrator.beta_:.9f} "
        f"| {abs(ours.temperature_ * calibrator.beta_ - 1.0):.1e} | {1e3 * seconds:.2f} ms "
        f"| {1e3 * their_seconds:.1f} ms | {1e3 * whole_seconds:.1f} ms | {their_seconds / seconds:.1f} |",
        flush=True,
    )


def peers(model, X, y):
    """Print the largest difference of calibration errors from those of other libraries on the same bins."""
    p = model.predict_proba(X).astype(np.float64)
    p /= p.sum(axis=1, keepdims=True)
    found = {}
    try:
        import torch
        from torchmetrics.functional.classification import multiclass_calibration_error

        for norm in ("l1", "l2", "max"):
            theirs = float(
                multiclass_calibration_error(torch.tensor(p), torch.tensor(y), p.shape[1], n_bins=15, norm=norm)
            )
            found[f"torchmetrics {norm}"] = softhead.calibration_error(p, y, norm=norm).value, theirs
    except ImportError:
        print("torchmetrics is not installed")
    try:
        from netcal.metrics import ECE

        top, correct = p.max(axis=1), (p.argmax(axis=1) == y).astype(float)
        found["netcal ECE"] = softhead.calibration_error(p, y).value, float(ECE(15).measure(top, correct))
    except ImportError:
        print("netcal is not installed")
    print("\n| figure | softhead | peer | difference |\n|---|---|---|---|")
    for name, (ours, theirs) in found.items():
        print(f"| {name} | {ours:.12f} | {theirs:.12f} | {abs(ours - theirs):.1e} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of clinc150_minilm.npz")
    parser.add_argument("--C", type=float, nargs="+", default=[1.0, 10.0, 100.0])
    parser.add_argument("--peers", action="store_true", help="compare calibration errors with other libraries")
    options = parser.parse_args()
    (X, y), (X_val, y_val), (X_test, y_test), outside = load(options.data)
    models = []
    print(
        "| C | probabilities | temperature | accuracy | log loss | Brier score | calibration error | of equal weight "
        "| without bins | risk at 80% | at 90% | at 100% | area of risk over coverage |"
    )
    print("|---" * 13 + "|")
    for C in options.C:
        raw = softhead.SoftmaxClassifier(C=C).fit(X, y)
        model = softhead.calibrate(softhead.SoftmaxClassifier(C=C), X, y, cv=5)
        figures(C, "as fitted", raw, X_test, y_test)
        figures(C, "calibrated", model, X_test, y_test)
        models.append((C, raw, model))
    print("\n| C | energy | max logit | max probability | energy, calibrated | max probability, calibrated |")
    print("|---" * 6 + "|")
    for C, _, model in models:
        scopes(C, model, X_test, outside)
    print(
        "\n| logits | shape | temperature | scikit-learn's | relative difference | softhead "
        "| scikit-learn, the temperature | its whole fit | scikit-learn / softhead |"
    )
    print("|---" * 9 + "|")
    digits, labels = load_digits(return_X_y=True)
    model = softhead.SoftmaxClassifier().fit(digits[:1000] / 16.0, labels[:1000])
    temperatures("digits", model, digits[1000:] / 16.0, labels[1000:])
    for C, raw, _ in models:
        temperatures(f"CLINC150, C = {C:g}, validation", raw, X_val, y_val)
        temperatures(f"CLINC150, C = {C:g}, training", raw, X, y)
    if options.peers:
        peers(models[-1][1], X_test, y_test)


if __name__ == "__main__":
    main()
