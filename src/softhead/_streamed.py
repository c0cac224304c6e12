"""The classifier on rows that are not in memory: on a cluster (`_lazy`), on a device (`_device`), or in a source."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from softhead._device import DeviceRows, accuracy_on_device, apply_on_device
from softhead._lazy import LazyRows, bare_model, lazily, lazy_accuracy
from softhead._problem import check_total, penalty
from softhead._series import is_lazy
from softhead._tensors import is_on_device
from softhead._weights import class_factors
from softhead.linear.contract import Objective
from softhead.linear.stream import StreamedObjective, Survey, survey
from softhead.rows.source import RowSource


def is_elsewhere(X: Any) -> bool:
    """Return whether `X` is a source, a dask collection, or a tensor of another device than the CPU."""
    return isinstance(X, RowSource) or is_lazy(X) or is_on_device(X)


def read_elsewhere(estimator: Any, X: Any, y: Any, sample_weight: Any) -> "StreamedRows | LazyRows | DeviceRows":
    """Return checked rows with their classes, which give an objective."""
    if is_on_device(X):
        return DeviceRows.read(estimator, X, y, sample_weight)
    return (LazyRows if is_lazy(X) else StreamedRows).read(estimator, X, y, sample_weight)


def apply_elsewhere(model: Any, method: str, X: Any) -> Any:
    """Return what a method of a fitted model says of the rows: an array, or dask's or a tensor where they are."""
    if is_on_device(X):
        return apply_on_device(model, method, X)
    return lazily(model, method, X) if is_lazy(X) else over_blocks(model, method, X)


class StreamedRows(NamedTuple):
    """A source that has been read once, and the factors of its classes."""

    source: RowSource
    survey: Survey
    factors: np.ndarray

    @classmethod
    def read(cls, estimator: Any, source: RowSource, y: Any, sample_weight: Any) -> "StreamedRows":
        """Check all rows of a source, and set what an estimator notes about its features.

        Raises
        ------
        ValueError
            As for arrays in memory; what is wrong in a block is named by the numbers of the block and of the row.
        """
        for name, value in (("y", y), ("sample_weight", sample_weight)):
            if value is not None:
                raise ValueError(f"{name}: got {type(value).__name__}; those of a RowSource are in its blocks")
        found = survey(source.blocks, source.classes)
        check_classification_targets(np.tile(found.classes, 3))  # as labels, which repeat
        factors = class_factors(estimator.class_weight, found.classes, found.classes, found.weights)
        check_total(found.classes, float(found.weights @ factors))
        validate_data(estimator, np.empty((1, found.n_features)), skip_check_array=True)
        if source.feature_names is not None:
            estimator.feature_names_in_ = np.array(source.feature_names, object)
        return cls(source, found, factors)

    @property
    def classes(self) -> np.ndarray:
        """The sorted labels."""
        return self.survey.classes

    def objective(self, *, C: float, fit_intercept: bool) -> Objective:
        """Return the objective of the rows."""
        total, n_classes = float(self.survey.weights @ self.factors), len(self.classes)
        return StreamedObjective(
            self.source.blocks,
            self.survey,
            factors=self.factors,
            l2=penalty(C, total, n_classes),
            fit_intercept=fit_intercept,
        )


def over_blocks(model: Any, method: str, source: RowSource) -> np.ndarray:
    """Return what a method of a fitted model says of all rows of a source: one array, as long as they are."""
    bare = _bare(model, source)
    parts = [getattr(bare, method)(X) for X, _, _ in source]
    if not parts:
        raise ValueError("the source has no rows")
    return np.concatenate(parts)


def accuracy(model: Any, source: Any, y: Any, sample_weight: Any) -> float:
    """Return the weighted share of the rows whose label a fitted model predicts."""
    if is_on_device(source):
        return accuracy_on_device(model, source, y, sample_weight)
    if is_lazy(source):
        return lazy_accuracy(model, source, y, sample_weight)
    bare = _bare(model, source)
    right = total = 0.0
    for number, (X, y, weight) in enumerate(source):
        if y is None:
            raise ValueError(f"block {number} has no labels: a score needs them")
        if (y.dtype.kind in "OU") != (model.classes_.dtype.kind in "OU"):
            raise ValueError(f"block {number}: labels of type {y.dtype}; those of the model are {model.classes_.dtype}")
        weight = np.ones(len(y)) if weight is None else weight
        right, total = right + float(weight @ (bare.predict(X) == y)), total + float(weight.sum())
    if not total > 0.0:
        raise ValueError("the source has no rows with a positive weight")
    return right / total


def _bare(model: Any, source: RowSource) -> Any:
    """Return the model without the names of its features, which blocks do not have, once those of the source agree."""
    names = getattr(model, "feature_names_in_", None)
    if names is not None and source.feature_names is not None and list(names) != source.feature_names:
        raise ValueError(
            f"X: the source has the features {source.feature_names[:5]}, the model was fitted to {list(names[:5])}"
        )
    return bare_model(model)
