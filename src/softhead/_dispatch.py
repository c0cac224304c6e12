"""Which implementation takes an array: NumPy's kernels, or the formulas for any array library."""

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")


def refuse_others(function: str, **arrays: object) -> None:
    """Raise a TypeError if an argument is an array of another library, for a function that has no generic form."""
    for name, value in arrays.items():
        if not isinstance(value, np.ndarray | np.generic) and hasattr(value, "__array_namespace__"):
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise TypeError(f"{name} is a {kind}; {function} takes NumPy arrays, to which numpy.asarray converts")


def for_any_array(finish: Callable[[Any], Any] | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a public function for NumPy arrays take those of other libraries that keep the array API standard.

    The first argument decides: for an array of another library the function of the same name in `generic` answers, with
    arrays of that library, and `finish` gives the answer its final form. Lists, numbers and anything else that is not
    an array of such a library go to NumPy.
    """

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def dispatched(*args: P.args, **kwargs: P.kwargs) -> R:
            first: Any = args[0] if args else None
            if isinstance(first, np.ndarray | np.generic) or not hasattr(first, "__array_namespace__"):
                return function(*args, **kwargs)
            answer = getattr(import_module("softhead.generic"), function.__name__)(*args, **kwargs)
            result: R = answer if finish is None else finish(answer)
            return result

        return dispatched

    return decorated
