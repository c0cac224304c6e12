"""Where rows come from: consecutive blocks of a dense array or a CSR matrix, in the dtype of the computation."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from softhead.linear.columns import Columns

# 2,048 rows fill the matrix products (256 rows cost 1.2 times as much on 15,000 x 384 x 150), and larger blocks fall
# out of cache (4,096 rows cost 1.2 times as much on 200,000 x 64 x 2,000).
_MAX_ROWS = 2048
_MAX_BYTES = 2**25
# A sparse block with at most this many columns is expanded: BLAS on zeros beats a sparse product from about 2% filled.
_MAX_EXPANDED_COLUMNS = 2048
# In all, below which it is expanded once: compiled passes took a fit to 20,000 x 237, 94 classes, of which 7% were
# filled, in 4.4 s, and blocks expanded in every pass in 40.
_MAX_EXPANDED_BYTES = 2**30


def affords_dense(X: Any) -> bool:
    """Return whether `X` is a sparse matrix that is narrow enough, and small enough, to be a dense array."""
    if isinstance(X, np.ndarray | Columns) or X.shape[1] > _MAX_EXPANDED_COLUMNS:
        return False
    return bool(X.shape[0] * X.shape[1] * X.dtype.itemsize <= _MAX_EXPANDED_BYTES)


class RowBlocks:
    """Blocks of consecutive rows of `X` in `dtype`, sized so that a block and its logits stay below 32 MB.

    A block is an array, or a `scipy.sparse.csr_array` where `X` is sparse and wide (entries given twice are added). It
    is valid until the next one is taken: blocks that need a conversion share one buffer.
    """

    def __init__(self, X: Any, dtype: np.dtype, n_classes: int) -> None:
        self.sparse = not isinstance(X, np.ndarray | Columns)
        if self.sparse and not X.has_canonical_format:
            X = X.copy()
            X.sum_duplicates()
        self.X = X
        self.dtype = np.dtype(dtype)
        self.n_rows, self.n_features = X.shape
        self.expand = self.sparse and self.n_features <= _MAX_EXPANDED_COLUMNS
        width = n_classes + (0 if self.sparse and not self.expand else self.n_features)
        self.rows = max(16, min(_MAX_ROWS, _MAX_BYTES // (self.dtype.itemsize * width)))

    def __iter__(self) -> Iterator[tuple[slice, Any]]:
        """Yield ``(rows, block)`` in order."""
        buffer = None
        if self.expand or not (self.sparse or self.X.dtype == self.dtype):
            buffer = np.empty((min(self.rows, self.n_rows), self.n_features), self.dtype)
        for start in range(0, self.n_rows, self.rows):
            rows = slice(start, min(start + self.rows, self.n_rows))
            block = self.X[rows]
            if buffer is None:
                yield rows, block.astype(self.dtype, copy=False)
            else:
                dense = buffer[: rows.stop - rows.start]
                if self.sparse:
                    dense[...] = 0.0
                    # toarray(out=) would refuse a conversion of dtype.
                    dense[np.repeat(np.arange(len(dense)), np.diff(block.indptr)), block.indices] = block.data
                else:
                    dense[...] = block
                yield rows, dense
