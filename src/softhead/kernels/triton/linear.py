"""Kernels between the matrix products of a linear map's loss: logits to exponentials, rows finished, sums of blocks.

The logits of some classes come in float32, straight from a product, and leave as bfloat16 exponentials relative to a
`reference` of their row, a number near the largest logit so far. What a row's exponentials are to be multiplied by is
known once all classes have passed. A factor for each row multiplies what the products give or take, so the
exponentials stay as they are: logits are never rounded, and nobody reads and writes them once more.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from softhead.kernels.triton.arithmetic import exp, row_loss, scale_of, shifted, sum_of_rest, weighted_sum, wide
from softhead.kernels.triton.blocks import combined

_CLASSES = 1024  # of a program
_REACH = tl.constexpr(16.0)  # how far logits / temperature may rise above their row's reference before it moves
_FLOOR = tl.constexpr(-3.0e38)  # the reference of a row of which no logit was seen


@triton.jit(do_not_specialize=["tile"])
def exponentiate_classes(
    logits, bias, labels, weight, out, maxima, rests, totals, references, picked,
    tile, first, here, n_blocks, out_stride, ignored, rate, rate_low,
    KEEP: tl.constexpr, BIASED: tl.constexpr, WEIGHTED: tl.constexpr, SMOOTH: tl.constexpr, TEMPERED: tl.constexpr,
    BLOCKS: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Write the exponentials of B of a row's classes that are `here`, from `first` on, and what is known of these."""
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = block * B + tl.arange(0, B)
    mask = columns < here
    y = tl.load(labels + row).to(tl.int64)
    of_row = row * n_blocks
    place = of_row + tile * BLOCKS + block
    out_place = out + row * out_stride + first + columns
    if y == ignored:
        if KEEP:
            tl.store(out_place, tl.zeros((B,), out.dtype.element_ty), mask=mask)
    else:
        v = tl.load(logits + row * here + columns, mask=mask, other=-float("inf"))
        if BIASED:
            v += tl.load(bias + first + columns, mask=mask, other=0.0).to(tl.float32)
        m = tl.max(v, axis=0)
        top = tl.where(m == -float("inf"), 0.0, m)  # exponentials of a block that is masked are 0
        high, low = shifted(v, top, rate, rate_low, False, TEMPERED)
        e = exp(high, low, False)
        rest = sum_of_rest(e[None, :], v[None, :], tl.full((1,), 1.0, tl.float32) * top, False)
        earlier = (tile - 1) * BLOCKS + tl.arange(0, BLOCKS)
        before = tl.max(tl.load(references + of_row + earlier, mask=earlier >= 0, other=_FLOOR), axis=0)
        reference = tl.where((m - before) * rate > _REACH, m, before)
        tl.store(references + place, reference)
        tl.store(maxima + place, m)
        tl.store(rests + place + tl.arange(0, 1), tl.where(m == -float("inf"), tl.sum(e, axis=0).to(tl.float64), rest))
        if SMOOTH:
            w = tl.full((B,), 1.0, tl.float32)
            if WEIGHTED:
                w = tl.load(weight + first + columns, mask=mask, other=0.0).to(tl.float32)
            tl.store(totals + place + tl.arange(0, 1), weighted_sum(v[None, :], w, mask[None, :]))
        if (y - first >= block * B) & (y - first < tl.minimum(here, (block + 1) * B)):
            tl.store(picked + row + tl.arange(0, 1), tl.sum(tl.where(columns == y - first, v, 0.0), axis=0))
        if KEEP:
            rise = tl.where(m == -float("inf"), 0.0, tl.exp((m - reference) * rate))
            # The logits, which the next product writes over, are to stay in the cache; what is written here is not.
            tl.store(out_place, (e * rise).to(out.dtype.element_ty), mask=mask, eviction_policy="evict_first")


