"""Functions of tensors: by the NumPy functions where values are asked for, else by formulas.

Where nothing is to be differentiated, compiled or transformed, a CPU tensor is an array that shares its memory.
Elsewhere the formulas of `generic` are PyTorch's operations, which know their derivatives.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from torch import Tensor

from softhead.torch.host import tensor, torch_threads, view
from softhead.torch.modes import plain


def by_kernels(name: str, formula: Callable[..., Any], *tensors: Tensor, **options: Any) -> Any:
    """Return what the public function of a name, given by its formula, makes of tensors."""
    given = [*tensors, *options.values()]
    if not plain(*given):
        return inspect.unwrap(formula)(*tensors, **options)  # NumPy's warnings need no care, nor can they be compiled
    arrays = [view(one) if isinstance(one, Tensor) else one for one in tensors]
    named = {key: view(one) if isinstance(one, Tensor) else one for key, one in options.items()}
    with torch_threads():
        return _as_tensors(_function(name)(*arrays, **named))


def _function(name: str) -> Callable[..., Any]:
    """Return the public function of a name."""
    function: Callable[..., Any] = getattr(import_module("softhead"), name)
    return function


def _as_tensors(result: Any) -> Any:
    """Return arrays as tensors, and tuples of them as such tuples."""
    if isinstance(result, tuple):
        parts = [_as_tensors(part) for part in result]
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
    return tensor(result) if isinstance(result, np.ndarray | np.generic) else result
