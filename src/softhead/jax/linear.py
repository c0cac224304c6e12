"""Cross-entropy of a linear map, scanned in blocks of rows."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from softhead import _checks
from softhead.generic import fused
from softhead.generic.targets import Targets
from softhead.jax.functions import check_values
from softhead.jax.tiles import row_losses

_BLOCK_SIZE = 2**23  # logits: 32 MB in float32 for each of the few arrays that a block needs at once
_MIN_ROWS = 16


def linear_cross_entropy(
    x: Any,
    linear_weight: Any,
    targets: Any,
    /,
    *,
    linear_bias: Any = None,
    weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    l2: float = 0.0,
    reduction: str = "mean",
) -> Any:
    """Return the cross-entropy of the logits W x + b, scanned in blocks of rows: `softhead.linear_cross_entropy`.

    The logits of a block exist, those of all rows never, in any derivative. With "mean" and "sum", gradients are
    computed with the value, in three matrix products; with "none" logits are computed again on the way back.

    Parameters
    ----------
    x : array_like of shape (..., n_features)
    linear_weight : array_like of shape (C, n_features)
    targets : array_like
        Classes: integers of the shape of `x` without its last axis. Or probabilities: real numbers of shape (..., C).
    linear_bias : array_like of shape (C,), optional
    weight, ignore_index, label_smoothing, temperature, z_loss, reduction
        As in `cross_entropy`.
    l2 : float, default 0.0
        Adds l2/2 times the sum of squares of `linear_weight`; not with "none".

    Returns
    -------
    jax.Array
        A scalar, or with "none" the losses of the shape of `x` without its last axis.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `softhead.linear_cross_entropy` raises them, for values that are known.

    Notes
    -----
    Blocks are cut along the rows. Spread over several devices, rows belong in `jax.shard_map`, where each device scans
    its own. Products of half types are computed in float32, and so are sums of gradients.

    Examples
    --------
    >>> import jax.numpy as jnp, softhead.jax
    >>> softhead.jax.linear_cross_entropy(jnp.ones((2, 3)), jnp.eye(3), [0, 2])
    Array(1.0986123, dtype=float32)
    """
    array, linear_weight = jnp.asarray(x), jnp.asarray(linear_weight)
    _checks.linear_shapes(array.shape, linear_weight.shape, None)
    check_values((*array.shape[:-1], linear_weight.shape[0]), array.ndim - 1, targets, weight, ignore_index)
    problem = fused.linear_problem(
        array,
        linear_weight,
        jnp.asarray(targets),
        linear_bias,
        l2,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        temperature=temperature,
        z_loss=z_loss,
        reduction=reduction,
    )
    aims = problem.targets
    weights, bias = problem.parameters()
    arguments = _in_step(problem.x, aims.values, weights, bias, aims.weight)
    static = aims._replace(values=None, weight=None)
    if reduction == "none":
        return problem.value([_losses(static, _Arguments(*arguments))], 1.0)
    total, denominator = _total(static, *arguments), jnp.asarray(aims.denominator())
    nothing = denominator == 0.0  # the mean is NaN then, but no gradient is: none of the rows is read
    return problem.value([jnp.where(nothing, jnp.nan, total)], jnp.where(nothing, 1.0, denominator))


class _Arguments(NamedTuple):
    """What the losses depend on; what is missing is None."""

    x: Any
    values: Any  # of the targets
    linear_weight: Any  # in the dtype of the products, as linear_bias
    linear_bias: Any
    weight: Any  # of the classes

    def blocks(self) -> tuple["_Arguments", Any]:
        """Return a first block, not empty where there is a row, and the rows of the others, blocks of one size."""
        n_rows, n_classes = self.x.shape[0], self.linear_weight.shape[0]
        size = max(_BLOCK_SIZE // max(1, n_classes), _MIN_ROWS)
        n_others = max(0, n_rows - 1) // size
        first = n_rows - n_others * size
        rows = [array[first:].reshape(n_others, size, *array.shape[1:]) for array in (self.x, self.values)]
        return self._replace(x=self.x[:first], values=self.values[:first]), tuple(rows)


def _losses(static: Targets, arguments: _Arguments) -> Any:
    """Return the losses of all rows, (n, 1)."""
    first, others = arguments.blocks()

    @partial(jax.checkpoint, prevent_cse=False)
    def of_block(rows: Any) -> Any:
        return _block_losses(static, arguments._replace(x=rows[0], values=rows[1]))

    _, losses = lax.scan(lambda _, rows: (None, of_block(rows)), None, others)
    return jnp.concat([of_block((first.x, first.values)), losses.reshape(-1, 1)])


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _total(static: Targets, *arguments: Any) -> Any:
    """Return the sum of the losses, (1,)."""
    first, others = _Arguments(*arguments).blocks()

    def add(total: Any, rows: Any) -> Any:
        return total + jnp.sum(_block_losses(static, first._replace(x=rows[0], values=rows[1])), axis=0), None

    return lax.scan(add, jnp.sum(_block_losses(static, first), axis=0), others)[0]


@partial(_total.defjvp, symbolic_zeros=True)
def _(static: Targets, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """Compute the gradients of what changes with the value, which frees the logits of each block at once."""
    arguments = _Arguments(*primals)
    first, others = arguments.blocks()
    changing = [name for name, t in zip(_Arguments._fields, tangents, strict=True) if isinstance(t, jax.Array)]
    of_rows = [name for name in changing if name in ("x", "values")]
    shared = [name for name in changing if name not in of_rows]

    @partial(jax.checkpoint, prevent_cse=False)  # for what is differentiated once more
    def of_block(rows: Any) -> Any:
        block = arguments._replace(x=rows[0].astype(arguments.linear_weight.dtype), values=rows[1])

        def loss(moved: dict[str, Any]) -> Any:
            return jnp.sum(_block_losses(static, block._replace(**moved)), axis=0)[0]

        value, gradients = jax.value_and_grad(loss)({name: getattr(block, name) for name in changing})
        return (value[None], [gradients[name] for name in shared]), [gradients[name] for name in of_rows]

    def add(totals: Any, rows: Any) -> Any:
        more, gradients = of_block(rows)
        return jax.tree.map(jnp.add, totals, more), gradients

    totals, gradients = of_block((first.x, first.values))
    (value, sums), more = lax.scan(add, totals, others)
    whole = [jnp.concat([one, rest.reshape(-1, *one.shape[1:])]) for one, rest in zip(gradients, more, strict=True)]
    derivatives = dict(zip(of_rows + shared, whole + sums, strict=True))
    tangent = jnp.zeros_like(value)
    for name, change in zip(_Arguments._fields, tangents, strict=True):
        if name in derivatives:
            tangent += jnp.vdot(derivatives[name], change.astype(derivatives[name].dtype))
    return value, tangent


def _block_losses(static: Targets, block: _Arguments) -> Any:
    """Return the losses of a block of rows, (n, 1)."""
    targets = static._replace(values=block.values, weight=block.weight)
    rows = targets.cleared(block.x.astype(block.linear_weight.dtype))
    # Not rows @ W.T, of which XLA makes a transposed copy of W for the whole scan: 147 MB of 50,257 x 768.
    logits = lax.dot_general(rows, block.linear_weight, (((1,), (1,)), ((), ())))
    logits = logits if block.linear_bias is None else logits + block.linear_bias
    return row_losses(targets, logits)


def _in_step(*arrays: Any) -> list[Any]:
    """Return arrays that vary over the same axes of a mesh inside `shard_map`, so that sums over devices come last."""
    axes = frozenset[str]().union(*(_varying(array) for array in arrays if array is not None))
    return [array if array is None else _vary(array, tuple(axes - _varying(array))) for array in arrays]


def _varying(array: Any) -> frozenset[str]:
    """Return the axes of a mesh over which an array may differ."""
    kind = jax.typeof(array)
    return kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma  # the latter before 0.10


def _vary(array: Any, axes: tuple[str, ...]) -> Any:
    """Let an array differ over more axes."""
    if not axes:
        return array
    return lax.pcast(array, axes, to="varying") if hasattr(lax, "pcast") else lax.pvary(array, axes)
