"""Which implementation takes an array: NumPy's kernels, the formulas for any array library, or PyTorch's."""

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

import numpy as np

from softhead._checks import is_tensor

P = ParamSpec("P")
R = TypeVar("R")


def refuse_others(function: str, **arrays: object) -> None:
    """Raise a TypeError if an argument is an array of another library, for a function that has no generic form."""
    for name, value in arrays.items():
        if is_tensor(value) or (
            not isinstance(value, np.ndarray | np.generic) and hasattr(value, "__array_namespace__")
        ):
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise TypeError(f"{name} is a {kind}; {function} takes NumPy arrays, to which numpy.asarray converts")


def for_any_array(finish: Callable[[Any], Any] | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a public function for NumPy arrays take those of other libraries that keep the array API standard.

    The first argument decides: for an array of another library the function of the same name in `generic` answers, with
    arrays of that library, and `finish` gives the answer its final form; for a tensor of PyTorch, `softhead.torch`.
    Lists, numbers and anything else that is not an array of such a library go to NumPy.
    """

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def dispatched(*args: P.args, **kwargs: P.kwargs) -> R:
            first: Any = args[0] if args else None
            if isinstance(first, np.ndarray | np.generic):
                return function(*args, **kwargs)
            if is_tensor(first):
                answer = import_module("softhead.torch.public").answer(function.__name__, *args, **kwargs)
            elif hasattr(first, "__array_namespace__"):
                answer = getattr(import_module("softhead.generic"), function.__name__)(*args, **kwargs)
            else:
                return function(*args, **kwargs)
            result: R = answer if finish is None else finish(answer)
            return result

        return dispatched

    return decorated
