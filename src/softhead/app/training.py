"""What the command line does with data and models: split, train, score, predict."""

import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from scipy import sparse
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline

from softhead.app.datasets import DataError, Dataset, KnownColumns
from softhead.app.evaluation import Evaluation, evaluation, rows_at_once
from softhead.calibration import fit_temperature, one_a_class, out_of_fold_logits, tempered
from softhead.cross_validation import SoftmaxClassifierCV
from softhead.estimator import SoftmaxClassifier
from softhead.tables import TableEncoder
from softhead.text import TextEncoder

_CALIBRATION_SIZE = 0.2  # part of the rows not tested on that is kept for the temperature


class Record(NamedTuple):
    """What the command line notes about a training in the model's file."""

    data: str
    target: str
    features: str | None  # the array, in npz files
    test_size: float
    seed: int
    rows: int
    held_out: np.ndarray  # mask of rows, packed
    fingerprint: str
    sweep: list[dict[str, Any]] | None = None  # a Sweep for each C; files of before this was kept have none
    calibration: dict[str, Any] | None = None  # a Calibration; None where the temperature was not fitted

    @classmethod
    def read(cls, value: object) -> "Record | None":
        """Return the record in a model file, None where there is none of ours: a program may have stored its own."""
        kinds: dict[str, Any] = {
            "features": (str, type(None)),
            "test_size": float,
            "seed": int,
            "rows": int,
            "held_out": np.ndarray,
            "sweep": (list, type(None)),
            "calibration": (dict, type(None)),
        }
        if not isinstance(value, dict):
            return None
        value = cls._field_defaults | value
        if value.keys() != set(cls._fields):
            return None
        if not all(isinstance(value[name], kinds.get(name, str)) for name in cls._fields):
            return None
        if not all(_is_sweep(point) for point in value["sweep"] or ()):
            return None
        if not (value["calibration"] is None or _is_calibration(value["calibration"])):
            return None
        record = cls(**value)
        packed = record.held_out
        fits = packed.dtype == np.uint8 and packed.ndim == 1 and 0 < record.rows <= 8 * len(packed) < record.rows + 8
        return record if fits else None

    def mask(self) -> np.ndarray:
        """Return which rows were held out."""
        return np.unpackbits(self.held_out, count=self.rows).astype(bool)


class Sweep(NamedTuple):
    """One C of a sweep: log loss (mean and standard deviation over the folds), largest relative gap, mean norm."""

    C: float
    log_loss: float
    log_loss_std: float
    gap: float
    coef_norm: float
    chosen: bool


def _is_sweep(point: object) -> bool:
    """Return whether a value from a model file is what was stored of a Sweep."""
    if not isinstance(point, dict) or point.keys() != set(Sweep._fields):
        return False
    return all(isinstance(point[name], bool if name == "chosen" else float) for name in Sweep._fields)


class Calibration(NamedTuple):
    """How a temperature was found: on rows "holdout" or by "cv" with so many folds, and on how many rows."""

    method: str
    folds: int
    rows: int


def _is_calibration(value: dict[str, object]) -> bool:
    """Return whether a value from a model file is what was stored of a Calibration."""
    kinds = {"method": str, "folds": int, "rows": int}
    return value.keys() == kinds.keys() and all(type(value[name]) is kind for name, kind in kinds.items())


class Trained(NamedTuple):
    """A fitted pipeline, the record for its file, its scores on the held-out rows and the seconds that it took."""

    model: Pipeline
    record: Record
    scores: Evaluation | None
    seconds: float
    sweep: list[Sweep]  # empty where C was given


Divide: TypeAlias = Callable[[Any, np.ndarray], tuple[Any, Any]]


