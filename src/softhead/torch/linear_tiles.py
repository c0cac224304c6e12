"""The loss of a linear map of bfloat16 tensors on a GPU: three matrix products, and little between them.

Rows are taken in blocks. The logits of some thousand classes come out of a product in float32 and stay in the
second-level cache (an H200's holds 50 MB), from where a kernel takes their row's statistics and writes exponentials in
bfloat16. These are the gradient up to a factor of their row, which goes on to the results of the second product and to
the rows in the third. So nothing of the size rows x classes is read or written but by products, once by each.

Memory beyond inputs and gradients stays below 1.5 GB. With 128,256 classes of 4,096 features a row of a block takes
257 kB of exponentials and 33 kB of copies; the gradient of the weight, where rows come in several blocks, 8 bits beside
the 16 of each entry, 525 MB: sums of 24 bits, which float32 would take 2.1 GB for. That leaves room for 3,072 rows. A
block that holds all rows needs no sums, and may have 4,999.
"""

from typing import Any

import torch
from torch import Tensor

from softhead.torch.device import kernels_for
from softhead.torch.linear_problem import Linear, cleared, unscaled
from softhead.torch.rows import CudaTargets, RowTargets

_EXTRA_BYTES = 1_480_000_000  # beyond inputs and gradients
_TILE_BYTES = 2**25  # of float32 logits, or of float32 sums of the weight's gradient
_MOST_CLASSES = 8192  # of a tile
_WAVE = 1024  # rows in blocks of this keep an H200's 132 multiprocessors at 97 percent: 128 tiles of 128 x 256
_MOST_ROWS = 16_384  # more make no product quicker


def tiled(problem: Linear, targets: RowTargets) -> CudaTargets | None:
    """Return the targets of a problem whose rows can be taken so, None for others."""
    same = problem.x.dtype == problem.linear_weight.dtype == torch.bfloat16
    if not same or not isinstance(targets, CudaTargets) or not min(problem.linear_weight.shape):
        return None
    if torch.version.hip is not None:  # products of half types into float32 are CUDA's
        return None
    return targets if kernels_for(problem.x) is not None else None


