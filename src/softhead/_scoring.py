"""What a choice among fits maximises: scikit-learn's scorers, and the log loss from log-probabilities."""

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

import numpy as np
from sklearn.metrics import check_scoring, make_scorer
from sklearn.utils import check_consistent_length, column_or_1d

from softhead.estimator import SoftmaxClassifier

SCORED_AT_ONCE = 65_536  # rows whose probabilities are held at one time
LEAST = float(np.log(np.finfo(np.float64).eps))  # scikit-learn's clip for float64
Scorer = Callable[..., float]


def scorer_of(scoring: str | Scorer | None, classes: np.ndarray) -> Callable[..., float]:
    """Return a function of a classifier, rows, labels and weights or None."""
    if scoring == "neg_log_loss":
        return neg_log_loss
    if not (scoring is None or isinstance(scoring, str) or callable(scoring)):
        raise TypeError(f"scoring: {scoring!r}; accepted are one name of scikit-learn's, a scorer, or None")
    scorer = check_scoring(SoftmaxClassifier(), scoring=scoring)
    # Metrics that can be told of classes which a fold lacks are told, as scikit-learn's own search does.
    metric = getattr(scorer, "_score_func", None)
    if metric is not None:
        given, known = dict(scorer._kwargs), signature(metric).parameters
        if "labels" in known:
            given.setdefault("labels", classes)
            if len(classes) == 2 and "pos_label" in known:
                given.setdefault("pos_label", classes[1])
            scorer = make_scorer(
                metric, greater_is_better=scorer._sign > 0, response_method=scorer._response_method, **given
            )
    parameters = signature(scorer).parameters
    weighted = "sample_weight" in parameters or any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values())

    def score(model: SoftmaxClassifier, X: Any, y: np.ndarray, sample_weight: np.ndarray | None) -> float:
        if sample_weight is None or not weighted:
            return float(scorer(model, X, y))
        return float(scorer(model, X, y, sample_weight=sample_weight))

    return score


def neg_log_loss(model: SoftmaxClassifier, X: Any, y: np.ndarray, sample_weight: np.ndarray | None) -> float:
    """Return the mean log-probability of the true classes, of which none counts as less than that of 2.2e-16."""
    y = column_or_1d(y)
    check_consistent_length(X, y, sample_weight)
    n_rows = len(y)
    total = n_rows if sample_weight is None else np.sum(sample_weight)
    if not total > 0.0:
        raise ValueError(f"the {n_rows} rows to score have weights of the sum {total:g}; a positive sum is needed")
    codes = np.searchsorted(model.classes_, y).clip(max=len(model.classes_) - 1)
    if (unknown := model.classes_[codes] != y).any():
        raise ValueError(f"y: the label {y[unknown].tolist()[0]!r} is not among the classes that the classifier knows")
    sliced = hasattr(X, "shape") and not hasattr(X, "iloc")
    log_p = np.empty(n_rows)
    for start in range(0, n_rows, SCORED_AT_ONCE if sliced else n_rows):
        rows = slice(start, start + SCORED_AT_ONCE) if sliced else slice(None)
        part = model.predict_log_proba(X[rows] if sliced else X)
        log_p[rows] = part[np.arange(len(part)), codes[rows]]
    return float(np.average(np.maximum(log_p, LEAST), weights=sample_weight))
