"""The row functions for CUDA tensors, in Triton: each entry is read once and written once.

A program holds a tile of whole rows in registers. Rows of more than 64 KB are cut into blocks: one launch writes the
maximum and the sum of each block, the next combines them in their order and reads the entries again, from the
second-level cache where a group of rows fits in it. Nothing is added by atomic operations: a row's result depends on
the row alone.

float32 is exponentiated with the rounding error of the shift kept and summed in float64; half types are computed in
float32 and rounded once. What belongs to a row (its normaliser, its loss, the gradient of its class) is float64. The
equations are those of `kernels/loops.py`; `rest` is again the sum of all exponentials but the maximum's.
"""

from typing import Any

import torch
import triton

from softhead.kernels.triton import blocks, rows
from softhead.kernels.triton import linear as linear

LARGEST_TILE = 65_536  # bytes of a row held at once: 16 float32 or 32 half values for each of 1024 threads
_SMALLEST_TILE = 4_096  # short rows share a program
_BLOCK = 8_192  # of a longer row
_GROUP_BYTES = 2**24  # of long rows between the two launches, a third of an H200's second-level cache


def _tile_of(n_columns: int) -> dict[str, int]:
    """Return the rows and columns of a program's tile, and its warps."""
    columns = triton.next_power_of_2(n_columns)
    rows = max(1, min(256, _SMALLEST_TILE // columns))
    return {"R": rows, "B": columns, "num_warps": min(32, max(4, rows * columns // 512))}


def rates_of(temperature: float) -> tuple[float, float]:
    """Return 1 / temperature as the sum of two float32 numbers."""
    rate = 1.0 / temperature
    high = float(torch.tensor(rate, dtype=torch.float32))
    return high, rate - high


class _Blocks:
    """How rows too long for one tile are cut, and what is known of the blocks of a group of rows."""

    def __init__(self, x: torch.Tensor) -> None:
        n_rows, n_columns = x.shape
        self.n_blocks = triton.cdiv(n_columns, _BLOCK)
        self.rows = max(1, min(n_rows, _GROUP_BYTES // (n_columns * x.element_size())))
        self.shape = {"B": _BLOCK, "NB": triton.next_power_of_2(self.n_blocks), "num_warps": 8}
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
            *rates, **flags, **smooth, B=_BLOCK, num_warps=8,
        )  # fmt: skip


def _flags(x: torch.Tensor, temperature: float) -> dict[str, bool]:
    return {"EXACT": x.dtype == torch.float32, "TEMPERED": temperature != 1.0}


def softmax(x: torch.Tensor, out: torch.Tensor, *, temperature: float = 1.0, log: bool = False) -> None:
    """Write the softmax of rows, or its logarithm; `x` and `out` (n_rows, n_columns) with columns side by side."""
    n_rows, n_columns = x.shape
    rates, flags = rates_of(temperature), _flags(x, temperature)
    if n_columns * x.element_size() <= LARGEST_TILE:
        tile = _tile_of(n_columns)
        rows.map_rows[(triton.cdiv(n_rows, tile["R"]),)](
            x, out, n_rows, n_columns, x.stride(0), out.stride(0), *rates, LOG=log, **flags, **tile
        )
        return
    cut = _Blocks(x)
    for group in cut.groups(n_rows):
        cut.summarise(x[group], rates, flags)
        blocks.map_blocks[(len(x[group]), cut.n_blocks)](
            x[group], out[group], cut.maxima, cut.rests, n_columns, x.stride(0), out.stride(0), *rates,
            LOG=log, **flags, **cut.shape,
        )  # fmt: skip


def logsumexp(x: torch.Tensor, out: torch.Tensor, *, temperature: float = 1.0) -> None:
    """Write the log-sum-exp of rows of `x` / temperature; `out` (n_rows,) contiguous."""
    n_rows, n_columns = x.shape
    rates, flags = rates_of(temperature), _flags(x, temperature)
    if n_columns * x.element_size() <= LARGEST_TILE:
        tile = _tile_of(n_columns)
        rows.normalise_rows[(triton.cdiv(n_rows, tile["R"]),)](
            x, out, n_rows, n_columns, x.stride(0), *rates, **flags, **tile
        )
        return
    cut = _Blocks(x)
    for group in cut.groups(n_rows):
        cut.summarise(x[group], rates, flags)
        blocks.normalise_blocks[(len(x[group]),)](
            out[group], cut.maxima, cut.rests, cut.n_blocks, *rates, NB=cut.shape["NB"]
        )


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
    if weight is None:
        mass = torch.full((), float(n_columns), dtype=torch.float64, device=x.device)
    else:
        mass = weight.sum(dtype=torch.float64)
    weights = x if weight is None else weight
    into = x if gradient is None else gradient
    options = (float(label_smoothing), float(z_loss), *rates)
    if n_columns * x.element_size() <= LARGEST_TILE:
        tile = _tile_of(n_columns)
        rows.cross_entropy_rows[(triton.cdiv(n_rows, tile["R"]),)](
            x, labels, weights, mass, scale, losses, into, n_rows, n_columns, x.stride(0), into.stride(0), ignore_index,
            *options, **flags, **tile,
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


def softmax_vjp(p: torch.Tensor, cotangent: torch.Tensor, out: torch.Tensor, *, temperature: float = 1.0) -> None:
    """Write p * (c - sum p c) / temperature for rows of up to 64 KB."""
    n_rows, n_columns = p.shape
    tile = _tile_of(n_columns)
    rows.vjp_rows[(triton.cdiv(n_rows, tile["R"]),)](
        p, cotangent, out, n_rows, n_columns, p.stride(0), cotangent.stride(0), out.stride(0), *rates_of(temperature),
        EXACT=p.dtype == torch.float32, **tile,
    )  # fmt: skip
