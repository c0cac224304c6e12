"""Rows that come block by block, anew for each pass: checked, surveyed once, and summed with reading ahead."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from softhead.linear.columns import Columns
from softhead.linear.labels import LabelCodes, unique_labels
from softhead.linear.objective import LinearSoftmaxObjective
from softhead.linear.prefetch import prefetching
from softhead.linear.summed import Part, SummedObjective, Sums, add

_SAMPLE_BYTES = 2**26  # of rows kept in memory for the metric


class Block(NamedTuple):
    """Consecutive rows: the number of the block and of its first row, from 0, features, labels and weights."""

    number: int
    first: int
    X: Any
    y: np.ndarray | None
    weight: np.ndarray | None

    def place(self, row: int) -> str:
        """Say where a row of the block is."""
        return f"block {self.number}, row {self.first + row} (counted from 0)"


def checked_blocks(items: Iterable[Any]) -> Iterator[Block]:
    """Yield the blocks that ``(X, y)`` or ``(X, y, weight)`` make, of like width, in float32 or float64.

    Blocks without rows are left out.

    Raises
    ------
    ValueError
        With the number of the block and of the row. Whether numbers are finite is not looked at.
    """
    first, width = 0, None
    iterator = iter(items)
    index = 0
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except (OSError, ValueError) as error:
            raise ValueError(f"block {index}, from row {first} (counted from 0) on, cannot be read: {error}") from error
        X, y, weight = (*item, None)[:3] if isinstance(item, tuple) and 1 < len(item) < 4 else (None,) * 3
        if X is None:
            raise ValueError(f"block {index}: got {type(item).__name__}; accepted are (X, y) and (X, y, sample_weight)")
        block = Block(index, first, _matrix(X, index), y, weight)
        if not block.X.shape[1]:
            raise ValueError(f"block {index}: no features")
        if width is not None and block.X.shape[1] != width:
            raise ValueError(f"{block.place(0)}: {block.X.shape[1]} features; the blocks before have {width}")
        block = block._replace(y=_labels(block), weight=_weights(block))
        width = block.X.shape[1]
        index, first = index + 1, first + block.X.shape[0]
        if block.X.shape[0]:
            yield block


def _matrix(X: Any, index: int) -> Any:
    """Return rows as an array in C order, or in CSR without repeated entries; the caller's arrays stay as they are."""
    if isinstance(X, Columns):
        return X
    if sparse.issparse(X):
        matrix = sparse.csr_array(X)
        matrix = matrix if matrix.dtype == np.float32 else matrix.astype(np.float64)
        if not matrix.has_canonical_format:
            matrix = matrix.copy() if matrix is X else matrix
            matrix.sum_duplicates()
        return matrix
    array = np.asarray(X)
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise ValueError(
            f"block {index}: features of shape {array.shape} and type {array.dtype}; "
            "accepted are numbers in rows and columns"
        )
    dtype = array.dtype if array.dtype == np.float32 else np.float64
    # A loop is compiled anew for arrays that are read-only; those of Arrow and memory maps are.
    return np.require(array, dtype, ["C", "W"])


def _labels(block: Block) -> np.ndarray | None:
    if block.y is None:
        return None
    y = np.asarray(block.y)
    if y.shape != (block.X.shape[0],):
        raise ValueError(f"{block.place(0)}: labels of shape {y.shape} for {block.X.shape[0]} rows")
    if y.dtype.kind not in "biufOU":
        raise ValueError(f"{block.place(0)}: labels of type {y.dtype}; accepted are strings, numbers and bools")
    missing = np.zeros(len(y), bool)
    if y.dtype == object:
        missing = np.array([label is None or label != label for label in y], bool)
    elif y.dtype.kind == "f":
        missing = ~np.isfinite(y)
    if missing.any():
        raise ValueError(f"{block.place(int(missing.argmax()))}: the label is missing, or not finite")
    return y


def _weights(block: Block) -> np.ndarray | None:
    if block.weight is None:
        return None
    weight = np.asarray(block.weight, np.float64)
    if weight.shape != (block.X.shape[0],):
        raise ValueError(f"{block.place(0)}: weights of shape {weight.shape} for {block.X.shape[0]} rows")
    wrong = ~(np.isfinite(weight) & (weight >= 0.0))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"{block.place(row)}: the weight {weight[row]:g}; weights are finite and not negative")
    return weight


