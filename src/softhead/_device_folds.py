"""Cross-validation on tensors of another device: folds are copies of their rows there.

A copy of four fifths of 1.28 million rows of 768 float32 numbers is 3.1 GB, read and written once; rows of weight 0 in
one shared tensor would make each of the fold's passes a quarter dearer.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import check_cv

from softhead._device import DeviceRows, accuracy_on_device, log_likelihood_on_device
from softhead._scoring import LEAST, Scorer, scorer_of
from softhead._tensors import is_foreign, on_host, to_numpy
from softhead.estimator import SoftmaxClassifier
from softhead.linear.contract import Objective


class DeviceFolds(NamedTuple):
    """Checked rows in a tensor, and their labels in NumPy, which say how rows are split."""

    all: DeviceRows
    y: np.ndarray

    @classmethod
    def read(cls, estimator: Any, X: Any, y: Any, sample_weight: Any) -> "DeviceFolds":
        """Return checked rows; see `DeviceRows.read`."""
        read = DeviceRows.read(estimator, X, y, sample_weight)
        return cls(read, read.classes[to_numpy("y", read.rows.targets)])

    @property
    def classes(self) -> np.ndarray:
        """The sorted labels."""
        return self.all.classes

    def objective(self, *, C: float, fit_intercept: bool) -> Objective:
        """Return the objective of the rows."""
        return self.all.objective(C=C, fit_intercept=fit_intercept)

    def folds(self, cv: Any, groups: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the rows to fit and those to score of each fold; a splitter sees their labels, not their features."""
        features, groups = np.zeros((len(self.y), 1)), to_numpy("groups", groups) if is_foreign(groups) else groups
        yield from check_cv(cv, self.y, classifier=True).split(features, self.y, groups)

    def fold(
        self, members: tuple[np.ndarray, np.ndarray], scoring: str | Scorer | None
    ) -> tuple[DeviceRows, Callable[[SoftmaxClassifier], float], int]:
        """Return a copy of the rows to fit, and what scores a model on the others, with their number."""
        train, test = members
        rows = self.all.rows
        held = rows._replace(weight=self.all.weight).take(test)
        X, y, weight = held.X, self.y[test], held.weight
        fitted = self.all._replace(rows=rows.take(train), weight=None)
        if scoring in ("neg_log_loss", "accuracy", None):
            return fitted, lambda model: score_on_device(scoring, model, X, y, weight), len(y)
        score = scorer_of(scoring, self.classes)  # any other takes NumPy's arrays: a copy of the rows to score
        on_cpu = to_numpy("X", X), y, None if weight is None else to_numpy("sample_weight", weight)
        return fitted, lambda model: score(model, *on_cpu), len(y)


def score_on_device(scoring: str | Scorer | None, model: SoftmaxClassifier, X: Any, y: Any, weight: Any) -> float:
    """Return the score of a fitted model: the log loss and the accuracy beside the rows, any other on the host."""
    if scoring == "neg_log_loss":
        return log_likelihood_on_device(model, X, y, weight, LEAST)
    if scoring in ("accuracy", None):
        return accuracy_on_device(model, X, y, weight)
    return score_on_host(scoring, model, X, y, weight)


def score_on_host(scoring: str | Scorer | None, model: SoftmaxClassifier, X: Any, y: Any, weight: Any) -> float:
    """Return the score of a fitted model from NumPy's arrays, which tensors become."""
    named = (("X", X), ("y", y), ("sample_weight", weight))
    X, y, weight = (to_numpy(name, value) if is_foreign(value) else value for name, value in named)
    host = on_host(model)
    return float(scorer_of(scoring, host.classes_)(host, X, np.asarray(y), weight))
