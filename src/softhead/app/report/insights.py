"""What a reader of a report asks beyond the scores: who is taken for whom, which mistakes are bold, what counts."""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from softhead.app.evaluation import Outcomes
from softhead.app.report.rasters import image_shape
from softhead.estimator import SoftmaxClassifier
from softhead.tables import TableEncoder
from softhead.text import TextEncoder


class Confusion(NamedTuple):
    """How many rows of one class were taken for another, and their share of the rows of that class."""

    truth: int
    predicted: int
    rows: int
    share: float


class Named(NamedTuple):
    """A feature by its name, with a coefficient or a contribution to a logit."""

    name: str
    value: float


def confusion_counts(found: Outcomes, n_classes: int) -> np.ndarray:
    """Return the rows of every pair of true and predicted class, of shape (n_classes, n_classes)."""
    pairs = found.true * n_classes + found.predicted
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def largest_confusions(counts: np.ndarray, most: int) -> list[Confusion]:
    """Return the pairs of classes that are confused most often, the most frequent first."""
    wrong = counts * ~np.eye(len(counts), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [(int(place) // len(counts), int(place) % len(counts)) for place in order]
    totals = counts.sum(axis=1)
    return [Confusion(i, j, int(counts[i, j]), float(counts[i, j] / totals[i])) for i, j in pairs if wrong[i, j]]


def boldest_mistakes(found: Outcomes, most: int) -> np.ndarray:
    """Return the positions of wrong predictions, the most confident first."""
    wrong = np.flatnonzero(~found.correct)
    return wrong[np.argsort(-found.confidence[wrong], kind="stable")[:most]]


def class_weights(classifier: SoftmaxClassifier) -> np.ndarray:
    """Return a row of coefficients for each class; two classes share one vector, half of it each."""
    coef = classifier.coef_
    return np.concatenate([-coef, coef]) / 2 if len(coef) == 1 else coef


def feature_names(encoder: Any, classifier: SoftmaxClassifier) -> list[str]:
    """Return the names of the features that coefficients belong to."""
    if encoder is not None:
        return [str(name) for name in encoder.get_feature_names_out()]
    names = getattr(classifier, "feature_names_in_", None)
    return [f"x{i}" for i in range(classifier.n_features_in_)] if names is None else [str(name) for name in names]


def pixel_shape(encoder: Any) -> tuple[int, ...] | None:
    """Return the shape of the images that an encoder takes, None where rows are none."""
    shape = image_shape(encoder.feature_shape_) if isinstance(encoder, TableEncoder) else None
    # A pixel that had missing values has a second column: coefficients are no image then.
    return shape if shape and len(encoder.get_feature_names_out()) == int(np.prod(shape)) else None


def have_names(encoder: Any, classifier: SoftmaxClassifier) -> bool:
    """Return whether features have names of their own, which tell a reader something."""
    if isinstance(encoder, TextEncoder):
        return True
    return getattr(classifier if encoder is None else encoder, "feature_names_in_", None) is not None


def strongest(weights: np.ndarray, names: list[str], most: int) -> list[Named]:
    """Return the largest coefficients of one class by absolute value, in falling order of their values."""
    most = min(most, len(weights))
    largest = np.argpartition(-np.abs(weights), most - 1)[:most]
    order = largest[np.lexsort((largest, -weights[largest]))]
    return [Named(names[i], float(weights[i])) for i in order if weights[i] != 0.0]


def reasons(weights: np.ndarray, row: Any, truth: int, predicted: int, names: list[str], most: int) -> list[Named]:
    """Return what spoke most for the predicted class and against the true one: parts of the difference of logits."""
    x = row.toarray().ravel() if sparse.issparse(row) else np.asarray(row).ravel()
    parts = (weights[predicted].astype(np.float64) - weights[truth]) * x
    order = np.argsort(-parts, kind="stable")[:most]
    return [Named(names[i], float(parts[i])) for i in order if parts[i] > 0.0]
