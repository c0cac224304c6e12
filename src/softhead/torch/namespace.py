"""PyTorch by the names of the Python array API standard (2024.12), as far as the formulas of `generic` need them.

Most names are PyTorch's own; tensors do not keep the standard, but its functions take `axis` and `keepdims`.
"""

import functools
from typing import Any

import torch

from softhead.generic.namespace import Namespace, register
from softhead.torch.modes import values_are_hidden


class _Info:
    """What the standard's inspection of a library tells, as far as it is asked."""

    def default_dtypes(self, *, device: Any) -> dict[str, torch.dtype]:
        """Return the dtypes that numbers of each kind get."""
        return {"integral": torch.int64}


class _Names:
    """The functions: PyTorch's, but for those that it calls otherwise."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def __array_namespace_info__(self) -> _Info:
        return _Info()

    def asarray(self, value: Any, *, device: Any) -> torch.Tensor:
        """Return a value as a tensor; one that lies on another device stays there, and operations refuse it."""
        return value if isinstance(value, torch.Tensor) else torch.as_tensor(value, device=device)

    def astype(self, x: torch.Tensor, dtype: torch.dtype, *, copy: bool = False) -> torch.Tensor:
        """Return a tensor in a dtype; without a copy where it has it already, for none is ever written to."""
        return x.to(dtype)

    def isdtype(self, dtype: torch.dtype, kind: str | tuple[str, ...]) -> bool:
        """Return whether a dtype is of a kind, or of one of several."""
        kinds = {
            "bool": dtype == torch.bool,
            "real floating": dtype.is_floating_point,
            "integral": not (dtype == torch.bool or dtype.is_floating_point or dtype.is_complex),
        }
        return any(kinds[one] for one in ([kind] if isinstance(kind, str) else kind))

    def max(self, x: torch.Tensor, *, axis: int, keepdims: bool) -> torch.Tensor:
        """Return the maximum along an axis, without its position."""
        return torch.amax(x, axis, keepdims)

    def permute_dims(self, x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
        """Return a view with its axes in another order."""
        return x.permute(axes)

    def expand_dims(self, x: torch.Tensor, *, axis: int) -> torch.Tensor:
        """Return a view with an axis of length 1."""
        return x.unsqueeze(axis)

    def matrix_transpose(self, x: torch.Tensor) -> torch.Tensor:
        """Return a view with the last two axes exchanged."""
        return x.mT

    def take(self, x: torch.Tensor, indices: torch.Tensor, *, axis: int) -> torch.Tensor:
        """Return entries along an axis."""
        return x.index_select(axis, indices)

    def result_type(self, *arrays: torch.Tensor) -> torch.dtype:
        """Return the dtype to which those of tensors are promoted."""
        return functools.reduce(torch.promote_types, (array.dtype for array in arrays))


_names = _Names()


def namespace(tensor: torch.Tensor) -> Namespace:
    """Return PyTorch on a tensor's device, as the formulas see it."""
    wide = torch.float32 if tensor.device.type == "mps" else torch.float64
    return Namespace(_names, tensor.device, wide, not values_are_hidden())


register(torch.Tensor, namespace)
