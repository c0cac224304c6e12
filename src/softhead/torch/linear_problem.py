"""What a pass over the rows of a linear map's loss is given, and what it gives."""

from typing import NamedTuple

import torch
from torch import Tensor

from softhead.torch.rows import Options, RowTargets


class Linear(NamedTuple):
    """The arguments of a linear class loss: rows (n, d), weight (C, d), bias (C,) or None, targets of the rows."""

    x: Tensor
    linear_weight: Tensor
    linear_bias: Tensor | None
    target: Tensor
    weight: Tensor | None
    options: Options
    block_rows: int  # how many rows are taken at once; 0 chooses

    def dtype(self) -> torch.dtype:
        """Return the dtype of the value, to which those of the tensors are promoted."""
        dtype = torch.promote_types(self.x.dtype, self.linear_weight.dtype)
        return dtype if self.linear_bias is None else torch.promote_types(dtype, self.linear_bias.dtype)


class Result(NamedTuple):
    """What a pass gives."""

    loss: Tensor  # reduced
    denominator: Tensor  # what the reduction divided by, float64
    gradients: list[Tensor | None]  # by x, weight and bias; None where not needed


def unscaled(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of gradients that are yet to be scaled: float16 has no room for them before a loss is."""
    return torch.float32 if dtype == torch.float16 else dtype


def cleared(x: Tensor, targets: RowTargets) -> Tensor:
    """Return x with zeros in ignored rows, whose NaN a product with their zero residuals would spread."""
    return x if targets.ignored is None else torch.where(targets.ignored, 0.0, x)
