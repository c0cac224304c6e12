"""The row functions for CUDA tensors, in Triton: each entry is read once and written once.

A program holds a tile of whole rows in registers. Longer rows are cut into blocks: of few rows, one launch writes the
maximum and the sum of each block, the next combines them in their order and reads the entries again, from the
second-level cache where a group of rows fits in it; of many, a program takes a row block by block. Both ways give the
same bits. Nothing is added by atomic operations: a row's result depends on the row alone.

float32 is exponentiated with the rounding error of the shift kept and summed in float64; half types are computed in
float32 and rounded once. What belongs to a row (its normaliser, its loss, the gradient of its class) is float64. The
equations are those of `kernels/loops.py`; `rest` is again the sum of all exponentials but the maximum's.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
import triton

from softhead.kernels.triton import blocks, long_rows, rows
from softhead.kernels.triton import linear as linear

# What `benchmarks/gpu.py --tune` tries; chosen by the compiler's report on registers, not yet by a clock.
LARGEST_TILE = 65_536  # bytes of a row held at once: 16 float32 or 32 half values for each of 1024 threads
MOST_CTAS = 1  # thread blocks that hold a row together; 8 would take 512 KB, by Triton 3.9 and not by 3.6; never run
WARP_BYTES = 2_048
BLOCK = 8_192  # of a longer row
BLOCK_WARPS = 16
_SMALLEST_TILE = 1_024  # shorter rows share a program
_MANY_ROWS = 64  # keep half of an H200's multiprocessors busy by themselves
_MOST_BLOCKS = 256  # that a program joins: 2 million columns
_GROUP_BYTES = 2**24  # of long rows between the two launches, a third of an H200's second-level cache


def _launched_there(function: Callable[..., None]) -> Callable[..., None]:
    """Have a function launch its kernels on the device of its first argument, which need not be the current one."""

    @wraps(function)
    def launched(x: torch.Tensor, *arguments: Any, **options: Any) -> None:
        with torch.cuda.device_of(x):
            function(x, *arguments, **options)

    return launched


def _fits(x: torch.Tensor) -> bool:
    """Return whether rows are held whole."""
    return x.shape[1] * x.element_size() <= LARGEST_TILE * MOST_CTAS


def _tile_of(x: torch.Tensor) -> dict[str, int]:
    """Return the rows and columns of a program's tile, and its warps.

    A thread holds 64 bytes of a row. What is done once a row, some 300 instructions, is done by each of its threads.
    """
    columns = triton.next_power_of_2(x.shape[1])
    rows = max(1, _SMALLEST_TILE // columns)
    n_bytes = rows * columns * x.element_size()
    ctas = max(1, n_bytes // LARGEST_TILE)
    shape = {"R": rows, "B": columns, "num_warps": min(32, max(1, n_bytes // (WARP_BYTES * ctas)))}
    return shape if ctas == 1 else shape | {"num_ctas": ctas}


def rates_of(temperature: float) -> tuple[float, float]:
    """Return 1 / temperature as the sum of two float32 numbers."""
    rate = 1.0 / temperature
    high = float(np.float32(rate))
    return high, rate - high


def _block_shape(n_columns: int) -> dict[str, int]:
    """Return the size of a long row's blocks, a power of two above their number, and a program's warps."""
    n_blocks = triton.cdiv(n_columns, BLOCK)
    return {"B": BLOCK, "NB": triton.next_power_of_2(n_blocks), "num_warps": BLOCK_WARPS}


def _row_by_row(x: torch.Tensor) -> bool:
    """Return whether long rows are taken by a program each."""
    return len(x) >= _MANY_ROWS and x.shape[1] <= _MOST_BLOCKS * BLOCK


class _Blocks:
    """How rows too long for one tile are cut, and what is known of the blocks of a group of rows."""

    def __init__(self, x: torch.Tensor) -> None:
        n_rows, n_columns = x.shape
        self.n_blocks = triton.cdiv(n_columns, BLOCK)
        self.rows = max(1, min(n_rows, _GROUP_BYTES // (n_columns * x.element_size())))
        self.shape = _block_shape(n_columns)
        size = (self.rows, self.n_blocks)
        self.maxima = torch.empty(size, dtype=torch.float32, device=x.device)
        self.rests, self.totals = torch.empty((2, *size), dtype=torch.float64, device=x.device)
        self.picked = torch.empty(self.rows, dtype=torch.float32, device=x.device)

    def groups(self, n_rows: int) -> list[slice]:
        """Return the groups of rows that are summarised and finished one after the other."""
        return [slice(start, min(start + self.rows, n_rows)) for start in range(0, n_rows, self.rows)]

    def summarise(self, x: torch.Tensor, rates: tuple[float, float], flags: dict[str, bool], **loss: Any) -> None:
        """Write the summaries of a group's blocks."""
        labels, weight, ignored = loss.get("labels", x), loss.get("weight", x), loss.get("ignored", 0)
        smooth = {"WEIGHTED": loss.get("weighted", False), "SMOOTH": loss.get("smooth", False), "LOSS": bool(loss)}
        blocks.summarise_blocks[(len(x), self.n_blocks)](
            x, labels, weight, self.maxima, self.rests, self.totals, self.picked, x.shape[1], x.stride(0), ignored,
            *rates, **flags, **smooth, B=BLOCK, num_warps=BLOCK_WARPS,
        )  # fmt: skip


