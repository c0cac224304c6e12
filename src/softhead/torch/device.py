"""The kernels for rows on another device: Triton's for CUDA where it is installed; elsewhere formulas serve."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from softhead.torch.host import wide
from softhead.torch.modes import values_only

_DEVICES = ("cuda",)


def kernels_for(rows: torch.Tensor) -> Any | None:
    """Return the kernels that take these rows (n, C), None where there are none."""
    if rows.dtype == torch.float64 or not rows.numel() or not has_kernels(rows.device):
        return None
    return import_module("softhead.kernels.triton")


def has_kernels(device: torch.device) -> bool:
    """Return whether there are kernels for a device."""
    return device.type in _DEVICES and find_spec("triton") is not None


def on_host(device: torch.device) -> bool:
    """Return whether tensors of a device are left to the compiled loops."""
    return device.type == "cpu" and device.type not in _DEVICES


def gradient_dtype(rows: torch.Tensor) -> torch.dtype:
    """Return the dtype in which the gradient of a loss by rows waits for what comes from above.

    bfloat16 has the range of float32, so that a GPU, which would read and write three times as much, rounds it at once.
    """
    if rows.dtype == torch.bfloat16 and rows.device.type in _DEVICES:
        return torch.bfloat16
    return wide(rows.dtype)


def multiplied(gradient: torch.Tensor, upstream: torch.Tensor) -> torch.Tensor | None:
    """Return a gradient, which is overwritten, times a number that is not looked at; None where kernels cannot."""
    kernels = kernels_for(gradient) if gradient.is_contiguous() and gradient.ndim == 2 else None
    if kernels is None or upstream.dim() or upstream.device != gradient.device or not values_only(gradient, upstream):
        return None
    with torch.cuda.device_of(gradient):
        kernels.linear.multiply(gradient, upstream)
    return gradient


def side_by_side(rows: torch.Tensor) -> torch.Tensor:
    """Return rows whose entries lie side by side in memory, as the kernels take them: a copy where they do not."""
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()
