"""What a task does with a chunk of rows, where these lie: checks, labels to codes, its share of each sum over rows.

Everything here is a pure function of its arguments, so that a chunk that is lost with its worker is made again, to the
last bit. Kernels and BLAS take one thread each: the tasks are what runs side by side.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from softhead.kernels.threads import num_threads
from softhead.linear import blas
from softhead.linear.labels import LabelCodes, unique_labels
from softhead.linear.summed import Part, PartSums, Sums, add

_SCORED_AT_ONCE = 8192  # rows
_LEAST = float(np.log(np.finfo(np.float64).eps))  # of log-probabilities that are scored, as scikit-learn has it


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows: features, labels or their codes, and weights."""

    index: int
    X: Any
    y: np.ndarray
    weight: np.ndarray
    given: np.ndarray  # the weight before it was multiplied by the factor of the class

    def __sizeof__(self) -> int:
        """Return the bytes of the arrays: by them a scheduler judges what it costs to move a chunk."""
        of_rows = self.X.nbytes if isinstance(self.X, np.ndarray) else self.X.data.nbytes + self.X.indices.nbytes
        return int(of_rows + self.y.nbytes + self.weight.nbytes)


class Survey(NamedTuple):
    """What is to be known of chunks before a fit: rows and columns of each, the dtype, the weight of every label."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    dtype: np.dtype
    labels: np.ndarray
    weights: np.ndarray


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, BLAS included: the worker has others for other tasks."""
    with num_threads(1), blas.one_thread():
        yield


def read(index: int, X: Any, y: Any, weight: Any) -> Chunk:
    """Return a checked chunk; float32 stays, all other numbers become float64, and sparse rows CSR.

    Raises
    ------
    ValueError
        With the number of the chunk, and that of the row in it, both from 0.
    """
    X = _matrix(index, X)
    n_rows = X.shape[0]
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (n_rows,):
        raise ValueError(f"y: chunk {index} has the shape {labels.shape}; X has {n_rows} rows there")
    if labels.dtype.kind not in "biufUSO":
        raise ValueError(f"y: chunk {index} is of the dtype {labels.dtype}; accepted are strings, numbers and booleans")
    _refuse(_missing(y, labels), f"y: chunk {index} has no label")
    if labels.dtype.kind == "f":
        _refuse(np.isinf(labels), f"y: chunk {index} has an infinite label")
    if weight is None:
        weight = np.ones(n_rows)
        return Chunk(index, X, labels, weight, weight)
    weight = np.asarray(weight, np.float64)
    if weight.shape != (n_rows,):
        raise ValueError(f"sample_weight: chunk {index} has the shape {weight.shape}; X has {n_rows} rows there")
    wrong = ~(np.isfinite(weight) & (weight >= 0.0))
    _refuse(wrong, f"sample_weight: chunk {index} has a weight that is negative or not finite")
    return Chunk(index, X, labels, weight, weight)


def matrix(X: Any) -> Any:
    """Return rows as a C-contiguous array, or as CSR without repeated entries, of float32 or float64."""
    if hasattr(X, "tocsr"):
        X = sparse.csr_array(X.tocsr())
        X = X if X.dtype == np.float32 else X.astype(np.float64)
        X.sum_duplicates()
        return X
    if hasattr(X, "to_numpy") and not isinstance(X, np.ndarray):
        single = all(dtype == np.float32 for dtype in X.dtypes)
        X = X.to_numpy(np.float32 if single else np.float64, na_value=np.nan)
    X = np.asarray(X)
    return np.ascontiguousarray(X, X.dtype if X.dtype == np.float32 else np.float64)


def _matrix(index: int, X: Any) -> Any:
    """Return the rows of a chunk, which are finite."""
    try:
        if np.iscomplexobj(X):
            raise TypeError("complex numbers are not accepted")
        X = matrix(X)
    except (TypeError, ValueError) as error:
        raise ValueError(f"X: chunk {index} is not a matrix of numbers: {error}") from error
    if X.ndim != 2:
        raise ValueError(f"X: chunk {index} has {X.ndim} dimensions; rows and columns are needed")
    if not X.shape[1]:
        raise ValueError(f"X: chunk {index} has no columns")
    if isinstance(X, np.ndarray):
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(np.sum(X))  # without an array of their size
        if not finite:
            _refuse(np.asarray(~np.isfinite(X).all(axis=1)), f"X: chunk {index} has a NaN or an infinite number")
    else:
        wrong = np.zeros(X.shape[0], bool)
        wrong[np.repeat(np.arange(len(wrong)), np.diff(X.indptr))[~np.isfinite(X.data)]] = True
        _refuse(wrong, f"X: chunk {index} has a NaN or an infinite number")
    return X


def _missing(y: Any, labels: np.ndarray) -> np.ndarray:
    if hasattr(y, "isna"):
        return np.asarray(y.isna(), bool).reshape(len(labels))
    if labels.dtype == object:
        return np.array([label is None or label != label for label in labels], bool)
    return np.asarray(labels != labels)


def _refuse(wrong: np.ndarray, what: str) -> None:
    if wrong.any():
        raise ValueError(f"{what} in row {int(wrong.argmax())} (rows of the chunk counted from 0)")