def train(
    data: Dataset,
    *,
    classifier: SoftmaxClassifier | SoftmaxClassifierCV,
    encoder: TableEncoder | TextEncoder,
    test_size: float,
    seed: int,
    divide: Divide | None = None,
    calibrate: Literal["holdout", "cv"] | None = None,
    folds: int = 5,
) -> Trained:
    """Fit encoder and classifier on all rows but the held-out ones, and score the model on these.

    A `SoftmaxClassifierCV` chooses C among the rows that are not held out. So is a temperature, if asked for: with
    "holdout" on a fifth of them, to which nothing else is fitted; with "cv" on logits out of folds, each from an
    encoder and a classifier that were fitted to the other folds, at the C of the model. Where the rows are to be
    fitted on a cluster, `divide` gives them to its workers.
    """
    start = time.perf_counter()
    target, target_name = data.target, data.target_name
    if target is None or target_name is None:
        raise DataError("training needs a target")
    held_out = hold_out(target, test_size=test_size, seed=seed)
    kept = np.flatnonzero(~held_out)
    aside = kept[:0]
    if calibrate == "holdout":
        part = hold_out(target[kept], test_size=_CALIBRATION_SIZE, seed=seed)
        kept, aside = kept[~part], kept[part]
        if not len(aside):
            raise DataError(f"calibration: of {len(part)} rows none can be kept for it, since no class has two")
    elif calibrate == "cv" and (most := np.unique(target[kept], return_counts=True)[1].max()) < folds:
        raise DataError(f"calibration: {folds} folds need a class of {folds} rows to train on; the largest has {most}")
    try:
        encoder.fit(_rows(data.features, kept))
    except ValueError:
        encoder.fit(data.features)  # for a message that counts the rows of the whole table
        raise
    matrix = encoder.transform(data.features)
    rows, labels = matrix[kept], target[kept]
    classifier.fit(*((rows, labels) if divide is None else divide(rows, labels)))
    sweep: list[Sweep] = []
    if isinstance(classifier, SoftmaxClassifierCV):
        sweep = _sweep(classifier)
        classifier = classifier.best_estimator_
    if calibrate is not None:
        labels = target[aside if calibrate == "holdout" else kept]
        if calibrate == "holdout":
            logits, classes = one_a_class(classifier.decision_function(matrix[aside])), classifier.classes_
        else:
            cv = StratifiedKFold(folds, shuffle=True, random_state=seed)
            model = make_pipeline(encoder, classifier)
            logits, classes = out_of_fold_logits(model, _rows(data.features, kept), labels, cv=cv)
        classifier = tempered(classifier, fit_temperature(logits, labels, classes))
    model = make_pipeline(encoder, classifier)
    record = Record(
        data.name,
        target_name,
        data.features_name,
        test_size,
        seed,
        data.n_rows,
        np.packbits(held_out),
        fingerprint(matrix, target),
        [point._asdict() for point in sweep] or None,
        None if calibrate is None else Calibration(calibrate, folds if calibrate == "cv" else 0, len(labels))._asdict(),
    )
    scores = evaluation(classifier, matrix[held_out], target[held_out]) if held_out.any() else None
    return Trained(model, record, scores, time.perf_counter() - start, sweep)


def _sweep(search: SoftmaxClassifierCV) -> list[Sweep]:
    """Return what a search found, in increasing C."""
    losses, spread = -search.scores_.mean(axis=(0, 1)), search.scores_.std(axis=(0, 1))
    gaps, norms = search.gaps_.max(axis=(0, 1)), search.coef_norms_.mean(axis=(0, 1))
    columns = (search.Cs_, losses, spread, gaps, norms, search.Cs_ == search.C_)
    order = np.argsort(search.Cs_)
    return [Sweep(*point) for point in zip(*(column[order].tolist() for column in columns), strict=True)]


class Scored(NamedTuple):
    """The rows of a table that a model is scored on, encoded, and their places in it."""

    matrix: Any
    target: np.ndarray
    rows: np.ndarray
    held_out: bool  # whether these are the rows held out from the training on this very table


def evaluate(model: Pipeline, record: Record | None, data: Dataset) -> tuple[Evaluation, bool]:
    """Return the scores of a model on data, and whether these are only the held-out rows of its own training table."""
    scored = scored_rows(model, record, data)
    return evaluation(model[-1], scored.matrix, scored.target), scored.held_out


