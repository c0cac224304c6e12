"""Rows that lie in memory column by column, as Arrow has them: they become rows when, and where, they are needed."""

from collections.abc import Sequence

import numpy as np

from softhead.kernels.threads import in_parallel
from softhead.kernels.transpose import columns_to_rows
from softhead.kernels.vectors import lanes

_STRIPE = 8192  # rows that a thread takes at a time


class Columns:
    """A matrix of which each column, or each part of one, is contiguous in memory.

    Parameters
    ----------
    addresses : ndarray of shape (n_parts, n_features), int64
        Where the first numbers of the columns of each part lie. The parts follow one another.
    counts : sequence of int
        The number of rows of each part; `fits` says of each whether it is large enough.
    dtype : dtype
        float32 or float64.
    owner : object
        Keeps the numbers where they are.
    """

    def __init__(self, addresses: np.ndarray, counts: Sequence[int], dtype: np.dtype, owner: object) -> None:
        self.addresses, self.dtype, self._owner = addresses, np.dtype(dtype), owner
        self.begins = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.shape = int(self.begins[-1]), addresses.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self) -> np.ndarray:
        """Return the rows as an array, which several threads write."""
        array = np.empty(self.shape, self.dtype)
        n_stripes = -(-len(self) // _STRIPE)

        def work(k: int) -> None:
            start, stop = k * _STRIPE, min((k + 1) * _STRIPE, len(self))
            columns_to_rows(self.addresses, self.begins, start, stop, array[start:stop])

        in_parallel(work, n_stripes)
        return array

    def astype(self, dtype: np.dtype, copy: bool = True) -> "Columns | np.ndarray":
        """Return the same columns where they are of this dtype, else an array of it."""
        return self if dtype == self.dtype else self.rows().astype(dtype)


def fits(n_rows: int, n_features: int, dtype: np.dtype) -> bool:
    """Return whether a part of so many rows and columns can be read by whole vectors."""
    return min(n_rows, n_features) >= lanes(np.dtype(dtype).itemsize)