def losses_and_gradients(
    problem: Linear, targets: CudaTargets, needed: tuple[bool, bool, bool], divisor: Any, factor: Tensor | None
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the loss of every row and the gradients / divisor by x, weight and bias, as far as needed.

    With a factor for each row (n,), the gradients are those of the sum of the losses times the factors.
    """
    with torch.cuda.device_of(problem.x):  # kernels are launched on the current device
        return _losses_and_gradients(problem, targets, needed, divisor, factor)


def _losses_and_gradients(
    problem: Linear, targets: CudaTargets, needed: tuple[bool, bool, bool], divisor: Any, factor: Tensor | None
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the same; the device is the current one."""
    x, matrix, bias = problem.x, problem.linear_weight, problem.linear_bias
    n_rows, device = len(x), x.device
    losses = torch.empty(n_rows, dtype=torch.float64, device=device)
    by_x = torch.empty_like(x, memory_format=torch.contiguous_format) if needed[0] else None
    by_bias = None
    if needed[2] and bias is not None:
        by_bias = torch.zeros(len(matrix), dtype=torch.float64, device=device)
    size = _block_rows(problem, needed[1])
    sums = _Sums(matrix, n_blocks=-(-n_rows // size)) if needed[1] else None
    scale = torch.as_tensor(divisor, dtype=torch.float64, device=device).reciprocal()
    buffers = _Buffers(size, matrix, any(needed))
    for start in range(0, n_rows, size):
        rows = slice(start, min(start + size, n_rows))
        aims = targets.block(rows)
        block = cleared(x[rows], aims)
        kept, multipliers = _exponentials(
            block, matrix, bias, aims, losses[rows], scale, None if factor is None else factor[rows], buffers
        )
        if kept is None:
            continue
        column = multipliers.unsqueeze(1)
        if by_x is not None:
            by_x[rows] = _product(kept, matrix, buffers.tile(len(block), matrix.shape[1])).mul_(column)
        if sums is not None:
            sums.add(kept, torch.mul(block, column, out=buffers.tile(*block.shape)).to(block.dtype), buffers)
        if by_bias is not None:
            for classes in _tiles(len(matrix), buffers.classes):
                by_bias[classes] += (kept[:, classes] * column).sum(0, dtype=torch.float64)
    rounded = None
    if by_bias is not None and bias is not None:
        rounded = by_bias.to(unscaled(bias.dtype) if factor is None else bias.dtype)
    return losses, [by_x, None if sums is None else sums.total, rounded]


class _Buffers:
    """Memory that the blocks of rows take one after the other."""

    def __init__(self, n_rows: int, matrix: Tensor, keep: bool) -> None:
        n_classes, n_features = matrix.shape
        self.classes = min(_MOST_CLASSES, max(256, round(_TILE_BYTES / (4 * n_rows) / 256) * 256), n_classes)
        self.sums = max(1, min(n_classes, _TILE_BYTES // (4 * n_features)))  # classes of a tile of the weight's sums
        size = max(n_rows * self.classes, n_rows * n_features if keep else 0, self.sums * n_features if keep else 0)
        self._tile = torch.empty(size, dtype=torch.float32, device=matrix.device)
        self._kept = None
        if keep:  # rows begin at multiples of 128 bytes, as products like it
            stride = -(-n_classes // 64) * 64
            self._kept = torch.empty(n_rows, stride, dtype=matrix.dtype, device=matrix.device)[:, :n_classes]

    def tile(self, n_rows: int, n_columns: int) -> Tensor:
        """Return float32 memory for a matrix, which the next one overwrites."""
        return self._tile[: n_rows * n_columns].view(n_rows, n_columns)

    def kept(self, n_rows: int) -> Tensor | None:
        """Return memory for the exponentials of rows, None where they are not kept."""
        return None if self._kept is None else self._kept[:n_rows]


class _Sums:
    """The gradient of the weight, gathered block by block."""

    def __init__(self, matrix: Tensor, n_blocks: int) -> None:
        self.total = torch.empty_like(matrix, memory_format=torch.contiguous_format)
        self._n_blocks, self._added = n_blocks, 0
        self._low = torch.empty(matrix.shape if n_blocks > 1 else (0, 0), dtype=torch.uint8, device=matrix.device)
        if not n_blocks:
            self.total.zero_()

    def add(self, residuals: Tensor, rows: Tensor, buffers: _Buffers) -> None:
        """Add the product of a block's residuals and rows."""
        first, last = self._added == 0, self._added == self._n_blocks - 1
        self._added += 1
        if first and last:
            torch.mm(residuals.mT, rows, out=self.total)
            return
        kernels = kernels_for(rows)
        assert kernels is not None
        for classes in _tiles(len(self.total), buffers.sums):
            part = self.total[classes]
            tile = _product(residuals[:, classes].mT, rows, buffers.tile(*part.shape))
            kernels.linear.accumulate(part, self._low[classes], tile, first=first, last=last)


def _exponentials(
    x: Tensor, matrix: Tensor, bias: Tensor | None, targets: CudaTargets, losses: Tensor, scale: Tensor,
    factor: Tensor | None, buffers: _Buffers,
) -> tuple[Tensor | None, Tensor]:  # fmt: skip
    """Write the losses of a block of rows; return what its gradient by logits is, up to the multipliers beside it."""
    kernels, options = kernels_for(x), targets.options
    assert kernels is not None
    rates = kernels.rates_of(options.temperature)
    rows = kernels.linear.Rows(
        targets.labels, options.ignore_index, targets.weight, len(matrix), buffers.classes, rates
    )
    kept = buffers.kept(len(x))
    for tile, classes in enumerate(_tiles(len(matrix), buffers.classes)):
        part = matrix[classes]
        logits = _product(x, part.mT, buffers.tile(len(x), len(part)))
        rows.exponentiate(tile, logits, bias, kept, options.label_smoothing > 0.0)
    multipliers = torch.empty(len(x), dtype=torch.float32, device=x.device)
    rows.finish(losses, kept, multipliers, scale, factor, options.label_smoothing, options.z_loss)
    return kept, multipliers


def _product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """Write a b in float32, summed in float32."""
    if a.device.type == "cuda":
        return torch.mm(a, b, out_dtype=torch.float32, out=out)
    return torch.mm(a.float(), b.float(), out=out)  # only CUDA has products of mixed types


def _block_rows(problem: Linear, by_weight: bool) -> int:
    """Return how many rows are taken at once."""
    (n_classes, n_features), n_rows = problem.linear_weight.shape, max(len(problem.x), 1)
    if problem.block_rows:
        return min(problem.block_rows, n_rows)
    a_row = 2 * n_classes + 8 * n_features  # exponentials; rows in bfloat16, twice, and a product in float32
    if n_rows <= min(_MOST_ROWS, (_EXTRA_BYTES - _TILE_BYTES) // a_row):
        return n_rows
    sums = n_classes * n_features if by_weight else 0
    size = min(_MOST_ROWS, max(128, (_EXTRA_BYTES - _TILE_BYTES - sums) // a_row))
    return min(n_rows, size // _WAVE * _WAVE if size >= _WAVE else size // 128 * 128)


def _tiles(n_classes: int, size: int) -> list[slice]:
    """Return the classes in tiles."""
    return [slice(start, min(start + size, n_classes)) for start in range(0, n_classes, size)]