def scored_rows(model: Pipeline, record: Record | None, data: Dataset) -> Scored:
    """Return the rows that a model is scored on: of its own training table those held out, else all."""
    classifier, target = model[-1], data.target
    if target is None:
        raise DataError("evaluation needs a target")
    refuse_unknown(classifier, target, data.target_name)
    matrix = encoded(model, data)
    if record is not None and record.rows == data.n_rows and record.fingerprint == fingerprint(matrix, target):
        held_out = record.mask()
        if held_out.any():
            return Scored(matrix[held_out], target[held_out], np.flatnonzero(held_out), True)
    return Scored(matrix, target, np.arange(data.n_rows), False)


def refuse_unknown(classifier: SoftmaxClassifier, target: np.ndarray, name: str | None, first: int = 0) -> None:
    """Raise a DataError for the first label that a model does not know; `first` is the number of the first row."""
    unknown = ~np.isin(target, classifier.classes_)
    if unknown.any():
        row = int(unknown.argmax())
        raise DataError(
            f"row {first + row + 1}, column {name!r}: the label {target[row]!r} is not among the "
            f"{len(classifier.classes_)} classes that the model knows"
        )


def predictions(model: Pipeline, data: Dataset, *, probabilities: bool) -> Iterator[dict[str, np.ndarray]]:
    """Yield the columns of a prediction, some rows after the other; errors in the data come before any of them."""
    matrix, step = encoded(model, data), rows_at_once(model[-1])
    for start in range(0, data.n_rows, step):
        yield predicted(model[-1], matrix[start : start + step], probabilities=probabilities)


def predicted(classifier: SoftmaxClassifier, matrix: Any, *, probabilities: bool) -> dict[str, np.ndarray]:
    """Return what is predicted: labels, their probabilities and, if asked for, the probability of every class."""
    labels, proba = classifier.predict(matrix), classifier.predict_proba(matrix)
    columns = {"label": labels, "probability": proba.max(axis=1).astype(classifier.coef_.dtype, copy=False)}
    if probabilities:
        every = proba.astype(classifier.coef_.dtype, copy=False)
        columns |= {f"probability_{label}": every[:, c] for c, label in enumerate(classifier.classes_)}
    return columns


def known_columns(model: Pipeline) -> KnownColumns:
    """Return what a model knows about the columns of its data."""
    kinds = {"b": "bool", "i": "int", "u": "int", "U": "string", "O": "string"}
    classifier, encoder = model[-1], model[0]
    table = isinstance(encoder, TableEncoder) and encoder.feature_shape_ is None
    text = str(getattr(encoder, "feature_names_in_", ["text"])[0]) if isinstance(encoder, TextEncoder) else None
    kind: Any = kinds.get(classifier.classes_.dtype.kind)
    names = getattr(encoder, "feature_names_in_", None)
    used = None if names is None else frozenset(map(str, names))
    return KnownColumns(frozenset(encoder.categories_ if table else ()), kind, text, used)


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


def encoded(model: Pipeline, data: Dataset) -> Any:
    """Return the rows as the classifier takes them; without an encoder, a table must hold its features as numbers."""
    if len(model) > 1:
        return model[:-1].transform(data.features)
    if isinstance(data.features, np.ndarray):
        return data.features.reshape(len(data.features), -1)
    names = getattr(model[-1], "feature_names_in_", data.features.column_names)
    absent = [name for name in names if name not in data.features.column_names]
    if absent:
        raise DataError(f"no column {absent[0]!r}, which the model was trained on")
    table = data.features.select(list(names))
    wrong = [field.name for field in table.schema if not _holds_numbers(field.type)]
    if wrong:
        raise DataError(f"column {wrong[0]!r} holds no numbers, and this model file has no encoder for others")
    return table


def _holds_numbers(kind: Any) -> bool:
    """Return whether an Arrow type is one of numbers or bools."""
    from pyarrow import types

    return any(test(kind) for test in (types.is_integer, types.is_floating, types.is_boolean))


def _rows(features: Any, index: np.ndarray) -> Any:
    """Return the rows of a table or an array."""
    return features[index] if isinstance(features, np.ndarray) else features.take(index)
