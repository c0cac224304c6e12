"""The cross-entropy of rows, its gradient, and what PyTorch needs to differentiate and transform both.

`CrossEntropy` serves PyTorch's eager mode, with torch.func; the custom operator below it compiled programs. The
gradient is a function of its own, so that it can be differentiated again: its derivatives are formulas in the
probabilities, which are differentiable themselves.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from softhead.torch.device import gradient_dtype, multiplied
from softhead.torch.host import empty, wide
from softhead.torch.maps import LogSoftmax, Softmax, log_softmax, merged
from softhead.torch.modes import plain, transformed
from softhead.torch.rows import Options, reduced, row_targets


class CrossEntropy(torch.autograd.Function):
    """The loss of rows (n, C), reduced; its gradient, if asked for (else of no rows); and what it is divided by."""

    @staticmethod
    def forward(
        rows: Tensor, target: Tensor, weight: Tensor | None, options: Options, with_gradient: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three."""
        return _value_and_gradient(rows, target, weight, options, with_gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep what the derivatives are made of."""
        rows, target, weight, ctx.options, _ = inputs
        _, gradient, denominator = output
        ctx.mark_non_differentiable(gradient, denominator)
        ctx.save_for_backward(rows, target, weight, denominator)
        ctx.gradient = gradient if len(gradient) else None
        ctx.save_for_forward(rows, target, weight, denominator)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: None) -> Any:
        """Return the gradients of rows and of targets that are probabilities."""
        if upstream is None:
            return None, None, None, None, None
        rows, target, weight, denominator = ctx.saved_tensors
        by_rows = by_target = None
        # Handed out once: who has it may write to it. A second call computes it again.
        gradient, ctx.gradient = ctx.gradient, None
        if ctx.needs_input_grad[0]:
            if not torch.is_grad_enabled() and not transformed():
                if gradient is None:
                    gradient = _value_and_gradient(rows, target, weight, ctx.options, True)[1]
                by_rows = times(gradient, upstream, rows.dtype)
            else:
                by_rows = Gradient.apply(rows, target, weight, _factor(upstream, denominator, len(rows)), ctx.options)
        if ctx.needs_input_grad[1]:
            surprise = log_softmax(rows.to(wide(rows.dtype)), 1, temperature=ctx.options.temperature)
            factor = _factor(upstream, denominator, len(rows))
            by_target = (factor.unsqueeze(1) * _spread(-surprise, weight, ctx.options)).to(target.dtype)
        return by_rows, by_target, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, target_tangent: Tensor | None, *_: None) -> Any:
        """Return how the loss moves."""
        rows, target, weight, denominator = ctx.saved_tensors
        options = ctx.options
        factor = _factor(torch.ones_like(denominator), denominator, len(rows))
        moved = torch.zeros_like(factor)
        if tangent is not None:
            moved = moved + (Gradient.apply(rows, target, weight, factor, options) * tangent).sum(1)
        if target_tangent is not None:
            surprise = LogSoftmax.apply(rows.to(wide(rows.dtype)), options.temperature)
            moved = moved - factor * (_spread(surprise, weight, options) * target_tangent).sum(1)
        return (moved if options.reduction == "none" else moved.sum()).to(rows.dtype), None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, rows: Tensor, target: Tensor, weight: Tensor | None, options: Options, _: bool
    ) -> Any:
        """Map over rows: the losses of all of them, reduced for each sample."""

        def losses_of(*arguments: Any) -> tuple[Tensor, Tensor]:
            return CrossEntropy.apply(*arguments, False)[:2]

        return _map_loss(info, in_dims, losses_of, rows, target, weight, options)


class Gradient(torch.autograd.Function):
    """The gradients of the losses of rows (n, C), each times a factor (n,)."""

    @staticmethod
    def forward(rows: Tensor, target: Tensor, weight: Tensor | None, factor: Tensor, options: Options) -> Tensor:
        """Return them."""
        targets = row_targets(target, _shape(rows), weight, options, rows.device)
        out = empty(_shape(rows), wide(rows.dtype), rows.device)
        targets.gradients(rows.detach(), 1.0, out)
        return (out * factor.unsqueeze(1)).to(rows.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        """Keep what the derivatives are made of."""
        *tensors, ctx.options = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        """Return its product with the Hessian, and with the derivatives by targets and factors."""
        rows, target, weight, factor = ctx.saved_tensors
        options = ctx.options
        p, mass, pull, factor = _curvature(rows, target, weight, factor, options)
        by_rows = _hessian_product(p, mass, pull, factor, cotangent, options).to(rows.dtype)
        by_target = by_factor = None
        if ctx.needs_input_grad[1]:
            mean = (p * cotangent).sum(1, keepdim=True)
            by_target = factor * _spread(mean - cotangent, weight, options) / options.temperature
            by_target = by_target.to(target.dtype)
        if ctx.needs_input_grad[3]:
            ones = torch.ones_like(ctx.saved_tensors[3])
            by_factor = (Gradient.apply(rows, target, weight, ones, options) * cotangent).sum(1).to(ones.dtype)
        return by_rows, by_target, None, by_factor, None

    @staticmethod
    def jvp(ctx: Any, tangent: Any, target_tangent: Any, _: None, factor_tangent: Any, *__: None) -> Tensor:
        """Return how the gradients move."""
        rows, target, weight, factor = ctx.saved_tensors
        options = ctx.options
        p, mass, pull, factor = _curvature(rows, target, weight, factor, options)
        moved = torch.zeros_like(p)
        if tangent is not None:
            moved = moved + _hessian_product(p, mass, pull, factor, tangent, options)
        if target_tangent is not None:
            change = _spread(target_tangent, weight, options)
            moved = moved + factor * (p * change.sum(1, keepdim=True) - change) / options.temperature
        if factor_tangent is not None:
            ones = torch.ones_like(factor_tangent)
            moved = moved + Gradient.apply(rows, target, weight, ones, options) * factor_tangent.unsqueeze(1)
        return moved.to(rows.dtype)

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, rows: Tensor, target: Tensor, weight: Tensor | None, factor: Tensor, options: Options
    ) -> Any:
        """Map over rows, which are independent."""
        _refuse_mapped(in_dims[2])
        all_rows, targets, factors = merged(info, (*in_dims[:2], in_dims[3]), rows, target, factor)
        gradients = Gradient.apply(all_rows, targets, weight, factors, options)
        return gradients.unflatten(0, (info.batch_size, -1)), 0


def compiled_cross_entropy(rows: Tensor, target: Tensor, weight: Tensor | None, options: Options) -> Tensor:
    """Return the loss of rows, reduced, in a program that is being compiled."""
    with_gradient = torch.is_grad_enabled() and rows.requires_grad
    numbers = (options.ignore_index, *(float(number) for number in list(options.numbers().values())[:3]))
    return _compiled(rows, target, weight, *numbers, options.reduction, with_gradient)[0]


@torch.library.custom_op("softhead::cross_entropy", mutates_args=())
def _compiled(
    rows: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    temperature: float,
    z_loss: float,
    reduction: str,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `CrossEntropy` does."""
    options = Options(ignore_index, label_smoothing, temperature, z_loss, reduction)
    return _value_and_gradient(rows, target, weight, options, with_gradient)


@_compiled.register_fake
def _shapes(rows: Tensor, target: Tensor, weight: Tensor | None, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    *_, reduction, with_gradient = options
    value = rows.new_empty(rows.shape[:1] if reduction == "none" else ())
    gradient = rows.new_empty((rows.shape[0] if with_gradient else 0, rows.shape[1]), dtype=gradient_dtype(rows))
    return value, gradient, rows.new_empty((), dtype=torch.float64)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    rows, target, weight, *numbers, _ = inputs
    ctx.options = Options(*numbers)
    ctx.save_for_backward(rows, target, weight, output[1], output[2])


def _compiled_backward(ctx: Any, upstream: Tensor, *_: Any) -> Any:
    rows, target, weight, gradient, denominator = ctx.saved_tensors
    by_rows = by_target = None
    if ctx.needs_input_grad[0]:
        by_rows = (gradient * _column(upstream)).to(rows.dtype)
    if ctx.needs_input_grad[1]:
        surprise = log_softmax(rows.to(wide(rows.dtype)), 1, temperature=ctx.options.temperature)
        factor = _factor(upstream, denominator, rows.shape[0])
        by_target = (factor.unsqueeze(1) * _spread(-surprise, weight, ctx.options)).to(target.dtype)
    return by_rows, by_target, *[None] * 7


@_compiled.register_vmap
def _map_compiled(info: Any, in_dims: Any, rows: Tensor, target: Tensor, weight: Tensor | None, *numbers: Any) -> Any:
    *given, with_gradient = numbers

    def losses_of(rows: Tensor, target: Tensor, weight: Tensor | None, options: Options) -> tuple[Tensor, Tensor]:
        return _compiled(rows, target, weight, *given[:-1], "none", with_gradient)[:2]

    return _map_loss(info, in_dims, losses_of, rows, target, weight, Options(*given))


_compiled.register_autograd(_compiled_backward, setup_context=_keep)


def _value_and_gradient(
    rows: Tensor, target: Tensor, weight: Tensor | None, options: Options, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss, its gradient if asked for, yet to be scaled, and the denominator."""
    rows = rows.detach()
    targets = row_targets(target, _shape(rows), weight, options, rows.device)
    denominator = targets.denominator()
    gradient = empty((len(rows) if with_gradient else 0, rows.shape[1]), gradient_dtype(rows), rows.device)
    losses = targets.gradients(rows, denominator, gradient) if with_gradient else targets.losses(rows)
    value = reduced(losses, denominator, options.reduction, rows.dtype)
    if isinstance(denominator, Tensor):
        return value, gradient, denominator.to(torch.float64)
    return value, gradient, torch.tensor(denominator, dtype=torch.float64, device=rows.device)


def _map_loss(
    info: Any, in_dims: Any, losses_of: Any, rows: Tensor, target: Tensor, weight: Tensor | None, options: Options
) -> Any:
    """Map a loss over rows: the losses of all of them, and gradients if there are, reduced for each sample."""
    _refuse_mapped(in_dims[2])
    size = info.batch_size
    all_rows, all_targets = merged(info, in_dims[:2], rows, target)
    losses, gradients = losses_of(all_rows, all_targets, weight, replace(options, reduction="none"))
    losses = losses.unflatten(0, (size, -1))
    gradients = gradients.reshape(size, gradients.shape[0] // size, gradients.shape[1])
    denominator = losses.new_ones(size, dtype=torch.float64)
    if options.reduction == "mean":
        denominator = _counts(all_targets, weight, options).unflatten(0, (size, -1)).sum(1)
        gradients = gradients / denominator.to(gradients.dtype).reshape(size, 1, 1)
    if options.reduction != "none":
        losses = losses.sum(1) / denominator.to(losses.dtype)
    return (losses, gradients, denominator), (0, 0, 0)


def times(gradient: Tensor, upstream: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a gradient, which is overwritten, times what comes from above: as it is where that is 1."""
    if gradient.dtype != dtype or not plain(upstream):
        at_once = multiplied(gradient, upstream) if gradient.dtype == dtype else None
        return (gradient * _column(upstream)).to(dtype) if at_once is None else at_once
    if upstream.dim() == 0 and upstream.item() == 1.0:  # a product would be one more pass over memory
        return gradient
    return gradient.mul_(_column(upstream))


def _shape(rows: Tensor) -> tuple[int, int]:
    """Return the numbers of rows and of classes."""
    return rows.shape[0], rows.shape[1]


def _column(upstream: Tensor) -> Tensor:
    """Return what comes from above, a number or one for each row, so that it multiplies rows."""
    return upstream.unsqueeze(1) if upstream.dim() else upstream


def _factor(upstream: Tensor, denominator: Tensor, n: int) -> Tensor:
    """Return what the gradient of every row is multiplied by, (n,); 0 where no row counts."""
    denominator = denominator.to(wide(upstream.dtype))
    factor = upstream.to(wide(upstream.dtype)) / torch.where(denominator == 0, 1.0, denominator)
    return factor.expand(n)


def _counts(target: Tensor, weight: Tensor | None, options: Options) -> Tensor:
    """Return what every row adds to the denominator of a mean."""
    if target.dim() > 1:
        return torch.ones(len(target), dtype=torch.float64, device=target.device)
    read = target != options.ignore_index
    if weight is None:
        return read.to(torch.float64)
    return torch.where(read, weight.to(torch.float64)[torch.where(read, target, 0).long()], 0.0)


def _spread(by_class: Tensor, weight: Tensor | None, options: Options) -> Tensor:
    """Return entries times the weights of their classes and what smoothing leaves: the derivative by the targets."""
    kept = (1.0 - options.label_smoothing) * by_class
    return kept if weight is None else kept * weight.to(kept.dtype)


def _curvature(
    rows: Tensor, target: Tensor, weight: Tensor | None, factor: Tensor, options: Options
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Return p, the weighted sum of the targets, 2 z_loss lse (or None) and the factor: of the rows that are read."""
    rows = rows.to(wide(rows.dtype))
    n_classes = rows.shape[1]
    weights = torch.ones(n_classes, dtype=rows.dtype, device=rows.device) if weight is None else weight.to(rows.dtype)
    kept, spread = 1.0 - options.label_smoothing, options.label_smoothing / max(n_classes, 1) * weights.sum()
    factor = factor.unsqueeze(1)
    if target.dim() > 1:
        mass = kept * (target * weights).sum(1, keepdim=True) + spread
    else:
        read = target != options.ignore_index
        mass = (kept * weights[torch.where(read, target, 0).long()] + spread).unsqueeze(1)
        read = read.unsqueeze(1)
        rows, factor = torch.where(read, rows, 0.0), torch.where(read, factor, 0.0)
    p = Softmax.apply(rows, options.temperature)
    pull = None
    if options.z_loss:
        # Of the largest class log p is its z less the log-sum-exp, and both are known without cancellation.
        top = rows.argmax(1, keepdim=True)
        log_p = LogSoftmax.apply(rows, options.temperature).gather(1, top)
        pull = 2.0 * options.z_loss * (rows.gather(1, top) / options.temperature - log_p)
    return p, mass, pull, factor


def _hessian_product(
    p: Tensor, mass: Tensor, pull: Tensor | None, factor: Tensor, t: Tensor, options: Options
) -> Tensor:
    """Return the factor times ((mass + pull) p (t - mean of t) + 2 z_loss (mean of t) p) / T^2."""
    mean = (p * t).sum(1, keepdim=True)
    product = (mass if pull is None else mass + pull) * (p * (t - mean))
    if pull is not None:
        product = product + 2.0 * options.z_loss * mean * p
    return factor * product / options.temperature**2


def _refuse_mapped(dim: int | None) -> None:
    """Refuse a mapped weight."""
    if dim is not None:
        raise NotImplementedError(
            "weight is mapped over by vmap; the weights of the classes must be common to all samples"
        )
