"""Blocks of rows from svmlight files: sparse, and their labels with them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.datasets import load_svmlight_file

_BLOCK_BYTES = 2**23  # of text


class SvmlightBlocks:
    """Blocks of about 8 MB of text. Columns are numbered from 1 unless one of number 0 occurs."""

    def __init__(self, path: Path, n_features: int | None) -> None:
        self._path, self._n_features = path, n_features
        self._shape: tuple[int, bool] | None = None

    def __iter__(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield ``(X, y, None)``."""
        if self._shape is None:
            self._shape = self._look()
        n_features, from_zero = self._shape
        for X, y in self._read(n_features, from_zero):
            yield X, y, None

    def _read(self, n_features: int, from_zero: bool) -> Iterator[tuple[Any, np.ndarray]]:
        size = self._path.stat().st_size
        for offset in range(0, size, _BLOCK_BYTES):
            # A line belongs to the block that its first byte lies in.
            X, y = load_svmlight_file(
                str(self._path),
                n_features=n_features,
                zero_based=from_zero,
                offset=offset,
                length=min(_BLOCK_BYTES, size - offset),
            )
            if X.shape[0]:
                yield sparse.csr_array(X), y

    def _look(self) -> tuple[int, bool]:
        """Return the number of features, and whether they are numbered from 0."""
        most, least = 0, 1
        for X, _ in self._read(2**31 - 1, True):
            if X.nnz:
                most, least = max(most, int(X.indices.max()) + 1), min(least, int(X.indices.min()))
        from_zero = least == 0
        found = most if from_zero else most - 1
        if self._n_features is not None and found > self._n_features:
            raise ValueError(f"features: {self._path} has {found} features, more than {self._n_features}")
        return self._n_features or max(found, 1), from_zero
