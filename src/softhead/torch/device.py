"""The kernels for rows on another device: Triton's for CUDA where it is installed; elsewhere formulas serve."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

_DEVICES = ("cuda",)


def kernels_for(rows: torch.Tensor) -> Any | None:
    """Return the kernels that take these rows (n, C), None where there are none."""
    if rows.device.type not in _DEVICES or rows.dtype == torch.float64 or not rows.numel():
        return None
    return import_module("softhead.kernels.triton") if find_spec("triton") else None


def side_by_side(rows: torch.Tensor) -> torch.Tensor:
    """Return rows whose entries lie side by side in memory, as the kernels take them: a copy where they do not."""
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()
