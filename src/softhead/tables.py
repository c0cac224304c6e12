"""`TableEncoder`: mixed columns of a data frame, or an array of numbers, to the matrix that a linear model takes."""

import math
from collections.abc import Iterator
from itertools import chain
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags, check_array
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data

from softhead._columns import (
    Categories,
    Column,
    Datetimes,
    Numbers,
    Times,
    column_from_state,
    row_blocks,
)
from softhead._series import is_lazy, kind_of, refuse_infinity, values_of
from softhead._state import fields, require, texts

_SPARSE_BELOW = 0.3  # share of entries in use below which a CSR matrix takes less room and time than a dense one

_LEARNED_ROWS = 2**18  # of a dask data frame


class TableEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    r"""Encode a table of mixed columns, or an array of numbers, as a float32 matrix for a linear model.

    A number :math:`x` becomes :math:`(x - \mu) / \sigma` with the mean and the standard deviation of its column in
    `fit`, and a category one of :math:`k` unit vectors. A point in time :math:`t` becomes its days since 1970-01-01
    (UTC), standardised, and :math:`(\sin 2 \pi \varphi, \cos 2 \pi \varphi)` of its phase :math:`\varphi` in the year,
    in the week and in the day: a linear model of these is a first-order Fourier series of each period.

    ============================== ==========================================================================
    column                         output columns
    ============================== ==========================================================================
    numbers, bools, durations      one; missing values become the mean
    strings, categories            one for each frequent value, one for all others; values are told apart as text
    dates, datetimes               days; sine and cosine of the phase in the year, in the week and, where some
                                   datetime is not a midnight, in the day; missing values are 0
    times of day                   sine and cosine of the phase in the day; missing values are 0
    any of these                   an indicator, if there were missing values in `fit`
    columns without any value      none
    ============================== ==========================================================================

    In a data frame's column of Python objects, strings, bools and whole numbers are categories.

    Parameters
    ----------
    max_categories : int, default=100
        The most output columns of one category column, at least 2. If its values are more, the most frequent ones
        (ties by value) keep a column of their own; rarer ones, and those not seen in `fit`, share the column "other".
        Where there are no rarer ones, a value not seen in `fit` is all zeros.

    Attributes
    ----------
    n_features_in_ : int
        Number of columns of the table, or of numbers in one row of the array.
    feature_names_in_ : ndarray of shape (`n_features_in_`,), dtype object
        Names of the columns of the table, where they are strings.
    feature_shape_ : tuple of int or None
        Shape of one row of the array, such as (28, 28) for images; None for a table.
    categories_ : dict of str to list of str
        For each category column by name, the values that have an output column of their own.
    sparse_output_ : bool
        Whether `transform` returns a `scipy.sparse.csr_array` (tables with category columns, less than 0.3 filled)
        or a C-contiguous array.

    Notes
    -----
    The numbers of an array of more than two dimensions, such as the pixels of images, share one unit. So they share one
    scale: the standard deviation of all of them. Each still has its own mean.

    References
    ----------
    Hastie, Tibshirani and Friedman, *The Elements of Statistical Learning*, 2nd edition, section 3.2 (coding of
    inputs) and section 9.6 (missing values).

    Examples
    --------
    >>> import pandas as pd
    >>> from softhead import TableEncoder
    >>> table = pd.DataFrame({"height": [1.5, 2.5, None], "colour": ["red", "blue", "red"]})
    >>> encoder = TableEncoder().fit(table)
    >>> encoder.get_feature_names_out().tolist()
    ['height', 'height missing', 'colour=blue', 'colour=red']
    >>> encoder.transform(table)
    array([[-1.,  0.,  0.,  1.],
           [ 1.,  0.,  1.,  0.],
           [ 0.,  1.,  0.,  1.]], dtype=float32)
    """

    feature_shape_: tuple[int, ...] | None
    sparse_output_: bool
    _columns: list[Column]

    def __init__(self, max_categories: int = 100) -> None:
        self.max_categories = max_categories

    def fit(self, X: Any, y: object = None) -> Self:
        """Learn the encoding of every column.

        Parameters
        ----------
        X : data frame (pandas, polars, pyarrow, dask) or array-like of shape (n_samples, ...)
            The table, or an array of numbers of two or more dimensions. NaN counts as missing. Of a dask data frame, up
            to 262,144 rows at a fixed stride are learned from: all of them where they are no more.
        y : None
            Ignored.

        Returns
        -------
        self : TableEncoder

        Raises
        ------
        ValueError
            Where `X` is empty, has columns of one name or an infinite number, or `max_categories` is not usable.
        TypeError
            Where a column is of a type that has no use as features.

        Examples
        --------
        >>> import numpy as np
        >>> from softhead import TableEncoder
        >>> TableEncoder().fit(np.zeros((5, 8, 8))).feature_shape_
        (8, 8)
        """
        if not isinstance(self.max_categories, Integral) or self.max_categories < 2:
            raise ValueError(f"max_categories is {self.max_categories!r}; accepted is an integer of at least 2")
        if is_lazy(X):
            X = _some_rows(X)
        frame = _as_frame(X)
        if frame is None:
            array = _as_array(X)
            self.feature_shape_ = array.shape[1:]
            flat = array.reshape(len(array), -1)
            validate_data(self, flat, skip_check_array=True)
            self._refuse_infinity(flat)
            self._columns = [Numbers.fit(flat, one_scale=array.ndim > 2)]
        else:
            if 0 in frame.shape:
                raise ValueError(f"X is a table of {frame.shape[0]} rows and {frame.shape[1]} columns; it is empty")
            validate_data(self, X, skip_check_array=True)
            self.feature_shape_ = None
            self._columns = [
                self._fit_column(*named) for named in zip(frame.iter_columns(), self._names_in(), strict=True)
            ]
        if not self._width:
            raise ValueError("X has no value at all: every column is missing throughout")
        filled = sum(column.slots for column in self._columns) / self._width
        self.sparse_output_ = filled < _SPARSE_BELOW and any(isinstance(c, Categories) for c in self._columns)
        return self

    def transform(self, X: Any) -> NDArray[np.float32] | csr_array:
        """Encode a table or an array.

        Parameters
        ----------
        X : data frame or array-like, as in `fit`
            A table's columns are found by name, so their order does not matter and further ones are ignored; where
            the names in `fit` were not strings, by position. A datetime without a zone is taken as UTC.

        Returns
        -------
        encoded : ndarray or scipy.sparse.csr_array of shape (n_samples, n_output_columns), dtype float32

        Raises
        ------
        ValueError
            Where columns are missing or as many as in `fit` are needed, where a value is not of its column's kind (the
            message names column and row, rows counted from 1), or a number is infinite.

        Examples
        --------
        >>> import numpy as np
        >>> from softhead import TableEncoder
        >>> TableEncoder().fit([[1.0], [3.0]]).transform([[2.0], [3.0], [5.0]])
        array([[0.],
               [1.],
               [3.]], dtype=float32)
        """
        check_is_fitted(self)
        if is_lazy(X):
            return self._lazily(X)
        if self.feature_shape_ is None:
            frame = _as_frame(X)
            if frame is None:
                raise ValueError(f"X is a {type(X).__name__}; accepted is a table, as in fit")
            n_rows, columns = len(frame), self._read(frame)
        else:
            array = _as_array(X)
            if array.ndim > 2 and array.shape[1:] != self.feature_shape_:
                raise ValueError(f"X has rows of shape {array.shape[1:]}; accepted is {self.feature_shape_}, as in fit")
            flat = array.reshape(len(array), -1)
            validate_data(self, flat, skip_check_array=True, reset=False)
            self._refuse_infinity(flat)
            n_rows, columns = len(flat), iter([(self._columns[0], flat)])
        return (self._sparse if self.sparse_output_ else self._dense)(n_rows, columns)

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Return the names of the output columns.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Names of the columns; must be those of the table where it had names. By default those, or "x0", "x1", ...

        Returns
        -------
        names : ndarray of shape (n_output_columns,), dtype object

        Examples
        --------
        >>> from softhead import TableEncoder
        >>> TableEncoder().fit([[1.0, 2.0], [3.0, float("nan")]]).get_feature_names_out().tolist()
        ['x0', 'x1', 'x1 missing']
        """
        check_is_fitted(self)
        inputs = _check_feature_names_in(self, input_features).tolist()
        groups = [inputs] if self.feature_shape_ is not None else [[name] for name in inputs]
        names = (column.names(group) for column, group in zip(self._columns, groups, strict=True))
        return np.array(list(chain.from_iterable(names)), dtype=object)

    def to_state(self) -> dict[str, object]:
        """Return everything that was learnt as plain values.

        Returns
        -------
        state : dict
            Its leaves are None, bool, int, float, str, float64 arrays and 1-D object arrays of str.

        Examples
        --------
        >>> from softhead import TableEncoder
        >>> state = TableEncoder().fit([[1.0], [3.0]]).to_state()
        >>> state["feature_shape"], state["columns"][0]["mean"]
        ([1], array([2.]))
        """
        check_is_fitted(self)
        names = getattr(self, "feature_names_in_", None)
        return {
            "max_categories": int(self.max_categories),
            "feature_names": None if names is None else names.copy(),
            "feature_shape": None if self.feature_shape_ is None else list(self.feature_shape_),
            "sparse_output": self.sparse_output_,
            "columns": [column.to_state() for column in self._columns],
        }

    @classmethod
    def from_state(cls, state: object) -> Self:
        """Rebuild an encoder from `to_state`; its `transform` repeats bit for bit.

        Parameters
        ----------
        state : dict
            As `to_state` gives it. It may come from an untrusted source: every value is checked.

        Returns
        -------
        encoder : TableEncoder

        Raises
        ------
        ValueError
            Where the state is not one that `to_state` could have given.

        Examples
        --------
        >>> from softhead import TableEncoder
        >>> encoder = TableEncoder().fit([[1.0], [3.0]])
        >>> TableEncoder.from_state(encoder.to_state()).transform([[3.0]])
        array([[1.]], dtype=float32)
        """
        max_categories, names, shape, sparse, columns = fields(
            state,
            max_categories=int,
            feature_names=(np.ndarray, type(None)),
            feature_shape=(list, type(None)),
            sparse_output=bool,
            columns=list,
        )
        require(max_categories >= 2, "max_categories")
        encoder = cls(max_categories)
        encoder._columns = [column_from_state(column) for column in columns]
        encoder.sparse_output_ = sparse
        require(encoder._width, "columns")
        require(not sparse or any(isinstance(column, Categories) for column in encoder._columns), "kinds of output")
        if shape is None:
            encoder.feature_shape_ = None
            encoder.n_features_in_ = len(columns)
            widths = [len(column.mean) for column in encoder._columns if isinstance(column, Numbers)]
            require(all(width == 1 for width in widths), "means and scales")
        else:
            require(names is None and len(columns) == 1, "columns")
            require(shape and all(type(length) is int and length > 0 for length in shape), "shapes")
            encoder.feature_shape_ = tuple(shape)
            encoder.n_features_in_ = math.prod(shape)
            (numbers,) = encoder._columns
            require(isinstance(numbers, Numbers) and len(numbers.mean) == encoder.n_features_in_, "means and scales")
        if names is not None:
            require(len(set(texts(names))) == len(names) == encoder.n_features_in_, "feature names")
            encoder.feature_names_in_ = names.copy()
        return encoder

    @property
    def categories_(self) -> dict[str, list[str]]:
        """The values with an output column of their own, for each category column."""
        named = zip(self._columns, self._names_in(), strict=False)
        return {name: column.values.copy() for column, name in named if isinstance(column, Categories)}

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    @property
    def _width(self) -> int:
        """The number of output columns."""
        return sum(column.width for column in self._columns)

    def _names_in(self) -> list[str]:
        """Return the names of the input columns, made up where there are none."""
        return _check_feature_names_in(self).tolist()

    def _refuse_infinity(self, array: NDArray[Any]) -> None:
        """Raise a ValueError that names the first infinite number of a 2-D array, if there is one."""
        if array.dtype.kind == "f":
            names = self._names_in()
            for rows, block in row_blocks(array):
                refuse_infinity(block, names, rows.start)

    def _fit_column(self, series: Any, name: str) -> Column:
        """Learn the encoding of one column of a table."""
        kind = kind_of(series, name)
        values = values_of(series, kind, name)
        if kind == "category":
            return Categories.fit(values, int(self.max_categories))
        if kind == "number":
            return Numbers.fit(values)
        return Datetimes.fit(values) if kind == "datetime" else Times.fit(values)

    def _read(self, frame: Any) -> Iterator[tuple[Column, Any]]:
        """Yield the encoding and the values of each column that has an output, one column at a time."""
        names = self._names_in()
        if hasattr(self, "feature_names_in_"):
            present = set(frame.columns)
            if absent := [name for name in names if name not in present]:
                raise ValueError(f"X has no column {', '.join(map(repr, absent))}; all columns of fit are needed")
            series = (frame.get_column(name) for name in names)
        else:
            if frame.shape[1] != len(names):
                raise ValueError(
                    f"X has {frame.shape[1]} features, but TableEncoder is expecting {len(names)} features"
                )
            series = frame.iter_columns()
        for column, one, name in zip(self._columns, series, names, strict=True):
            if column.width:
                yield column, values_of(one, column.kind, name)

    def _lazily(self, X: Any) -> Any:
        """Encode a dask data frame, partition by partition, when its rows are asked for."""
        if not hasattr(X, "map_partitions"):
            raise TypeError(f"X is a {type(X).__name__}; of dask's collections, data frames are accepted")
        return X.map_partitions(self.transform, meta=np.empty((0, self._width), np.float32))

    def _dense(self, n_rows: int, columns: Iterator[tuple[Column, Any]]) -> NDArray[np.float32]:
        """Encode into an array."""
        out = np.zeros((n_rows, self._width), dtype=np.float32)
        start = 0
        for column, values in columns:
            column.write(values, out[:, start : start + column.width])
            start += column.width
        return out

    def _sparse(self, n_rows: int, columns: Iterator[tuple[Column, Any]]) -> csr_array:
        """Encode into a CSR matrix: a fixed number of slots a row, of which those that hold zeros are dropped."""
        n_slots = sum(column.slots for column in self._columns)
        data = np.zeros((n_rows, n_slots), dtype=np.float32)
        positions = np.empty((n_rows, n_slots), dtype=np.int32)
        start = slot = 0
        for column, values in columns:
            slots = slice(slot, slot + column.slots)
            column.write_slots(values, data[:, slots], positions[:, slots])
            positions[:, slots] += start
            start, slot = start + column.width, slots.stop
        used = data != 0.0
        ends = np.concatenate(([0], np.cumsum(np.count_nonzero(used, axis=1))))
        # 32-bit indices wherever they suffice: half the memory, and some of scikit-learn's solvers take no others.
        ends = ends.astype(np.int32 if ends[-1] <= np.iinfo(np.int32).max else np.int64)
        return csr_array((data[used], positions[used], ends), shape=(n_rows, self._width))


def _some_rows(X: Any) -> Any:
    """Return up to 262,144 rows of a dask data frame, at a fixed stride within each partition."""
    if not hasattr(X, "map_partitions"):
        raise TypeError(f"X is a {type(X).__name__}; of dask's collections, data frames are accepted")
    stride = max(1, -(-len(X) // _LEARNED_ROWS))
    return X.map_partitions(_every, stride, meta=X._meta).compute() if stride > 1 else X.compute()


def _every(table: Any, stride: int) -> Any:
    return table.iloc[::stride]


def _as_frame(X: Any) -> Any:
    """Return a narwhals view of a data frame, None for anything else."""
    import narwhals.stable.v2 as nw

    if nw.dependencies.is_polars_lazyframe(X):
        raise TypeError("X is a LazyFrame; accepted is what its collect() returns")
    return nw.from_native(X, eager_only=True) if nw.dependencies.is_into_dataframe(X) else None


def _as_array(X: Any) -> NDArray[Any]:
    """Return an array of numbers of two or more dimensions."""
    return check_array(X, allow_nd=True, ensure_all_finite=False, input_name="X")
