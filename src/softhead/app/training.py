"""What the command line does with data and models: split, train, score, predict."""

import hashlib
import time
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.pipeline import Pipeline, make_pipeline

from softhead.app.datasets import DataError, Dataset, KnownColumns
from softhead.calibration import expected_calibration_error
from softhead.estimator import SoftmaxClassifier
from softhead.tables import TableEncoder

_SCORED_AT_ONCE = 65_536  # rows whose probabilities are held at one time


class Scores(NamedTuple):
    """Means over rows; log loss in nats, calibration error of the top label over 15 bins."""

    rows: int
    accuracy: float
    log_loss: float
    calibration_error: float


class Trained(NamedTuple):
    """A fitted pipeline, the record for its file, its scores on the held-out rows and the seconds that it took."""

    model: Pipeline
    record: dict[str, Any]
    scores: Scores | None
    seconds: float


def train(
    data: Dataset,
    *,
    classifier: SoftmaxClassifier,
    encoder: TableEncoder,
    test_size: float,
    seed: int,
) -> Trained:
    """Fit encoder and classifier on all rows but the held-out ones, and score the model on these."""
    start = time.perf_counter()
    target = data.target
    if target is None:
        raise DataError("training needs a target")
    held_out = hold_out(target, test_size=test_size, seed=seed)
    kept = np.flatnonzero(~held_out)
    matrix = encoder.fit(_rows(data.features, kept)).transform(data.features)
    classifier.fit(matrix[kept], target[kept])
    model = make_pipeline(encoder, classifier)
    record = {
        "data": data.name,
        "target": data.target_name,
        "features": data.features_name,
        "test_size": test_size,
        "seed": seed,
        "rows": data.n_rows,
        "held_out": np.packbits(held_out),
        "fingerprint": fingerprint(matrix, target),
    }
    scores = score(classifier, matrix[held_out], target[held_out]) if held_out.any() else None
    return Trained(model, record, scores, time.perf_counter() - start)


def evaluate(model: Pipeline, record: dict[str, Any] | None, data: Dataset) -> tuple[Scores, bool]:
    """Return the scores of a model on data, and whether these are only the held-out rows of its own training table."""
    encoder, classifier = model[:-1], model[-1]
    target = data.target
    if target is None:
        raise DataError("evaluation needs a target")
    unknown = ~np.isin(target, classifier.classes_)
    if unknown.any():
        row = int(unknown.argmax())
        raise DataError(
            f"row {row + 1}, column {data.target_name!r}: the label {target[row]!r} is not among the "
            f"{len(classifier.classes_)} classes that the model knows"
        )
    matrix = encoder.transform(data.features) if len(encoder) else data.features
    same = record is not None and record["rows"] == data.n_rows and record["fingerprint"] == fingerprint(matrix, target)
    if same and record is not None and record["held_out"].any():
        held_out = np.unpackbits(record["held_out"], count=data.n_rows).astype(bool)
        return score(classifier, matrix[held_out], target[held_out]), True
    return score(classifier, matrix, target), False


def score(classifier: SoftmaxClassifier, matrix: Any, target: np.ndarray) -> Scores:
    """Return the mean scores of a classifier on encoded rows and labels that it knows."""
    codes = np.searchsorted(classifier.classes_, target.astype(classifier.classes_.dtype))
    losses, confidence = np.empty((2, len(codes)))
    correct = np.empty(len(codes), bool)
    for start in range(0, len(codes), _SCORED_AT_ONCE):
        rows = slice(start, start + _SCORED_AT_ONCE)
        log_proba = classifier.predict_log_proba(matrix[rows])
        losses[rows] = -log_proba[np.arange(len(log_proba)), codes[rows]]
        confidence[rows] = np.exp(log_proba.max(axis=1))
        correct[rows] = classifier.classes_[codes[rows]] == classifier.predict(matrix[rows])
    return Scores(
        len(codes), float(correct.mean()), float(losses.mean()), expected_calibration_error(confidence, correct)
    )


def predictions(model: Pipeline, data: Dataset, *, probabilities: bool) -> dict[str, np.ndarray]:
    """Return the columns of a prediction: label, its probability and, if asked for, the probability of every class."""
    encoder, classifier = model[:-1], model[-1]
    matrix = encoder.transform(data.features) if len(encoder) else data.features
    labels = classifier.predict(matrix)
    top = np.empty(len(labels), classifier.coef_.dtype)
    every = np.empty((len(labels), len(classifier.classes_)), top.dtype) if probabilities else None
    for start in range(0, len(labels), _SCORED_AT_ONCE):
        rows = slice(start, start + _SCORED_AT_ONCE)
        proba = classifier.predict_proba(matrix[rows])
        top[rows] = proba.max(axis=1)
        if every is not None:
            every[rows] = proba
    columns = {"label": labels, "probability": top}
    if every is not None:
        columns |= {f"probability_{label}": every[:, c] for c, label in enumerate(classifier.classes_)}
    return columns


def known_columns(model: Pipeline) -> KnownColumns:
    """Return what a model knows about the columns of its data."""
    kinds = {"b": "bool", "i": "int", "u": "int", "U": "string", "O": "string"}
    classifier, encoder = model[-1], model[0]
    table = isinstance(encoder, TableEncoder) and encoder.feature_shape_ is None
    return KnownColumns(frozenset(encoder.categories_ if table else ()), kinds.get(classifier.classes_.dtype.kind))  # type: ignore[arg-type]


def hold_out(target: np.ndarray, *, test_size: float, seed: int) -> np.ndarray:
    """Choose a stratified sample of rows to test on, as a mask.

    Rows are put in an order that is random within each class, and every (1 / test_size)-th is taken, so that each class
    gives its share up to one row. A class that would give all its rows keeps one.
    """
    held_out = np.zeros(len(target), bool)
    if test_size == 0.0:
        return held_out
    _, codes = np.unique(target, return_inverse=True)
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(target)), codes))
    wanted = max(1, round(test_size * len(target)))
    chosen = order[((np.arange(wanted) + rng.random()) * len(target) / wanted).astype(np.intp)]
    held_out[chosen] = True
    emptied = np.bincount(codes) == np.bincount(codes[held_out], minlength=codes.max() + 1)
    first = order[np.flatnonzero(np.diff(codes[order], prepend=-1))]
    held_out[first[emptied]] = False
    return held_out


def fingerprint(matrix: Any, target: np.ndarray) -> str:
    """Return a digest of encoded rows and labels, by which a table is known again whatever its file's format."""
    digest = hashlib.sha256()
    parts = (matrix.indptr, matrix.indices, matrix.data) if sparse.issparse(matrix) else (matrix,)
    for part in parts:
        digest.update(np.ascontiguousarray(part).view(np.uint8))
    labels = target.tolist() if target.dtype == object else target
    digest.update(
        "\0".join(labels).encode() if isinstance(labels, list) else np.ascontiguousarray(labels).view(np.uint8)
    )
    return digest.hexdigest()


def _rows(features: Any, index: np.ndarray) -> Any:
    """Return the rows of a table or an array."""
    return features[index] if isinstance(features, np.ndarray) else features.take(index)
