"""Cross-entropy of a linear map, by PyTorch's own signature, without ever holding all logits."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from softhead.torch.linear_function import LinearCrossEntropy, compiled_linear_cross_entropy
from softhead.torch.losses import cross_entropy, cross_entropy_along
from softhead.torch.maps import beside, floating
from softhead.torch.modes import forward_mode, transformed
from softhead.torch.rows import Options


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
    temperature: float = 1.0,
    z_loss: float = 0.0,
) -> Tensor:
    r"""Return the cross-entropy of a linear map: `torch.nn.functional.linear_cross_entropy`, in the memory of a block.

    With logits z = W x + b for every row, the loss is that of `cross_entropy`. Blocks of logits are turned into their
    part of the gradients in place, so that memory beyond the inputs and the gradients is one block, 64 MB; with half
    types also a float32 copy of the gradient of the weight, in which it is summed. With float16 gradients stay float32
    until they are scaled by what comes from above, so that a scaled loss (`torch.amp.GradScaler`) serves. Gradients of
    a mean or a sum are computed in the forward pass, those of "none" when the factors of the rows are known. Products
    with the Hessian (double backward) take the same memory.

    Parameters
    ----------
    input : Tensor of shape (..., in_features)
        x, the rows: float16, bfloat16, float32 or float64.
    linear_weight : Tensor of shape (C, in_features) or (C, d1, ..., in_features)
        W, one row a class. With the dimensions d1, ... it makes one loss for each of them, as in PyTorch, from the
        logits of all.
    target : Tensor
        Integer classes in [0, C), of shape (...), or (N, d1, ...); or probabilities, of the shape of the logits, whose
        classes are the last dimension, or with d1, ... the second.
    linear_bias : Tensor of shape (C,) or (C, d1, ...), optional
        b, no bias by default.
    weight, reduction, label_smoothing, temperature, z_loss
        As in `cross_entropy`.
    ignore_index : int, optional
        As in `cross_entropy`, -100 by default.
    options : torch.nn.LinearCrossEntropyOptions, optional
        Only its `batch_chunk_size` is used, as the number of rows in a block; results agree to rounding for any.

    Returns
    -------
    Tensor
        Of the dtype to which `input`, `linear_weight` and `linear_bias` are promoted, float32 under autocast: a scalar,
        or with "none" of the shape of the classes.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `cross_entropy` raises them.
    NotImplementedError
        If third derivatives are asked for.

    References
    ----------
    E. Wijmans et al., "Cut your losses in large-vocabulary language models", ICLR 2025.

    Examples
    --------
    >>> import torch, softhead.torch
    >>> x, head = torch.ones(4, 3), torch.nn.Linear(3, 10)
    >>> _ = torch.nn.init.zeros_(head.weight), torch.nn.init.zeros_(head.bias)
    >>> target = torch.tensor([0, 3, 5, 9])
    >>> softhead.torch.linear_cross_entropy(x, head.weight, target, linear_bias=head.bias)  # log 10
    tensor(2.3026, grad_fn=...)
    """
    numbers = Options(-100 if ignore_index is None else ignore_index, label_smoothing, temperature, z_loss, reduction)
    x, matrix, bias = floating("input", input), floating("linear_weight", linear_weight), linear_bias
    if bias is not None:
        floating("linear_bias", bias)
    beside(x, linear_weight=matrix, target=target, linear_bias=bias, weight=weight)
    _check_shapes(x, matrix, bias)
    value_dtype = torch.promote_types(x.dtype, matrix.dtype)
    value_dtype = value_dtype if bias is None else torch.promote_types(value_dtype, bias.dtype)
    if torch.is_autocast_enabled(x.device.type):
        value_dtype = torch.promote_types(value_dtype, torch.float32)
        low = torch.get_autocast_dtype(x.device.type)
        x, matrix, bias = (
            one if one is None or one.dtype == torch.float64 else one.to(low) for one in (x, matrix, bias)
        )
    if matrix.dim() > 2:
        logits = functional.linear(x, matrix.flatten(0, -2), None if bias is None else bias.flatten())
        logits = logits.reshape(*x.shape[:-1], *matrix.shape[:-1])
        return cross_entropy(
            logits.to(value_dtype),
            target,
            weight,
            ignore_index=numbers.ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
            temperature=temperature,
            z_loss=z_loss,
        )
    leading, n_classes = x.shape[:-1], len(matrix)
    soft = target.shape == (*leading, n_classes)
    if not soft and target.shape != leading:
        raise ValueError(
            f"target has shape {tuple(target.shape)}; with input of shape {tuple(input.shape)} and {n_classes} "
            f"classes, integer classes have shape {tuple(leading)} and probabilities {(*leading, n_classes)}"
        )
    if _unfused(target):
        logits = functional.linear(x, matrix, bias).to(value_dtype)
        return cross_entropy_along(logits, target, len(leading), weight, numbers, ("input", "target"))
    block_rows = _rows_at_once(options)
    n_rows = math.prod(leading)  # with no features or no classes, -1 would not say
    rows, targets = (
        x.reshape(n_rows, x.shape[-1]),
        target.reshape(n_rows, n_classes) if soft else target.reshape(n_rows),
    )
    needed = tuple(one is not None and torch.is_grad_enabled() and one.requires_grad for one in (x, matrix, bias))
    if reduction == "none" or transformed():
        needed = (False, False, False)  # the factors of the rows are not known yet
    tensors = rows, matrix, bias, targets, weight
    if torch.compiler.is_compiling():
        flat = numbers.ignore_index, float(label_smoothing), float(temperature), float(z_loss), reduction
        value = compiled_linear_cross_entropy(*tensors, *flat, block_rows, value_dtype, *needed)[0]
    else:
        value = LinearCrossEntropy.apply(*tensors, numbers, block_rows, value_dtype, needed)[0]
    return value.reshape(leading) if reduction == "none" else value


def _rows_at_once(options: Any) -> int:
    """Return the number of rows in a block that PyTorch's options ask for, 0 where they leave it open."""
    if options is None:
        return 0
    if not hasattr(options, "batch_chunk_size"):
        raise TypeError(f"options: {options!r}; accepted are None and torch.nn.LinearCrossEntropyOptions")
    rows = options.batch_chunk_size
    if rows is not None and rows < 1:
        raise ValueError(f"options: batch_chunk_size is {rows}; it must be at least 1, or None")
    return int(rows or 0)


