"""A linear map and its loss, block by block: values, gradients and products with the Hessian, never all logits.

A pass goes over blocks of rows: one product makes their logits, a kernel turns these in place into residuals, and two
products turn the residuals into gradients. Half types are multiplied in float32, some classes at a time, and what is
summed over blocks is float32 until the end. Nothing here is differentiable: see `linear_function`.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from softhead.torch import linear_tiles
from softhead.torch.host import empty, wide
from softhead.torch.linear_problem import Linear, Result, cleared, unscaled
from softhead.torch.rows import RowTargets, reduced, row_targets

_BLOCK_BYTES = 2**26  # of logits; on a GPU, which needs more work at once, eight times as much
_TILE_BYTES = 2**24  # of a weight that is converted
_MIN_ROWS, _MAX_ROWS = 16, 4096


class _Block(NamedTuple):
    """Some of the rows."""

    rows: slice
    targets: RowTargets
    x: Tensor  # in the wide dtype, zero where ignored
    logits: Tensor  # which may be overwritten


def value(problem: Linear, value_dtype: torch.dtype) -> Result:
    """Return the loss."""
    with _no_autocast(problem):
        problem, targets = _checked(problem)
        tiled = linear_tiles.tiled(problem, targets)
        if tiled is not None:
            losses = [linear_tiles.losses_and_gradients(problem, tiled, (False, False, False), 1.0, None)[0]]
        else:
            losses = [block.targets.losses(block.logits) for block in _blocks(problem, targets)]
        return _result(problem, losses, targets.denominator(), value_dtype, [None] * 3)


def value_and_gradients(
    problem: Linear, needed: tuple[bool, bool, bool], value_dtype: torch.dtype, factor: Tensor | None = None
) -> Result:
    """Return the loss and its gradients, as far as needed.

    With a factor for each row (n,), the gradients are those of the sum of the losses of the rows times their factors.
    Without, they are yet to be scaled: see `unscaled`.
    """
    with _no_autocast(problem):
        problem, targets = _checked(problem)
        denominator = targets.denominator()
        tiled = linear_tiles.tiled(problem, targets)
        if tiled is not None:
            divisor = denominator if factor is None else 1.0
            every, gradients = linear_tiles.losses_and_gradients(problem, tiled, needed, divisor, factor)
            return _result(problem, [every], denominator, value_dtype, gradients)
        totals = _Totals(problem, needed, to_be_scaled=factor is None)
        losses = []
        for block in _blocks(problem, targets):
            residuals = block.logits
            losses.append(block.targets.gradients(block.logits, denominator if factor is None else 1.0, residuals))
            if factor is not None:
                residuals.mul_(factor[block.rows].unsqueeze(1))
            totals.add(block, residuals)
        return _result(problem, losses, denominator, value_dtype, totals.results())


def hessian_products(
    problem: Linear,
    needed: tuple[bool, bool, bool],
    factor: Tensor,
    tangents: tuple[Tensor | None, Tensor | None, Tensor | None],
) -> tuple[list[Tensor | None], Tensor]:
    """Return how the gradients of the sum of factor * loss move with x, weight and bias, and how every loss moves."""
    with _no_autocast(problem):
        problem, targets = _checked(problem)
        totals = _Totals(problem, needed)
        slopes = torch.empty(len(problem.x), dtype=wide(problem.dtype()), device=problem.x.device)
        for block in _blocks(problem, targets):
            moved, x_moved = _moved(block, problem.linear_weight, tangents)
            residuals = torch.empty_like(block.logits)
            block.targets.gradients(block.logits, 1.0, residuals)
            slopes[block.rows] = (residuals * moved).sum(1)
            block.targets.products(block.logits, moved, moved)
            column = factor[block.rows].unsqueeze(1)
            moved.mul_(column)
            residuals.mul_(column)
            totals.add(block, moved)
            totals.add_moved(block, residuals, x_moved, tangents[1])
        return totals.results(), slopes


def _no_autocast(problem: Linear) -> Any:
    """Return a context in which products keep the dtype they are given."""
    return torch.autocast(problem.x.device.type, enabled=False)


def _result(
    problem: Linear, losses: list[Tensor], denominator: Any, value_dtype: torch.dtype, gradients: list[Tensor | None]
) -> Result:
    """Return the result of a pass from the losses of its blocks, of which there may be none."""
    device = problem.x.device
    rows = torch.cat(losses) if losses else torch.zeros(0, dtype=torch.float64, device=device)
    loss = reduced(rows, denominator, problem.options.reduction, value_dtype)
    return Result(loss, torch.as_tensor(denominator, dtype=torch.float64, device=device), gradients)


def _moved(
    block: _Block, matrix: Tensor, tangents: tuple[Tensor | None, Tensor | None, Tensor | None]
) -> tuple[Tensor, Tensor | None]:
    """Return how the logits of a block move, and how its rows do."""
    by_x, by_weight, by_bias = tangents
    moved, x_moved = torch.zeros_like(block.logits), None
    if by_weight is not None:
        _multiply(block.x, by_weight, moved)
    if by_bias is not None:
        moved += by_bias
    if by_x is not None:
        x_moved = cleared(by_x[block.rows].to(block.x.dtype), block.targets)
        moved += _multiply(x_moved, matrix, torch.empty_like(moved))
    return moved, x_moved


class _Totals:
    """Gradients that are gathered block by block."""

    def __init__(self, problem: Linear, needed: tuple[bool, bool, bool], to_be_scaled: bool = False) -> None:
        self._problem, self._to_be_scaled = problem, to_be_scaled
        x, matrix = problem.x, problem.linear_weight
        dtype = wide(problem.dtype())
        self._x = empty(tuple(x.shape), self._dtype(x), x.device) if needed[0] else None
        self._weight = empty(tuple(matrix.shape), dtype, x.device).zero_() if needed[1] else None
        has_bias = needed[2] and problem.linear_bias is not None
        self._bias = torch.zeros(len(matrix), dtype=torch.float64, device=x.device) if has_bias else None

    def add(self, block: _Block, residuals: Tensor) -> None:
        """Add what the residuals of a block give."""
        if self._x is not None:
            out = self._x[block.rows]
            if out.dtype == residuals.dtype:
                _multiply_back(residuals, self._problem.linear_weight, out)
            else:
                out.copy_(_multiply_back(residuals, self._problem.linear_weight, torch.empty_like(block.x)))
        if self._weight is not None:
            self._weight.addmm_(residuals.mT, block.x)
        if self._bias is not None:
            self._bias += residuals.sum(0, dtype=torch.float64)

    def add_moved(self, block: _Block, residuals: Tensor, x_moved: Tensor | None, by_weight: Tensor | None) -> None:
        """Add what residuals give with the other factor of a product moved."""
        if self._x is not None and by_weight is not None:
            self._x[block.rows] += _multiply_back(residuals, by_weight, torch.empty_like(block.x)).to(self._x.dtype)
        if self._weight is not None and x_moved is not None:
            self._weight.addmm_(residuals.mT, x_moved)

    def results(self) -> list[Tensor | None]:
        """Return the gradients in the dtypes of what they belong to."""
        problem = self._problem
        bias = self._bias
        return [
            self._x,
            None if self._weight is None else self._weight.to(self._dtype(problem.linear_weight)),
            bias if bias is None or problem.linear_bias is None else bias.to(self._dtype(problem.linear_bias)),
        ]

    def _dtype(self, leaf: Tensor) -> torch.dtype:
        """Return the dtype of the gradient of a tensor."""
        return unscaled(leaf.dtype) if self._to_be_scaled else leaf.dtype


def _checked(problem: Linear) -> tuple[Linear, RowTargets]:
    """Return the problem without history, and its targets, checked."""
    x, linear_weight, linear_bias, *rest = problem
    shape = len(x), len(linear_weight)
    targets = row_targets(problem.target, shape, problem.weight, problem.options, x.device)
    bias = None if linear_bias is None else linear_bias.detach()
    return Linear(x.detach(), linear_weight.detach(), bias, *rest), targets


def _blocks(problem: Linear, targets: RowTargets) -> Iterator[_Block]:
    """Yield the rows in blocks, in one buffer after the other."""
    n_rows, n_classes = len(problem.x), len(problem.linear_weight)
    dtype = wide(problem.dtype())
    n_bytes = _BLOCK_BYTES if problem.x.device.type == "cpu" else 8 * _BLOCK_BYTES
    size = min(max(n_bytes // max(1, n_classes * dtype.itemsize), _MIN_ROWS), _MAX_ROWS)
    size = min(problem.block_rows or size, max(n_rows, 1))
    buffer = empty((size, n_classes), dtype, problem.x.device)
    for start in range(0, n_rows, size):
        rows = slice(start, min(start + size, n_rows))
        aims = targets.block(rows)
        x = cleared(problem.x[rows].to(dtype), aims)
        logits = _multiply(x, problem.linear_weight, buffer[: len(x)])
        if problem.linear_bias is not None:
            logits += problem.linear_bias
        yield _Block(rows, aims, x, logits)


def _multiply(x: Tensor, matrix: Tensor, out: Tensor) -> Tensor:
    """Write x matrix^T, some classes at a time where the matrix must be converted."""
    if matrix.dtype == out.dtype:
        return torch.mm(x, matrix.mT, out=out)
    for classes in _tiles(matrix, out.dtype):
        out[:, classes] = torch.mm(x, matrix[classes].to(out.dtype).mT)
    return out


def _multiply_back(residuals: Tensor, matrix: Tensor, out: Tensor) -> Tensor:
    """Write residuals matrix, likewise."""
    if matrix.dtype == out.dtype:
        return torch.mm(residuals, matrix, out=out)
    out.zero_()
    for classes in _tiles(matrix, out.dtype):
        out.addmm_(residuals[:, classes], matrix[classes].to(out.dtype))
    return out


def _tiles(matrix: Tensor, dtype: torch.dtype) -> Iterator[slice]:
    """Yield slices of the rows of a matrix that take little memory in a dtype."""
    step = max(1, _TILE_BYTES // max(1, math.prod(matrix.shape[1:]) * dtype.itemsize))
    for start in range(0, len(matrix), step):
        yield slice(start, min(start + step, len(matrix)))
