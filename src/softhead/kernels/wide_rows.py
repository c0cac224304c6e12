"""How rows are handed to the loops of `wide`: as bytes, in chunks, on several threads."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from softhead.kernels.formats import CODES
from softhead.kernels.threads import over_rows

_NO_LABELS, _NO_PROBABILITIES = np.empty(0, np.intp), np.empty((0, 0))


def run(
    loop: Callable[..., None],
    inputs: tuple[np.ndarray, ...],
    constants: tuple[Any, ...],
    outputs: tuple[np.ndarray, ...],
) -> None:
    """Run a loop over arrays of as many rows, or none, as the first, on several threads."""

    def part(rows: slice) -> None:
        run_here(loop, [array[rows] for array in inputs], constants, [array[rows] for array in outputs])

    over_rows(part, inputs[0])


def run_here(
    loop: Callable[..., None],
    inputs: Iterable[np.ndarray],
    constants: tuple[Any, ...],
    outputs: Sequence[np.ndarray],
) -> None:
    """Run a loop where it is called.

    It is given the inputs, the constants and the outputs: an array of rows as its bytes and the code of their format,
    one of single numbers as it is.
    """
    targets = [array if array.flags.carray else np.empty(array.shape, array.dtype) for array in outputs]
    given = [item for array in inputs for item in _handed(array)]
    loop(*given, *constants, *(item for array in targets for item in _handed(array)))
    for result, array in zip(targets, outputs, strict=True):
        if result is not array:
            array[...] = result


def targets_of(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return targets as labels and probabilities, of which one is empty."""
    return (targets, _NO_PROBABILITIES) if targets.ndim == 1 else (_NO_LABELS, targets)


def _handed(array: np.ndarray) -> tuple[Any, ...]:
    """Return what stands for an array: of rows, the bytes, in a copy if they are not contiguous and aligned."""
    if array.ndim == 1:
        return (np.ascontiguousarray(array),)
    array = np.ascontiguousarray(array)
    array = array if array.flags.aligned else array.copy()
    return array.view(np.uint8), CODES[array.dtype.name]
