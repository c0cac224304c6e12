"""In which mode PyTorch calls: with gradients to follow, transformed, compiling, or under autocast."""

from typing import Any

import torch
from torch.autograd import forward_ad

_BATCHED = torch._C._dispatch_key_parse("Batched")


def values_are_hidden() -> bool:
    """Return whether values cannot be looked at: a program is compiled, or functions are transformed."""
    return torch.compiler.is_compiling() or transformed()


def transformed() -> bool:
    """Return whether a transformation of torch.func is active."""
    return bool(torch._C._are_functorch_transforms_active())


def forward_mode() -> bool:
    """Return whether tangents may be pushed forward, or rows be mapped over: by torch.func, or by dual numbers."""
    if forward_ad._current_level >= 0:
        return True
    if torch.compiler.is_compiling():  # which transformation it is cannot be asked there
        return transformed()
    stack = torch._C._functorch.get_interpreter_stack() if transformed() else None
    return any(level.key() != torch._C._functorch.TransformType.Grad for level in stack or ())


def needs_operations() -> bool:
    """Return whether only PyTorch's own operations have all derivatives: see `rows.differentiable`."""
    if not transformed():
        return False
    if torch.compiler.is_compiling():
        return True
    stack = torch._C._functorch.get_interpreter_stack() or ()
    return sum(level.key() == torch._C._functorch.TransformType.Jvp for level in stack) > 1


def by_formula(tensor: torch.Tensor) -> bool:
    """Return whether a loss without a custom operator is left to PyTorch's own operations."""
    return torch.compiler.is_compiling() or needs_operations() or tensor.device.type != "cpu"


def plain(*tensors: object) -> bool:
    """Return whether nothing but values is asked for, of CPU tensors."""
    return values_only(*tensors) and all(one.device.type == "cpu" for one in tensors if isinstance(one, torch.Tensor))


def values_only(*tensors: object) -> bool:
    """Return whether nothing but values is asked for, on any device."""
    given = [tensor for tensor in tensors if isinstance(tensor, torch.Tensor)]
    if values_are_hidden() or forward_ad._current_level >= 0:
        return False
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
        return False
    return not any(_batched(tensor) for tensor in given)


def _batched(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is mapped over by the older vmap, that of torch.autograd.grad(is_grads_batched=True)."""
    return bool(torch._C._dispatch_keys(tensor).has(_BATCHED))


def with_autocast(*tensors: Any) -> tuple[Any, ...]:
    """Return what a loss is computed of: under autocast half types in float32, as PyTorch's own losses."""
    device = tensors[0].device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return tensors
    return tuple(
        one.float() if one is not None and one.is_floating_point() and one.itemsize < 4 else one for one in tensors
    )