def _flags(x: torch.Tensor, temperature: float) -> dict[str, bool]:
    return {"EXACT": x.dtype == torch.float32, "TEMPERED": temperature != 1.0}


@_launched_there
def softmax(x: torch.Tensor, out: torch.Tensor, *, temperature: float = 1.0, log: bool = False) -> None:
    """Write the softmax of rows, or its logarithm; `x` and `out` (n_rows, n_columns) with columns side by side."""
    n_rows, n_columns = x.shape
    rates, flags = rates_of(temperature), _flags(x, temperature)
    if _fits(x):
        tile = _tile_of(x)
        rows.map_rows[(triton.cdiv(n_rows, tile["R"]),)](
            x, out, n_rows, n_columns, x.stride(0), out.stride(0), *rates, LOG=log, **flags, **tile
        )
        return
    if _row_by_row(x):
        long_rows.map_long_rows[(n_rows,)](
            x, out, n_columns, triton.cdiv(n_columns, BLOCK), x.stride(0), out.stride(0), *rates, LOG=log, **flags,
            **_block_shape(n_columns),
        )  # fmt: skip
        return
    cut = _Blocks(x)
    for group in cut.groups(n_rows):
        cut.summarise(x[group], rates, flags)
        blocks.map_blocks[(len(x[group]), cut.n_blocks)](
            x[group], out[group], cut.maxima, cut.rests, n_columns, x.stride(0), out.stride(0), *rates,
            LOG=log, **flags, **cut.shape,
        )  # fmt: skip


@_launched_there
def logsumexp(x: torch.Tensor, out: torch.Tensor, *, temperature: float = 1.0) -> None:
    """Write the log-sum-exp of rows of `x` / temperature; `out` (n_rows,) contiguous."""
    n_rows, n_columns = x.shape
    rates, flags = rates_of(temperature), _flags(x, temperature)
    if _fits(x):
        tile = _tile_of(x)
        rows.normalise_rows[(triton.cdiv(n_rows, tile["R"]),)](
            x, out, n_rows, n_columns, x.stride(0), *rates, **flags, **tile
        )
        return
    if _row_by_row(x):
        long_rows.normalise_long_rows[(n_rows,)](
            x, out, n_columns, triton.cdiv(n_columns, BLOCK), x.stride(0), *rates, **flags, **_block_shape(n_columns)
        )
        return
    cut = _Blocks(x)
    for group in cut.groups(n_rows):
        cut.summarise(x[group], rates, flags)
        blocks.normalise_blocks[(len(x[group]),)](
            out[group], cut.maxima, cut.rests, cut.n_blocks, *rates, NB=cut.shape["NB"]
        )


