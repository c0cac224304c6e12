"""The coefficients of a linear classifier as a layer of PyTorch, and back."""

from typing import Any

import numpy as np
import torch
from torch import nn


def coefficients(linear: nn.Linear) -> tuple[np.ndarray, np.ndarray | None]:
    """Return copies of the weights (out_features, in_features) and of the bias (out_features,) of a layer, if any.

    Raises
    ------
    TypeError
        If it is no linear layer.
    """
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"linear is a {type(linear).__name__}; accepted is a torch.nn.Linear")
    return _array(linear.weight), None if linear.bias is None else _array(linear.bias)


def linear(weights: np.ndarray, bias: np.ndarray, device: Any) -> nn.Linear:
    """Return a layer with weights (out_features, in_features) and a bias (out_features,), in their dtype."""
    layer = nn.utils.skip_init(nn.Linear, weights.shape[1], len(weights))
    layer.weight = nn.Parameter(torch.tensor(weights, device=device))
    layer.bias = nn.Parameter(torch.tensor(bias, device=device))
    return layer


def _array(parameter: torch.Tensor) -> np.ndarray:
    """Return a copy of a parameter: in float64 if it is, else in float32, which holds the half types."""
    wide = torch.promote_types(parameter.dtype, torch.float32)
    return np.array(parameter.detach().cpu().to(wide).numpy())
