"""Labels of a stream of rows: which there are, and their codes."""

from typing import Any

import numpy as np

_MOST_TABLE = 2**16  # codes in a table by value


def unique_labels(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted labels in `y` and the code of each; strings are told apart by hashes, before any sorting."""
    if y.dtype != object:
        return np.unique(y, return_inverse=True)
    table: dict[Any, int] = {}
    codes = np.fromiter((table.setdefault(label, len(table)) for label in y.tolist()), np.intp, len(y))
    found = np.empty(len(table), object)
    found[:] = list(table)
    labels, places = np.unique(found, return_inverse=True)
    return labels, places[codes]


class LabelCodes:
    """The codes of labels: their places among sorted classes."""

    def __init__(self, classes: np.ndarray) -> None:
        self.classes = classes
        self._table: dict[Any, int] | np.ndarray | None = None
        if classes.dtype.kind in "OU":
            self._table = {label: code for code, label in enumerate(classes.tolist())}
        elif classes.dtype.kind in "iu" and int(classes[-1]) - int(classes[0]) < _MOST_TABLE:
            self._low, self._high = int(classes[0]), int(classes[-1])
            self._table = np.full(self._high - self._low + 1, -1, np.intp)
            # Differences of int8 overflow, and those of uint64 are none of int64: modulo 2^64 all are right.
            self._first = classes[:1].astype(np.int64)
            self._table[classes.astype(np.int64) - self._first] = np.arange(len(classes))

    def __call__(self, y: np.ndarray) -> np.ndarray:
        """Return the code of each label, -1 for those not among the classes."""
        if isinstance(self._table, dict):
            get = self._table.get
            return np.fromiter((get(label, -1) for label in y.tolist()), np.intp, len(y))
        if self._table is not None and y.dtype.kind in "iu":
            inside = True if not len(y) else bool(y.min() >= self._low and y.max() <= self._high)
            if inside:
                return self._table[y.astype(np.int64, copy=False) - self._first]
        codes = np.searchsorted(self.classes, y).clip(max=len(self.classes) - 1)
        return np.where(self.classes[codes] == y, codes, -1)