def survey(chunk: Chunk) -> Survey:
    """Return what a fit asks of a chunk."""
    try:
        labels, codes = unique_labels(chunk.y)
    except TypeError as error:
        raise ValueError(f"y: chunk {chunk.index} has labels of kinds that have no common order") from error
    weights = np.bincount(codes, chunk.weight, len(labels))
    return Survey((len(chunk.y),), (chunk.X.shape[1],), chunk.X.dtype, labels, weights)


def merge(surveys: Sequence[Survey]) -> Survey:
    """Return the survey of the chunks of all surveys, in their order."""
    named = [survey for survey in surveys if len(survey.labels)]  # a chunk without rows has no kind of labels
    labels, weights = (named or surveys)[0][3:]
    for survey in named[1:]:
        kinds = {labels.dtype.kind in "US", survey.labels.dtype.kind in "US"}
        if len(kinds) > 1 and "O" not in labels.dtype.kind + survey.labels.dtype.kind:
            raise ValueError(f"y: some chunks have labels of {labels.dtype}, others of {survey.labels.dtype}")
        try:
            labels, codes = np.unique(np.concatenate([labels, survey.labels]), return_inverse=True)
        except TypeError as error:
            raise ValueError("y: the chunks have labels of kinds that have no common order") from error
        weights = np.bincount(codes, np.concatenate([weights, survey.weights]), len(labels))
    return Survey(
        tuple(n for survey in surveys for n in survey.rows),
        tuple(n for survey in surveys for n in survey.columns),
        np.result_type(*(survey.dtype for survey in surveys)),
        labels,
        weights,
    )


def encode(chunk: Chunk, classes: np.ndarray, factors: np.ndarray, dtype: str) -> Chunk:
    """Return the chunk with codes for labels, weights times the factors of their classes, and features in a dtype.

    Raises
    ------
    ValueError
        Where a label is not among the classes: then the rows are not those that were looked at before.
    """
    codes = LabelCodes(classes)(chunk.y)
    if (codes < 0).any():
        row = int((codes < 0).argmax())
        raise ValueError(
            f"y: chunk {chunk.index} has the label {chunk.y[row]!r} in row {row}, which is not among the "
            f"{len(classes)} classes"
        )
    weight = chunk.weight if (factors == 1.0).all() else chunk.weight * factors[codes]
    return Chunk(chunk.index, chunk.X.astype(dtype, copy=False), codes, weight, chunk.weight)


def select(chunk: Chunk, start: int, stride: int, *, others: bool = False) -> Chunk:
    """Return the rows `start`, `start` + `stride`, ... of a chunk, or all the others."""
    rows: Any = slice(start, None, stride)
    if others:
        rows = np.arange(len(chunk.y)) % stride != start
    return Chunk(chunk.index, chunk.X[rows], *(array[rows] for array in (chunk.y, chunk.weight, chunk.given)))


def concatenate(chunks: Sequence[Chunk]) -> Chunk:
    """Return the rows of all chunks as one."""
    first = chunks[0].X
    rows = [chunk.X for chunk in chunks]
    X = np.concatenate(rows) if isinstance(first, np.ndarray) else sparse.csr_array(sparse.vstack(rows))
    columns = zip(*((chunk.y, chunk.weight, chunk.given) for chunk in chunks), strict=True)
    return Chunk(0, X, *(np.concatenate(column) for column in columns))


def nbytes(chunk: Chunk) -> int:
    """Return the bytes of a chunk."""
    return sys.getsizeof(chunk)


def part_sums(chunk: Chunk, function: PartSums, sums: Sums, coef: np.ndarray | None) -> tuple[Any, ...]:
    """Return what a chunk adds to the sums over all rows."""
    with one_thread():
        return function(Part(chunk.X, chunk.y, chunk.weight), sums, coef)


def add_all(parts: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """Return the sums of parts, added in their order."""
    return reduce(add, parts)


def weights_of_classes(chunk: Chunk, n_classes: int) -> tuple[np.ndarray]:
    """Return the sum of the weights of each class."""
    return (np.bincount(chunk.y, chunk.weight, n_classes),)


def score(chunk: Chunk, model: Any, accuracy: bool) -> tuple[float, float]:
    """Return the weighted sum of the true classes' log-probabilities, or of correct predictions, and the weight."""
    total = 0.0
    with one_thread():
        for start in range(0, len(chunk.y), _SCORED_AT_ONCE):
            rows = slice(start, start + _SCORED_AT_ONCE)
            y = chunk.y[rows]
            if accuracy:
                good = model.predict(chunk.X[rows]) == model.classes_[y]
            else:
                good = np.maximum(model.predict_log_proba(chunk.X[rows])[np.arange(len(y)), y], _LEAST)
            total += float(chunk.given[rows] @ good)
    return total, float(chunk.given.sum())


def predict(X: Any, model: Any, method: str) -> np.ndarray:
    """Return what a method of a model says of rows."""
    with one_thread():
        rows = matrix(X)
        if not rows.shape[0]:  # a filter may leave a chunk so: the answer for none has the dtype of one for a row
            return predict(np.zeros((1, rows.shape[1]), rows.dtype), model, method)[:0]
        result: np.ndarray = getattr(model, method)(rows)
        return result