@_launched_there
def cross_entropy(
    x: torch.Tensor,
    labels: torch.Tensor,
    losses: torch.Tensor,
    gradient: torch.Tensor | None,
    *,
    scale: torch.Tensor,
    weight: torch.Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
) -> None:
    """Write the loss of every row and, times `scale`, its gradient.

    `x` and `gradient` (n_rows, n_columns), which may be the same tensor; `labels` (n_rows,), checked; `losses`
    (n_rows,); `weight` (n_columns,); `scale` one float64 on the device, so that a mean needs no copy to the host.
    """
    n_rows, n_columns = x.shape
    rates, flags = rates_of(temperature), _flags(x, temperature)
    flags |= {"GRADIENT": gradient is not None, "WEIGHTED": weight is not None, "SMOOTH": label_smoothing > 0.0}
    flags["PULL"] = z_loss > 0.0
    mass = linear.mass_of(weight, n_columns, scale) if label_smoothing > 0.0 else scale
    weights = x if weight is None else weight
    into = x if gradient is None else gradient
    options = (float(label_smoothing), float(z_loss), *rates)
    if _fits(x):
        tile = _tile_of(x)
        rows.cross_entropy_rows[(triton.cdiv(n_rows, tile["R"]),)](
            x, labels, weights, mass, scale, losses, into, n_rows, n_columns, x.stride(0), into.stride(0), ignore_index,
            *options, **flags, **tile,
        )  # fmt: skip
        return
    if _row_by_row(x):
        long_rows.cross_entropy_long_rows[(n_rows,)](
            x, labels, weights, mass, scale, losses, into, n_columns, triton.cdiv(n_columns, BLOCK), x.stride(0),
            into.stride(0), ignore_index, *options, **flags, **_block_shape(n_columns),
        )  # fmt: skip
        return
    cut = _Blocks(x)
    of_blocks = {name: flags[name] for name in ("EXACT", "TEMPERED")}
    for group in cut.groups(n_rows):
        cut.summarise(
            x[group], rates, of_blocks, labels=labels[group], weight=weights, ignored=ignore_index,
            weighted=flags["WEIGHTED"], smooth=flags["SMOOTH"],
        )  # fmt: skip
        blocks.cross_entropy_blocks[(len(x[group]), cut.n_blocks)](
            x[group], labels[group], weights, mass, scale, losses[group], into[group], cut.maxima, cut.rests,
            cut.totals, cut.picked, n_columns, x.stride(0), into.stride(0), ignore_index, *options,
            **flags, **cut.shape,
        )  # fmt: skip


@_launched_there
def softmax_vjp(p: torch.Tensor, cotangent: torch.Tensor, out: torch.Tensor, *, temperature: float = 1.0) -> None:
    """Write p * (c - sum p c) / temperature for rows."""
    n_rows, n_columns = p.shape
    strides, exact = (p.stride(0), cotangent.stride(0), out.stride(0)), p.dtype == torch.float32
    if _fits(p):
        tile = _tile_of(p)
        rows.vjp_rows[(triton.cdiv(n_rows, tile["R"]),)](
            p, cotangent, out, n_rows, n_columns, *strides, *rates_of(temperature), EXACT=exact, **tile
        )
        return
    long_rows.vjp_long_rows[(n_rows,)](
        p, cotangent, out, n_columns, triton.cdiv(n_columns, BLOCK), *strides, *rates_of(temperature), EXACT=exact,
        **_block_shape(n_columns),
    )  # fmt: skip


@_launched_there
def log_softmax_vjp(x: torch.Tensor, cotangent: torch.Tensor, out: torch.Tensor, *, temperature: float = 1.0) -> None:
    """Write (c - p sum c) / temperature for rows whose softmax is p."""
    n_rows, n_columns = x.shape
    rates, flags = rates_of(temperature), _flags(x, temperature)
    strides = x.stride(0), cotangent.stride(0), out.stride(0)
    if _fits(x):
        tile = _tile_of(x)
        rows.log_vjp_rows[(triton.cdiv(n_rows, tile["R"]),)](
            x, cotangent, out, n_rows, n_columns, *strides, *rates, **flags, **tile
        )
        return
    long_rows.log_vjp_long_rows[(n_rows,)](
        x, cotangent, out, n_columns, triton.cdiv(n_columns, BLOCK), *strides, *rates, **flags,
        **_block_shape(n_columns),
    )  # fmt: skip
