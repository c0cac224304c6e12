"""The fused loss of a linear map for PyTorch's automatic differentiation: each derivative is a function of its own.

Value, gradients, and products with the Hessian keep the memory of one block. Third derivatives are not offered here:
`linear` goes over to the unfused form where they, forward mode or vmap are asked for by torch.func.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from softhead.torch import linear_passes
from softhead.torch.device import multiplied
from softhead.torch.host import wide
from softhead.torch.linear_problem import Linear, unscaled
from softhead.torch.modes import plain, transformed
from softhead.torch.rows import Options


class LinearCrossEntropy(torch.autograd.Function):
    """The loss, reduced. If asked for, its gradients are computed in the same pass."""

    @staticmethod
    def forward(
        x: Tensor,
        linear_weight: Tensor,
        linear_bias: Tensor | None,
        target: Tensor,
        weight: Tensor | None,
        options: Options,
        block_rows: int,
        value_dtype: torch.dtype,
        needed: tuple[bool, bool, bool],
    ) -> tuple[Tensor, ...]:
        """Return the loss, what it is divided by, and the three gradients, empty where they are not needed now."""
        problem = Linear(x, linear_weight, linear_bias, target, weight, options, block_rows)
        if any(needed):
            loss, denominator, gradients = linear_passes.value_and_gradients(problem, needed, value_dtype)
        else:
            loss, denominator, gradients = linear_passes.value(problem, value_dtype)
        return loss, denominator, *(x.new_empty(0) if one is None else one for one in gradients)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep what the derivatives are made of."""
        *tensors, ctx.options, ctx.block_rows, _, needed = inputs
        _, denominator, *gradients = output
        ctx.mark_non_differentiable(denominator, *gradients)
        ctx.save_for_backward(*tensors, denominator)
        ctx.gradients = [one if asked else None for one, asked in zip(gradients, needed, strict=True)]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: None) -> Any:
        """Return the gradients."""
        if upstream is None:
            return (None,) * 9
        *tensors, denominator = ctx.saved_tensors
        problem = _problem(tensors, ctx)
        needed = ctx.needs_input_grad[:3]
        # Handed out once: who has them may write to them. A second call computes them again.
        gradients, ctx.gradients = ctx.gradients, [None] * 3
        if torch.is_grad_enabled() or transformed():
            return (
                *LinearGradients.apply(*problem, _factor(upstream, denominator, len(problem.x)), needed),
                *[None] * 6,
            )
        if upstream.dim():
            gradients = linear_passes.value_and_gradients(problem, needed, torch.float32, upstream).gradients
            return (*gradients, *[None] * 6)
        if any(asked and one is None for asked, one in zip(needed, gradients, strict=True)):
            gradients = linear_passes.value_and_gradients(problem, needed, torch.float32).gradients
        return (
            *(None if g is None else scaled(g, upstream).to(t.dtype) for g, t in zip(gradients, tensors, strict=False)),
            *[None] * 6,
        )


class LinearGradients(torch.autograd.Function):
    """The gradients, by x, weight and bias, of the sum of the losses of rows times a factor for each row (n,)."""

    @staticmethod
    def forward(
        x: Tensor,
        linear_weight: Tensor,
        linear_bias: Tensor | None,
        target: Tensor,
        weight: Tensor | None,
        options: Options,
        block_rows: int,
        factor: Tensor,
        needed: tuple[bool, bool, bool],
    ) -> tuple[Tensor | None, ...]:
        """Return them, None where not needed."""
        problem = Linear(x, linear_weight, linear_bias, target, weight, options, block_rows)
        return tuple(linear_passes.value_and_gradients(problem, needed, torch.float32, factor.detach()).gradients)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep what the derivatives are made of."""
        *tensors, ctx.options, ctx.block_rows, factor, _ = inputs
        ctx.save_for_backward(*tensors, factor)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        """Return the products with the Hessian, which is symmetric, and how the sum moves with the factors."""
        *tensors, factor = ctx.saved_tensors
        problem, needed = _problem(tensors, ctx), ctx.needs_input_grad[:3]
        *products, slopes = LinearHessian.apply(*problem, factor, *cotangents, needed)
        return *products, None, None, None, None, slopes.to(factor.dtype), None


class LinearHessian(torch.autograd.Function):
    """The Hessian of that sum times a direction, and the slope of every row's loss along it."""

    @staticmethod
    def forward(
        x: Tensor,
        linear_weight: Tensor,
        linear_bias: Tensor | None,
        target: Tensor,
        weight: Tensor | None,
        options: Options,
        block_rows: int,
        factor: Tensor,
        by_x: Tensor | None,
        by_weight: Tensor | None,
        by_bias: Tensor | None,
        needed: tuple[bool, bool, bool],
    ) -> tuple[Tensor | None, ...]:
        """Return them."""
        problem = Linear(x, linear_weight, linear_bias, target, weight, options, block_rows)
        products, slopes = linear_passes.hessian_products(problem, needed, factor, (by_x, by_weight, by_bias))
        return *products, slopes

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing: there are no third derivatives."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *_: Any) -> Any:
        """Refuse."""
        raise NotImplementedError(
            "third derivatives of linear_cross_entropy; torch.nn.functional.linear and cross_entropy have them"
        )


