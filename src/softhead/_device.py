"""The classifiers on tensors of another device: all that is as long as the rows stays there (see `softhead.torch`)."""

from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from softhead._problem import check_total, penalty
from softhead._tensors import is_tensor, sent, to_numpy
from softhead._weights import class_factors, factors_of_counts, sorted_labels
from softhead.linear.contract import Objective


def _kit() -> Any:
    """Return what works on tensors; who has one has loaded PyTorch."""
    return import_module("softhead.torch.classifier")


class DeviceRows(NamedTuple):
    """Checked rows in a tensor, with their classes and weights."""

    rows: Any  # TensorRows: what is fitted
    classes: np.ndarray
    weight: Any  # of each row, without the factors of the classes: a tensor, or None

    @classmethod
    def read(cls, estimator: Any, X: Any, y: Any, sample_weight: Any) -> "DeviceRows":
        """Check rows and labels, and set what an estimator notes about its features.

        Raises
        ------
        ValueError
            As for arrays in memory.
        """
        kit = _kit()
        X = kit.features(X)
        if is_tensor(y):
            classes, codes = kit.encoded(y, X)
            check_classification_targets(np.repeat(classes, 3))  # as labels, which repeat
        else:
            if y is None:
                raise ValueError("y: None; the labels of the rows are needed")
            y = column_or_1d(y, warn=True)
            if len(y) != len(X):
                raise ValueError(f"y: {len(y)} labels for {len(X)} rows of X")
            check_classification_targets(y)
            classes, places = np.unique(y, return_inverse=True)
            codes = kit.codes_on_device(places, X)
        weight = kit.weights(sample_weight, X)
        rows = kit.TensorRows(X, codes, weight, len(classes))
        counts = rows.weights_of_classes()
        factors = class_factors(estimator.class_weight, classes, classes, counts)
        check_total(classes, float(counts @ factors))
        _note_features(estimator, X, reset=True)
        return cls(rows.weighted(factors), classes, weight)

    @classmethod
    def read_distributions(
        cls, estimator: Any, X: Any, probabilities: Any, classes: Any, sample_weight: Any
    ) -> "DeviceRows":
        """Check rows and distributions over the classes, likewise."""
        kit = _kit()
        X = kit.features(X)
        targets, total = kit.distributions(probabilities, X)
        given = to_numpy("classes", classes) if is_tensor(classes) else classes
        labels = sorted_labels(given, targets.shape[1])
        weight = kit.weights(sample_weight, X)
        counts = kit.TensorRows(X, targets, 1.0 / total if weight is None else weight / total, len(labels))
        factors = factors_of_counts(estimator.class_weight, labels, counts.weights_of_classes())
        rows = kit.soft_rows(X, targets, total, weight, factors)
        check_total(labels, float(rows.weight.sum()))
        _note_features(estimator, X, reset=True)
        return cls(rows, labels, weight)

    def objective(self, *, C: float, fit_intercept: bool) -> Objective:
        """Return the objective of the rows."""
        objective: Objective = self.rows.objective(fit_intercept=fit_intercept)
        return objective.with_l2(penalty(C, objective.total_weight, len(self.classes)))


def apply_on_device(model: Any, method: str, X: Any) -> Any:
    """Return what a method of a fitted model says of rows in a tensor, beside them; classes that are strings in NumPy.

    The model's coefficients may be tensors or NumPy's.
    """
    kit = _kit()
    X = kit.features(X)
    _note_features(model, X, reset=False)
    head = X, model.coef_, model.intercept_
    if method == "predict":
        best = kit.best_classes(*head)
        if is_tensor(model.classes_):
            return model.classes_.to(X.device)[best]
        return sent(model.classes_[to_numpy("classes", best)], X)
    coef = model.coef_ if is_tensor(model.coef_) else kit.torch.as_tensor(model.coef_)
    dtype = kit.torch.promote_types(X.dtype, coef.dtype)
    if method == "decision_function":
        return kit.scores(*head, dtype)
    log = method == "predict_log_proba"
    return kit.probabilities_of_classes(*head, dtype, temperature=float(model.temperature_), log=log)


def _codes_among(classes: Any, y: Any, X: Any, *, strict: bool) -> Any:
    """Return the place of each row's label among the classes of a model, beside `X`: tensors or NumPy's, both.

    A label that is none of them has the place -1; a ValueError if `strict`.
    """
    labels = to_numpy("y", y) if is_tensor(y) else column_or_1d(y)
    known = to_numpy("classes_", classes) if is_tensor(classes) else classes
    if labels.shape != (len(X),):
        raise ValueError(f"y: shape {labels.shape}; one label a row is needed, shape ({len(X)},)")
    places = np.searchsorted(known, labels).clip(max=len(known) - 1)
    unknown = known[places] != labels
    if strict and unknown.any():
        raise ValueError(f"y: the label {labels[unknown].tolist()[0]!r} is not among the classes of the classifier")
    return _kit().codes_on_device(np.where(unknown, -1, places), X)


def accuracy_on_device(model: Any, X: Any, y: Any, sample_weight: Any) -> float:
    """Return the weighted share of the rows whose label a fitted model predicts."""
    kit = _kit()
    X = kit.features(X)
    _note_features(model, X, reset=False)
    best = kit.best_classes(X, model.coef_, model.intercept_)
    codes = _codes_among(model.classes_, y, X, strict=False)
    return float(kit.mean(best == codes, kit.weights(sample_weight, X)))


def log_likelihood_on_device(model: Any, X: Any, y: Any, sample_weight: Any, least: float) -> float:
    """Return the mean log-probability of the rows' labels, of which none counts as less than `least`."""
    kit = _kit()
    X = kit.features(X)
    _note_features(model, X, reset=False)
    found = kit.surprises(X, _codes_among(model.classes_, y, X, strict=True), model.coef_, model.intercept_)
    return float(kit.mean(found.clamp(min=least), kit.weights(sample_weight, X)))


def _note_features(estimator: Any, X: Any, *, reset: bool) -> None:
    """Let an estimator note the number of features, or compare it with what it noted."""
    validate_data(estimator, np.empty((1, X.shape[1])), skip_check_array=True, reset=reset)