@triton.jit
def finish_rows(
    labels, weight, mass, scale, factors, losses, multipliers, exponentials, maxima, rests, totals, references, picked,
    n_columns, width, n_blocks, stride, ignored, smoothing, z_loss, rate, rate_low,
    GRADIENT: tl.constexpr, WEIGHTED: tl.constexpr, SMOOTH: tl.constexpr, PULL: tl.constexpr, TEMPERED: tl.constexpr,
    FACTORS: tl.constexpr, BLOCKS: tl.constexpr, NB: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Write a row's loss and multiplier; put right those exponentials that are not its gradient up to that."""
    row = tl.program_id(0).to(tl.int64)
    y = tl.load(labels + row).to(tl.int64)
    if y == ignored:
        tl.store(losses + row, tl.zeros((), losses.dtype.element_ty))
        tl.store(multipliers + row, tl.zeros((), multipliers.dtype.element_ty))
    else:
        exact_rate = wide(rate, rate_low)
        m, rest = combined(maxima, rests, row, n_blocks, exact_rate, NB)
        possible = (y >= 0) & (y < n_columns)
        w_y = tl.full((), 1.0, tl.float64)
        if WEIGHTED:
            w_y = tl.load(weight + y, mask=possible, other=0.0).to(tl.float64)
        w_y = tl.where(possible, w_y, float("nan"))
        blocks = tl.arange(0, NB)
        total = tl.full((), 0.0, tl.float64)
        if SMOOTH:
            total = tl.sum(tl.load(totals + row * n_blocks + blocks, mask=blocks < n_blocks, other=0.0), axis=0)
        by = scale_of(scale)
        if FACTORS:
            by *= tl.load(factors + row).to(tl.float64)
        loss, factor, own = row_loss(
            m, rest, tl.load(picked + row), w_y, total, tl.load(mass), n_columns, smoothing, z_loss, rate, rate_low, by,
            SMOOTH, PULL, False, TEMPERED,
        )  # fmt: skip
        tl.store(losses + row, loss.to(losses.dtype.element_ty))
        if GRADIENT:
            seen = tl.load(references + row * n_blocks + blocks, mask=blocks < n_blocks, other=_FLOOR)
            last = tl.max(seen, axis=0)
            multiplier = factor * tl.exp((last - m) * rate).to(tl.float64)
            tl.store(multipliers + row, multiplier.to(multipliers.dtype.element_ty))
            inverse = tl.where(multiplier == 0.0, 0.0, 1.0 / multiplier)
            moved = tl.sum(((seen != last) & (seen > _FLOOR)).to(tl.int32), axis=0) > 0
            if moved or SMOOTH:
                for block in range(n_blocks):
                    shift = (tl.load(references + row * n_blocks + block) - last) * rate
                    if (shift != 0.0) or SMOOTH:
                        inner = (block % BLOCKS) * B + tl.arange(0, B)
                        columns = (block // BLOCKS) * width + inner
                        mask = (inner < width) & (columns < n_columns)
                        place = exponentials + row * stride + columns
                        e = tl.load(place, mask=mask, other=0.0).to(tl.float32) * tl.exp(shift)
                        if SMOOTH:
                            w = tl.full((B,), 1.0, tl.float32)
                            if WEIGHTED:
                                w = tl.load(weight + columns, mask=mask, other=0.0).to(tl.float32)
                            e -= (wide(smoothing, 0.0) / n_columns * exact_rate * by * inverse).to(tl.float32) * w
                        tl.store(place, e.to(exponentials.dtype.element_ty), mask=mask)
            tl.debug_barrier()  # the entry of the row's class is written after all others
            own = (tl.where(possible, own, 0.0) * inverse).to(tl.float32)
            column = tl.where(possible, y, 0)
            tl.store(exponentials + row * stride + column, own.to(exponentials.dtype.element_ty))


@triton.jit
def accumulate_tile(total, low, tile, size, FIRST: tl.constexpr, LAST: tl.constexpr, B: tl.constexpr):
    """Add a float32 tile to sums whose upper 16 bits are bfloat16 and whose next 8 are bytes; the last rounds once."""
    place = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    mask = place < size
    v = tl.load(tile + place, mask=mask, other=0.0)
    if not FIRST:
        bits = (tl.load(total + place, mask=mask, other=0).to(tl.int32) << 16) | (
            tl.load(low + place, mask=mask, other=0).to(tl.int32) << 8
        )
        v += bits.to(tl.float32, bitcast=True)
    if LAST:
        tl.store(total + place, v.to(tl.bfloat16).to(tl.int16, bitcast=True), mask=mask)
    else:
        bits = v.to(tl.int32, bitcast=True)
        bits = tl.where(v == v, bits + 128, bits)
        tl.store(total + place, (bits >> 16).to(tl.int16), mask=mask)
        tl.store(low + place, ((bits >> 8) & 255).to(tl.uint8), mask=mask)


@triton.jit
def multiply_entries(x, factor, size, B: tl.constexpr):
    """Multiply entries by a number in place; where it is 1 nothing is read."""
    by = tl.load(factor).to(tl.float32)
    if by != 1.0:
        place = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
        v = tl.load(x + place, mask=place < size, other=0.0).to(tl.float32) * by
        tl.store(x + place, v.to(x.dtype.element_ty), mask=place < size)


class Rows:
    """What is known of the rows of a block while their classes pass, tile by tile, and then their losses."""

    def __init__(
        self, labels: torch.Tensor, ignore_index: int, weight: torch.Tensor | None, n_classes: int, width: int,
        rates: tuple[float, float],
    ) -> None:  # fmt: skip
        device, in_tile = labels.device, triton.next_power_of_2(triton.cdiv(width, _CLASSES))
        self._n_blocks = in_tile * triton.cdiv(n_classes, width)
        self._labels, self._weight, self._width, self._rates = labels, weight, width, rates
        self._ignored = ignore_index
        self._n_classes = n_classes
        size = (len(labels), self._n_blocks)
        self._maxima, self._references = torch.full((2, *size), -3.0e38, dtype=torch.float32, device=device)
        self._maxima.fill_(-torch.inf)  # of blocks beyond the last class
        self._rests, self._totals = torch.zeros((2, *size), dtype=torch.float64, device=device)
        self._picked = torch.empty(len(labels), dtype=torch.float32, device=device)
        self._flags = {"WEIGHTED": weight is not None, "B": _CLASSES, "BLOCKS": in_tile}

    def exponentiate(
        self, tile: int, logits: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None, smooth: bool
    ) -> None:
        """Take the float32 logits (n_rows, classes) of a tile; write their exponentials into their place in `out`."""
        known = self._maxima, self._rests, self._totals, self._references, self._picked
        exponentiate_classes[(len(self._labels), triton.cdiv(logits.shape[1], _CLASSES))](
            logits, logits if bias is None else bias, self._labels, logits if self._weight is None else self._weight,
            logits if out is None else out, *known, tile, tile * self._width, logits.shape[1], self._n_blocks,
            0 if out is None else out.stride(0), self._ignored, *self._rates, KEEP=out is not None,
            BIASED=bias is not None, SMOOTH=smooth, TEMPERED=self._rates != (1.0, 0.0), num_warps=2, **self._flags,
        )  # fmt: skip

    def finish(
        self, losses: torch.Tensor, exponentials: torch.Tensor | None, multipliers: torch.Tensor,
        scale: torch.Tensor, factors: torch.Tensor | None, smoothing: float, z_loss: float,
    ) -> None:  # fmt: skip
        """Write the losses and, if there are exponentials, what multiplies those of a row to give its gradient."""
        weight, labels, stride = self._weight, self._labels, 0 if exponentials is None else exponentials.stride(0)
        mass = mass_of(weight, self._n_classes, scale) if smoothing > 0.0 else scale
        finish_rows[(len(labels),)](
            labels, losses if weight is None else weight, mass, scale, losses if factors is None else factors,
            losses, multipliers, multipliers if exponentials is None else exponentials, self._maxima, self._rests,
            self._totals, self._references, self._picked, self._n_classes, self._width, self._n_blocks, stride,
            self._ignored, float(smoothing), float(z_loss), *self._rates, GRADIENT=exponentials is not None,
            SMOOTH=smoothing > 0.0, PULL=z_loss > 0.0,
            TEMPERED=self._rates != (1.0, 0.0), FACTORS=factors is not None,
            NB=triton.next_power_of_2(self._n_blocks), num_warps=8, **self._flags,
        )  # fmt: skip


def mass_of(weight: torch.Tensor | None, n_classes: int, like: torch.Tensor) -> torch.Tensor:
    """Return the sum of the classes' weights, beside a float64 number on the device."""
    return torch.full_like(like, float(n_classes)) if weight is None else weight.sum(dtype=torch.float64)


def accumulate(total: torch.Tensor, low: torch.Tensor, tile: torch.Tensor, *, first: bool, last: bool) -> None:
    """Add a float32 tile to bfloat16 sums, of which `low` holds eight more bits between the first and the last."""
    size: Any = tile.numel()
    accumulate_tile[(triton.cdiv(size, 4096),)](
        total.view(torch.int16), low, tile, size, FIRST=first, LAST=last, B=4096, num_warps=8
    )


def multiply(x: torch.Tensor, factor: torch.Tensor) -> None:
    """Multiply a contiguous tensor by a number on its device, in place."""
    multiply_entries[(triton.cdiv(x.numel(), 8192),)](x, factor, x.numel(), B=8192, num_warps=8)