@torch.library.custom_op("softhead::linear_cross_entropy", mutates_args=())
def compiled_linear_cross_entropy(
    x: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    temperature: float,
    z_loss: float,
    reduction: str,
    block_rows: int,
    value_dtype: torch.dtype,
    by_x: bool,
    by_weight: bool,
    by_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what `LinearCrossEntropy` does, in compiled programs."""
    options = Options(ignore_index, label_smoothing, temperature, z_loss, reduction)
    needed = by_x, by_weight, by_bias
    value, _, *gradients = LinearCrossEntropy.forward(
        x, linear_weight, linear_bias, target, weight, options, block_rows, value_dtype, needed
    )
    return value, gradients[0], gradients[1], gradients[2]


@torch.library.custom_op("softhead::linear_cross_entropy_gradients", mutates_args=())
def _compiled_gradients(
    x: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    temperature: float,
    z_loss: float,
    block_rows: int,
    factor: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the sum of the losses of rows times a factor for each row."""
    options = Options(ignore_index, label_smoothing, temperature, z_loss, "none")
    problem = Linear(x, linear_weight, linear_bias, target, weight, options, block_rows)
    needed = True, True, linear_bias is not None
    gradients = linear_passes.value_and_gradients(problem, needed, torch.float32, factor).gradients
    by_x, by_weight, by_bias = (x.new_empty(0) if one is None else one for one in gradients)
    return by_x, by_weight, by_bias


@compiled_linear_cross_entropy.register_fake
def _shapes(
    x: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, target: Tensor, weight: Tensor | None, *rest: Any
) -> tuple[Tensor, ...]:
    *_, reduction, _, value_dtype, by_x, by_weight, by_bias = rest
    value = x.new_empty(x.shape[:1] if reduction == "none" else (), dtype=value_dtype)
    gradients = zip((x, linear_weight, linear_bias), (by_x, by_weight, by_bias), strict=True)
    return value, *(
        torch.empty(one.shape, dtype=unscaled(one.dtype), device=one.device)
        if asked and one is not None
        else x.new_empty(0)
        for one, asked in gradients
    )


@_compiled_gradients.register_fake
def _gradient_shapes(x: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, *_: Any) -> tuple[Tensor, ...]:
    return tuple(
        x.new_empty(0) if one is None else torch.empty(one.shape, dtype=one.dtype, device=one.device)
        for one in (x, linear_weight, linear_bias)
    )


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    x, linear_weight, linear_bias, target, weight, *numbers, reduction, block_rows, _, _, _, _ = inputs
    ctx.numbers, ctx.block_rows, ctx.rowwise = numbers, block_rows, reduction == "none"
    ctx.with_bias = linear_bias is not None
    ctx.dtypes = [x.dtype if one is None else one.dtype for one in (x, linear_weight, linear_bias)]
    tensors = (x, linear_weight, linear_bias, target, weight) if ctx.rowwise else output[1:]
    ctx.save_for_backward(*tensors)


def _compiled_backward(ctx: Any, upstream: Tensor, *_: Any) -> Any:
    needed = ctx.needs_input_grad[:3]
    if ctx.rowwise:
        gradients = _compiled_gradients(*ctx.saved_tensors, *ctx.numbers, ctx.block_rows, upstream)
    else:
        products = (one * upstream.to(one.dtype) if one.numel() else one for one in ctx.saved_tensors)
        gradients = [one.to(dtype) for one, dtype in zip(products, ctx.dtypes, strict=True)]
    return (*(one if asked else None for one, asked in zip(gradients, needed, strict=True)), *[None] * 12)


compiled_linear_cross_entropy.register_autograd(_compiled_backward, setup_context=_keep)


def scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    """Return a gradient, which is overwritten, times a number from above: as it is where that is 1."""
    if not plain(upstream):
        at_once = multiplied(gradient, upstream)
        return gradient * upstream.to(gradient.dtype) if at_once is None else at_once
    if upstream.item() == 1.0:
        return gradient
    return gradient.mul_(upstream)


def _problem(tensors: list[Any], ctx: Any) -> Linear:
    """Return the problem of saved tensors."""
    x, linear_weight, linear_bias, target, weight = tensors
    return Linear(x, linear_weight, linear_bias, target, weight, ctx.options, ctx.block_rows)


def _factor(upstream: Tensor, denominator: Tensor, n: int) -> Tensor:
    """Return what the gradient of every row is multiplied by, (n,); 0 where no row counts."""
    dtype = wide(upstream.dtype)
    denominator = denominator.to(dtype)
    return (upstream.to(dtype) / torch.where(denominator == 0, 1.0, denominator)).expand(n)
