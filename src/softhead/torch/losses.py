"""Cross-entropy of tensors, by PyTorch's own signature, differentiable as often as asked for."""

import torch
from torch import Tensor
from torch.nn import _reduction

from softhead.torch.cross_entropy_function import CrossEntropy, compiled_cross_entropy
from softhead.torch.maps import as_rows, beside, floating
from softhead.torch.modes import needs_operations, transformed, with_autocast
from softhead.torch.rows import Options, differentiable


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    temperature: float = 1.0,
    z_loss: float = 0.0,
) -> Tensor:
    r"""Return the cross-entropy between targets and the softmax of logits: `torch.nn.functional.cross_entropy`.

    For a row of logits z with p = softmax(z / T) and lse the log-sum-exp of z / T, with targets q,

    .. math:: \ell = -\sum_c w_c q_c \log p_c + \zeta \, \mathrm{lse}^2.

    What PyTorch returns, more exactly: the loss and the gradient of a confident row are tiny, not 0; an ignored row is
    not read, so that NaN in it goes nowhere; half types are computed in float64 and rounded once. On the CPU loss and
    gradient are computed in one pass.

    Parameters
    ----------
    input : Tensor of shape (C,), (N, C) or (N, C, d1, ...)
        Logits: float16, bfloat16, float32 or float64.
    target : Tensor
        Integer classes in [0, C) of any integer dtype, of the shape of `input` without the classes; or probabilities,
        of its shape, finite and not negative. Gradients flow to these too.
    weight : Tensor of shape (C,), optional
        A weight for every class: finite, not negative, not all zero.
    size_average, reduce : bool, optional
        PyTorch's old names for `reduction`.
    ignore_index : int, default -100
        Rows with this integer target are not read: their loss and gradient are 0. Not used for probabilities.
    reduction : {"mean", "sum", "none"}, default "mean"
        "mean" divides the sum by the weights of the classes of the rows that are not ignored, or by the number of rows
        for probabilities.
    label_smoothing : float, default 0.0
        s, between 0 and 1: targets become (1 - s) q + s / C.
    temperature : float, default 1.0
        T, a finite number above 0.
    z_loss : float, default 0.0
        The factor of the squared log-sum-exp, not negative.

    Returns
    -------
    Tensor
        Of the dtype of `input`, float32 under autocast: a scalar, or with "none" of the shape of the classes.

    Raises
    ------
    TypeError
        If a dtype is none of the above.
    ValueError
        If shapes do not fit, or a weight, a probability or an option lies outside its range.
    IndexError
        If a class lies outside [0, C) and is not `ignore_index`. On a GPU, for which nothing waits, its loss and its
        gradient are NaN instead.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 2006, equations (4.108) and (4.109).

    Examples
    --------
    >>> import torch, softhead.torch
    >>> logits = torch.tensor([[40.0, 0.0]], requires_grad=True)
    >>> loss = softhead.torch.cross_entropy(logits, torch.tensor([0]))
    >>> loss.backward()
    >>> loss.detach(), logits.grad
    (tensor(4.2484e-18), tensor([[-4.2484e-18,  4.2484e-18]]))
    """
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    return cross_entropy_along(
        floating("input", input),
        target,
        min(1, max(input.dim() - 1, 0)),
        weight,
        Options(ignore_index, label_smoothing, temperature, z_loss, reduction),
        ("input", "target"),
    )


def cross_entropy_along(
    logits: Tensor, target: Tensor, dim: int, weight: Tensor | None, options: Options, names: tuple[str, str]
) -> Tensor:
    """Return the cross-entropy with the classes along a dimension, counted from 0."""
    beside(floating(names[0], logits), **{names[1]: target}, weight=weight)
    if logits.dim() == 0:
        raise ValueError(f"{names[0]} is a single number; it needs a dimension of classes")
    logits, target, weight = with_autocast(logits, target, weight)
    kept = logits.shape[:dim] + logits.shape[dim + 1 :]
    if target.shape == logits.shape:
        targets = as_rows(target, dim)
    elif target.shape == kept:
        targets = target.reshape(-1)
    else:
        raise ValueError(
            f"{names[1]} has shape {tuple(target.shape)}; with {names[0]} of shape {tuple(logits.shape)}, integer "
            f"classes have shape {tuple(kept)} and probabilities {tuple(logits.shape)}"
        )
    rows = as_rows(logits, dim)
    if needs_operations():
        value = differentiable(rows, targets, weight, options)
    elif torch.compiler.is_compiling():
        value = compiled_cross_entropy(rows, targets, weight, options)
    else:
        with_gradient = torch.is_grad_enabled() and rows.requires_grad and not transformed()
        value = CrossEntropy.apply(rows, targets, weight, options, with_gradient)[0]
    return value.reshape(kept) if options.reduction == "none" else value
