"""The losses as modules, with the parameters of PyTorch's."""

import math
from typing import Any

import torch
from torch import Tensor

from softhead.torch.linear import linear_cross_entropy
from softhead.torch.losses import cross_entropy


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`cross_entropy` as a module: `torch.nn.CrossEntropyLoss`, more exact.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction, label_smoothing, temperature, z_loss
        As in `cross_entropy`.

    Examples
    --------
    >>> import torch, softhead.torch
    >>> loss = softhead.torch.CrossEntropyLoss(label_smoothing=0.1)
    >>> loss(torch.zeros(3, 4), torch.tensor([0, 1, 2]))
    tensor(1.3863)
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        temperature: float = 1.0,
        z_loss: float = 0.0,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.temperature, self.z_loss = temperature, z_loss

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits."""
        return cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            temperature=self.temperature,
            z_loss=self.z_loss,
        )


class LinearCrossEntropyLoss(torch.nn.Module):
    """A linear head and its loss as one module, which never holds all logits: `torch.nn.LinearCrossEntropyLoss`.

    The head is the submodule `linear`, a `torch.nn.Linear`, under the names of PyTorch's state.

    Parameters
    ----------
    in_features, num_classes : int
        The sizes of the head.
    out_features : tuple of int, default ()
        With these, one loss for each of their positions, as in PyTorch.
    bias : bool, default False
        Whether the head has one.
    device, dtype
        Where and in what dtype the head is made.
    reduction, weight, ignore_index, label_smoothing, options, temperature, z_loss
        As in `linear_cross_entropy`.

    Examples
    --------
    >>> import torch, softhead.torch
    >>> head = softhead.torch.LinearCrossEntropyLoss(8, 5)
    >>> head(torch.zeros(3, 8), torch.tensor([0, 1, 2]))
    tensor(1.6094, grad_fn=...)
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: Any = None,
        temperature: float = 1.0,
        z_loss: float = 0.0,
    ) -> None:
        super().__init__()
        n_outputs = math.prod(out_features, start=num_classes)
        self.linear = torch.nn.Linear(in_features, n_outputs, bias=bias, device=device, dtype=dtype)
        self.register_buffer("weight", weight)
        self.shape = (num_classes, *out_features)
        self.options = {
            "reduction": reduction,
            "ignore_index": ignore_index,
            "label_smoothing": label_smoothing,
            "options": options,
            "temperature": temperature,
            "z_loss": z_loss,
        }

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of rows of features."""
        matrix, bias = self.linear.weight, self.linear.bias
        return linear_cross_entropy(
            input,
            matrix.reshape(*self.shape, matrix.shape[1]),
            target,
            linear_bias=None if bias is None else bias.reshape(self.shape),
            weight=self.weight,
            **self.options,
        )

    def extra_repr(self) -> str:
        """Return the options as text."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())
