"""Cross-entropy of a linear map, block by block, for any array library."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from softhead import _checks
from softhead.generic.losses import row_gradients, row_losses
from softhead.generic.namespace import Namespace, namespace
from softhead.generic.targets import Targets, class_targets
from softhead.generic.tiles import Tile, exponentiate

_BLOCK_SIZE = 2**22  # logits: some tens of MB for each of the about ten arrays of a block
_MIN_ROWS = 16


class LinearProblem(NamedTuple):
    """The checked arguments of a linear class loss."""

    ns: Namespace
    x: Any  # rows, in their real dtype
    linear_weight: Any
    linear_bias: Any  # or None
    targets: Targets
    l2: float
    leading: tuple[int, ...]  # the shape of x without the features
    dtype: Any  # of the value
    products: Any  # dtype of the matrix products

    def blocks(self) -> Iterator[tuple[Targets, Any, Tile]]:
        """Yield blocks of rows, at least one: their targets, their x in the dtype of the products, their logits."""
        xp, n_rows, n_classes = self.ns.xp, self.x.shape[0], self.targets.n_classes
        weight, bias = self.parameters()
        size = max(_BLOCK_SIZE // max(1, n_classes), _MIN_ROWS)
        for start in range(0, max(1, n_rows), size):
            block = slice(start, min(start + size, n_rows))
            targets = self.targets.block(block)
            x = targets.cleared(xp.astype(self.x[block, :], self.products, copy=False))
            logits = xp.matmul(x, xp.matrix_transpose(weight))
            logits = logits if bias is None else logits + bias
            yield targets, x, exponentiate(self.ns, logits, targets.options.temperature)

    def parameters(self) -> tuple[Any, Any]:
        """Return weight and bias in the dtype of the products."""
        xp, bias = self.ns.xp, self.linear_bias
        return (
            xp.astype(self.linear_weight, self.products, copy=False),
            None if bias is None else xp.astype(bias, self.products, copy=False),
        )

    def value(self, losses: list[Any], denominator: Any) -> Any:
        """Return the reduced losses of the blocks, with the penalty, or all of them, as the caller sees them."""
        xp, reduction = self.ns.xp, self.targets.options.reduction
        rows = xp.concat(losses, axis=0)
        if reduction == "none":
            return xp.reshape(xp.astype(rows, self.dtype), self.leading)
        value = xp.sum(rows) / denominator
        if self.l2:
            value = value + 0.5 * self.l2 * xp.sum(xp.square(self.ns.widened(self.linear_weight)))
        return xp.astype(value, self.dtype)


@np.errstate(all="ignore")
def linear_cross_entropy(
    x: Any, linear_weight: Any, targets: Any, /, *, linear_bias: Any = None, l2: float = 0.0, **options: Any
) -> Any:
    """Return the cross-entropy of the logits W x + b, plus l2/2 ||W||^2; `class_targets` names the other options."""
    problem = linear_problem(x, linear_weight, targets, linear_bias, l2, **options)
    losses = [row_losses(aims, tile) for aims, _, tile in problem.blocks()]
    return problem.value(losses, problem.targets.denominator())


@np.errstate(all="ignore")
def linear_cross_entropy_value_and_grad(
    x: Any, linear_weight: Any, targets: Any, /, *, linear_bias: Any = None, l2: float = 0.0, **options: Any
) -> tuple[Any, tuple[Any, Any, Any]]:
    """Return the same value and its gradients with respect to x, linear_weight and linear_bias (or None)."""
    problem = linear_problem(x, linear_weight, targets, linear_bias, l2, **options)
    xp, denominator = problem.ns.xp, problem.targets.denominator()
    weight, bias = problem.parameters()
    losses, x_gradients = [], []
    weight_gradient = problem.l2 * weight if problem.l2 else xp.zeros_like(weight)
    bias_gradient: Any = 0.0
    for aims, rows, tile in problem.blocks():
        losses.append(row_losses(aims, tile))
        residuals = row_gradients(aims, tile, denominator)
        bias_gradient = bias_gradient + xp.sum(residuals, axis=0)
        residuals = xp.astype(residuals, problem.products, copy=False)
        x_gradients.append(xp.astype(xp.matmul(residuals, weight), problem.x.dtype, copy=False))
        weight_gradient = weight_gradient + xp.matmul(xp.matrix_transpose(residuals), rows)
    x_gradient = xp.reshape(xp.concat(x_gradients, axis=0), (*problem.leading, problem.x.shape[1]))
    weight_gradient = xp.astype(weight_gradient, problem.linear_weight.dtype, copy=False)
    bias_gradient = None if bias is None else xp.astype(bias_gradient, problem.linear_bias.dtype, copy=False)
    return problem.value(losses, denominator), (x_gradient, weight_gradient, bias_gradient)


def linear_problem(
    x: Any, linear_weight: Any, targets: Any, linear_bias: Any, l2: float, **options: Any
) -> LinearProblem:
    """Check the arguments of a linear class loss."""
    ns = namespace(x)
    rows = ns.real("x", x)
    weight = ns.real("linear_weight", linear_weight)
    bias = None if linear_bias is None else ns.real("linear_bias", linear_bias)
    _checks.linear_shapes(rows.shape, weight.shape, None if bias is None else bias.shape)
    leading = rows.shape[:-1]
    aims = class_targets(ns, targets, (*leading, weight.shape[0]), len(leading), **options)
    l2 = _checks.nonnegative("l2", l2)
    if l2 and aims.options.reduction == "none":
        raise ValueError(f"{l2=} with reduction='none'; the penalty is no row's, so reduction must be 'mean' or 'sum'")
    dtype = ns.xp.result_type(rows, weight, *([] if bias is None else [bias]))
    return LinearProblem(
        ns=ns,
        x=ns.xp.reshape(rows, (math.prod(leading), rows.shape[-1])),
        linear_weight=weight,
        linear_bias=bias,
        targets=aims,
        l2=l2,
        leading=leading,
        dtype=dtype,
        products=dtype if ns.xp.finfo(dtype).bits >= 32 else ns.xp.float32,
    )