def refuse_infinite(block: Block) -> None:
    """Raise a ValueError where a number of the block is not finite."""
    if isinstance(block.X, Columns):
        block = block._replace(X=block.X.rows())
    if isinstance(block.X, np.ndarray):
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(block.X.sum()):  # without an array of their size
                return
        wrong = ~np.isfinite(block.X).all(axis=1)
    else:
        wrong = np.zeros(block.X.shape[0], bool)
        wrong[np.repeat(np.arange(len(wrong)), np.diff(block.X.indptr))[~np.isfinite(block.X.data)]] = True
    if wrong.any():
        raise ValueError(f"{block.place(int(wrong.argmax()))}: a feature is NaN or infinite")


@dataclass(frozen=True)
class Survey:
    """What one pass tells of the rows of a source.

    Attributes
    ----------
    n_rows, n_features : int
    dtype : dtype
        float32 where all blocks are, else float64.
    classes : ndarray
        The sorted labels.
    weights : ndarray of shape (n_classes,), float64
        The sum of the weights of the rows of each class.
    sample : Block
        Rows at a fixed stride, in memory, of at most 64 MB; their weights are never None.
    """

    n_rows: int
    n_features: int
    dtype: np.dtype
    classes: np.ndarray
    weights: np.ndarray
    sample: Block


def survey(source: Iterable[Any], classes: np.ndarray | None = None) -> Survey:
    """Read all rows once, and check them; labels beside given `classes` are refused."""
    kept = _Sample()
    dtypes: set[np.dtype] = set()
    n_rows = 0
    labels: np.ndarray | None = None
    weights: np.ndarray = np.zeros(0)
    codes_of = None if classes is None else LabelCodes(classes)
    with prefetching(lambda: checked_blocks(source)) as blocks:
        for block in blocks:
            refuse_infinite(block)
            if block.y is None:
                raise ValueError(f"block {block.number} has no labels: a fit needs them")
            n_rows += block.X.shape[0]
            dtypes.add(block.X.dtype)
            try:
                found, codes = unique_labels(block.y)
            except TypeError:
                raise ValueError(f"{block.place(0)}: labels of kinds that have no common order") from None
            weight = np.ones(len(codes)) if block.weight is None else block.weight
            kept.add(block._replace(weight=weight))
            if codes_of is not None and (codes_of(found) < 0).any():
                refuse_unseen(block, codes_of)
            counts = np.bincount(codes, weight, len(found))
            labels, weights = (found, counts) if labels is None else _merged(block, labels, weights, found, counts)
    if labels is None or not n_rows:
        raise ValueError("the source has no rows")
    if codes_of is not None and classes is not None:
        all_weights = np.zeros(len(classes))
        all_weights[codes_of(labels)] = weights
        labels, weights = classes, all_weights
    sample = kept.rows(np.result_type(*dtypes))
    return Survey(n_rows, sample.X.shape[1], np.result_type(*dtypes), labels, weights, sample)


