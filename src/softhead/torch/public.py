"""The public functions of softhead, given tensors: they return tensors, which can be differentiated.

Those with compiled loops for their derivatives go to these; the others are NumPy functions of values, and formulas
where there is something to differentiate.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from softhead import _checks, generic
from softhead.torch import linear, losses, maps, sampling
from softhead.torch.host import tensor
from softhead.torch.modes import plain
from softhead.torch.rows import Options
from softhead.torch.values import by_kernels


def answer(name: str, *arguments: Any, **options: Any) -> Any:
    """Return what the public function of a name makes of tensors."""
    if name == "gumbel_softmax":
        return _gumbel_softmax(*arguments, **options)
    # Targets and weights may come as what the functions take of NumPy, whatever is to be differentiated.
    arguments = tuple(_beside(arguments[0], one) for one in arguments)
    options |= {key: _beside(arguments[0], options[key]) for key in _ARRAYS & options.keys()}
    if name in _DIFFERENTIABLE and not plain(*arguments, *options.values()) and arguments[0].is_floating_point():
        result = _DIFFERENTIABLE[name](*arguments, **options)
        if result is not None:
            return result
    return by_kernels(name, getattr(generic, name), *arguments, **options)


def _beside(first: Tensor, value: Any) -> Any:
    """Return an array or a list as a tensor on the device of another one."""
    if value is None or isinstance(value, Tensor):
        return value
    return tensor(np.asarray(value)).to(first.device)


def _softmax(x: Tensor, /, **options: Any) -> Tensor | None:
    return _map(maps.softmax, x, **options)


def _log_softmax(x: Tensor, /, **options: Any) -> Tensor | None:
    return _map(maps.log_softmax, x, **options)


def _map(own: Any, x: Tensor, *, axis: Any = -1, temperature: float = 1.0, where: Any = None, out: Any = None) -> Any:
    """Return a map along one axis without a mask, else None."""
    if where is not None or out is not None or type(axis) is not int:
        return None
    return own(x, axis, temperature=temperature)


def _cross_entropy(
    logits: Tensor, targets: Tensor, /, *, axis: int = -1, weight: Tensor | None = None, **options: Any
) -> Tensor:
    axis = _checks.class_axis("logits", logits, axis)
    return losses.cross_entropy_along(logits, targets, axis, weight, Options(**options), ("logits", "targets"))


def _linear_cross_entropy(
    x: Tensor, linear_weight: Tensor, targets: Tensor, /, *, l2: float = 0.0, reduction: str = "mean", **options: Any
) -> Tensor:
    l2 = _checks.nonnegative("l2", l2)
    if l2 and reduction == "none":
        raise ValueError(f"{l2=} with reduction='none'; the penalty is no row's, so reduction must be 'mean' or 'sum'")
    value = linear.linear_cross_entropy(x, linear_weight, targets, reduction=reduction, **options)
    return value + 0.5 * l2 * linear_weight.square().sum() if l2 else value


def _gumbel_softmax(
    logits: Tensor, /, *, temperature: float = 1.0, hard: bool = False, axis: int = -1, rng: Any = None
) -> Tensor:
    if rng is not None and not isinstance(rng, int | torch.Generator):
        raise TypeError(f"rng is a {type(rng).__name__}; for tensors it must be a torch.Generator, an integer or None")
    generator = torch.Generator(logits.device).manual_seed(rng) if isinstance(rng, int) else rng
    return sampling.gumbel_softmax(logits, temperature, hard, dim=axis, generator=generator)


_ARRAYS = {"linear_bias", "weight", "where"}
_DIFFERENTIABLE: dict[str, Any] = {
    "cross_entropy": _cross_entropy,
    "linear_cross_entropy": _linear_cross_entropy,
    "log_softmax": _log_softmax,
    "softmax": _softmax,
}