def _unfused(target: Tensor) -> bool:
    """Return whether a derivative may be asked for that only the unfused form has."""
    if target.requires_grad and torch.is_grad_enabled():  # its gradient takes as much memory as the logits
        return True
    return forward_mode()


def _check_shapes(x: Tensor, matrix: Tensor, bias: Tensor | None) -> None:
    """Check that x (..., d), linear_weight (C, ..., d) and linear_bias (C, ...) fit together."""
    if matrix.dim() < 2:
        raise ValueError(f"linear_weight has shape {tuple(matrix.shape)}; it must have two dimensions or more, (C, d)")
    if x.dim() == 0 or x.shape[-1] != matrix.shape[-1]:
        raise ValueError(
            f"input has shape {tuple(x.shape)}; with linear_weight of shape {tuple(matrix.shape)} its last dimension "
            f"must be {matrix.shape[-1]} long"
        )
    if bias is not None and bias.shape != matrix.shape[:-1]:
        raise ValueError(
            f"linear_bias has shape {tuple(bias.shape)}; with linear_weight of shape {tuple(matrix.shape)} it must be "
            f"{tuple(matrix.shape[:-1])}"
        )
    if matrix.dim() > 2 and x.dim() != 2:
        raise ValueError(f"input has shape {tuple(x.shape)}; with several losses a row it must be (N, in_features)")