def _merged(
    block: Block, labels: np.ndarray, weights: np.ndarray, found: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels and their weights of all blocks so far."""
    if len(labels) == len(found) and labels.dtype == found.dtype and (labels == found).all():
        return labels, weights + counts
    if (labels.dtype.kind in "OU") != (found.dtype.kind in "OU"):
        raise ValueError(
            f"{block.place(0)}: labels of type {found.dtype}; those of the blocks before are {labels.dtype}"
        )
    try:
        merged, places = np.unique(np.concatenate([labels, found]), return_inverse=True)
    except TypeError:
        raise ValueError(f"{block.place(0)}: labels that have no order among those of the blocks before") from None
    return merged, np.bincount(places, np.concatenate([weights, counts]), len(merged))


def refuse_unseen(block: Block, codes_of: LabelCodes) -> None:
    """Raise a ValueError for the first label that is not among the classes."""
    assert block.y is not None
    row = int((codes_of(block.y) < 0).argmax())
    raise ValueError(f"{block.place(row)}: the label {block.y[row]!r} is not among the {len(codes_of.classes)} classes")


class _Sample:
    """Every row at a stride that doubles whenever the rows kept outgrow their room."""

    def __init__(self) -> None:
        self._stride, self._bytes = 1, 0
        self._parts: list[Block] = []

    def add(self, block: Block) -> None:
        assert block.y is not None
        assert block.weight is not None
        rows = slice(-block.first % self._stride, None, self._stride)
        X = block.X[rows]
        part = Block(0, 0, X.copy(), block.y[rows].copy(), block.weight[rows].copy())
        self._parts.append(part)
        self._bytes += X.nbytes if isinstance(X, np.ndarray) else X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
        while self._bytes > _SAMPLE_BYTES and sum(part.X.shape[0] for part in self._parts) > 1:
            self._thin()

    def _thin(self) -> None:
        self._stride *= 2
        start, thinner = 0, []
        for part in self._parts:
            rows = slice(start % 2, None, 2)
            start += part.X.shape[0]
            assert part.y is not None
            assert part.weight is not None
            thinner.append(Block(0, 0, part.X[rows].copy(), part.y[rows].copy(), part.weight[rows].copy()))
        self._parts, self._bytes = thinner, self._bytes // 2

    def rows(self, dtype: np.dtype) -> Block:
        """Return the rows kept, as one block."""
        parts = [part for part in self._parts if part.X.shape[0]]
        dense = isinstance(parts[0].X, np.ndarray)
        X = np.concatenate([part.X for part in parts]) if dense else sparse.vstack([part.X for part in parts])
        X = X.astype(dtype, copy=False) if dense else sparse.csr_array(X.astype(dtype))
        y, weight = (np.concatenate([part[k] for part in parts]) for k in (3, 4))
        return Block(0, 0, X, y, weight)


class StreamedObjective(SummedObjective):
    """The objective over the blocks of a source, added in their order: where blocks begin and end is in the bits.

    Parameters
    ----------
    source : re-iterable of (X, y) or (X, y, weight)
    found : Survey
        Of the same source.
    factors : ndarray of shape (n_classes,)
        On the weights of the rows of each class.
    l2 : float
    fit_intercept : bool
    """

    def __init__(
        self, source: Iterable[Any], found: Survey, *, factors: np.ndarray, l2: float, fit_intercept: bool
    ) -> None:
        self._source, self._factors, self._codes_of = source, factors, LabelCodes(found.classes)
        sample = found.sample
        assert sample.y is not None
        codes = self._codes_of(sample.y)
        weight = sample.weight * factors[codes]
        if not weight.any():
            weight = np.ones(len(codes))
        rows = LinearSoftmaxObjective(
            sample.X, codes, n_classes=len(found.classes), sample_weight=weight, fit_intercept=fit_intercept
        )
        super().__init__(rows, n_rows=found.n_rows, total_weight=float(found.weights @ factors), l2=l2)
        self._features = rows.dtype

    def sum_over_parts(self, sums: Sums, coef: np.ndarray | None = None) -> tuple[Any, ...]:
        """Return the sums of all blocks, in one pass over them."""
        total: tuple[Any, ...] | None = None
        n_rows = 0
        with prefetching(self._parts) as parts:
            for block, part in parts:
                n_rows += part.X.shape[0]
                more = self.part_sums(part, sums, coef)
                with np.errstate(over="ignore", invalid="ignore"):
                    finite = np.isfinite(np.sum(more[0]))  # numbers that are not finite show in every sum
                if not finite:
                    refuse_infinite(block)
                total = more if total is None else add(total, more)
        if total is None or n_rows != self.n_rows:
            raise ValueError(f"the source has {n_rows} rows in this pass; it had {self.n_rows} before")
        return total

    def _parts(self) -> Iterator[tuple[Block, Part]]:
        by_columns = getattr(self._source, "by_columns", lambda: self._source)
        for block in checked_blocks(by_columns()):
            if block.X.shape[1] != self.n_features:
                raise ValueError(f"{block.place(0)}: {block.X.shape[1]} features; there were {self.n_features} before")
            if block.y is None:
                raise ValueError(f"block {block.number} has no labels: a fit needs them")
            codes = self._codes_of(block.y)
            if len(codes) and codes.min() < 0:
                refuse_unseen(block, self._codes_of)
            weight = self._factors[codes]
            if block.weight is not None:
                weight *= block.weight
            yield block, Part(block.X.astype(self._features, copy=False), codes, weight)
