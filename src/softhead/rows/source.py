"""`RowSource`: rows in blocks, which a fit reads as often as it needs."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from softhead.linear.stream import checked_blocks

Blocks = Iterable[Any] | Callable[[], Iterable[Any]]


class _Made:
    """What a function makes, each time it is iterated over."""

    def __init__(self, make: Callable[[], Iterable[Any]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Any]:
        return iter(self._make())


class RowSource:
    """Rows in blocks, read anew for each pass: what `SoftmaxClassifier.fit` takes in place of `X` and `y`.

    Memory holds some blocks, and up to 64 MB of rows sampled for the solver's metric, never all rows. `open_rows` makes
    one of a file or a folder.

    Parameters
    ----------
    blocks : iterable, or callable that returns one
        Of tuples ``(X, y)`` or ``(X, y, sample_weight)``: features of shape (n_rows, n_features) as an array or a
        sparse matrix, labels or None, and weights or None. Each iteration must give the same blocks: a fit is then the
        same to the last bit. Blocks of some 10 to 100 MB are fast. A generator is used up by one pass; pass the
        function that makes it.
    classes : array-like, optional
        All labels, where they are known; others are then errors. By default those found in the first pass.
    feature_names : sequence of str, optional

    Attributes
    ----------
    classes : ndarray or None
        Sorted.
    feature_names : list of str or None
    blocks : iterable
        As given, unchecked: each iteration gives them anew.

    Raises
    ------
    TypeError
        If `blocks` is neither iterable nor callable.
    ValueError
        If it is an iterator, which can be read only once, or `classes` has a label twice.

    Notes
    -----
    A thread reads up to two blocks ahead. Errors in rows name the block and the row, from 0.

    Examples
    --------
    >>> import numpy as np
    >>> from softhead import RowSource, SoftmaxClassifier
    >>> def blocks():
    ...     for seed in range(10):
    ...         rng = np.random.default_rng(seed)
    ...         y = rng.integers(0, 3, 1000)
    ...         yield np.eye(3)[y] + rng.normal(size=(1000, 3)), y
    >>> model = SoftmaxClassifier().fit(RowSource(blocks))
    >>> model.status_, model.classes_.tolist()
    ('converged', [0, 1, 2])
    >>> model.predict(RowSource(blocks)).shape
    (10000,)
    """

    def __init__(self, blocks: Blocks, *, classes: Any = None, feature_names: Iterable[str] | None = None) -> None:
        if not callable(blocks):
            if not hasattr(blocks, "__iter__"):
                raise TypeError(f"blocks: got {type(blocks).__name__}; accepted are iterables and callables")
            if iter(blocks) is blocks:
                raise ValueError(
                    "blocks: an iterator can be read only once; pass what makes it, such as a generator function"
                )
        self.blocks: Iterable[Any] = _Made(blocks) if callable(blocks) else blocks
        self.classes = None
        if classes is not None:
            given = np.asarray(classes)
            self.classes = np.unique(given.astype(object) if given.dtype.kind == "U" else given)
            if given.ndim != 1 or len(self.classes) != len(given):
                raise ValueError(f"classes: must be different labels in one dimension; got {given.tolist()!r}")
        self.feature_names = None if feature_names is None else list(feature_names)

    def __iter__(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield ``(X, y, sample_weight)``, checked but for numbers that are not finite."""
        for block in checked_blocks(self.blocks):
            yield block.X, block.y, block.weight
