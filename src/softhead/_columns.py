"""How each kind of column becomes columns of a matrix: numbers, categories, datetimes and times of day."""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from softhead._series import Kind
from softhead._state import fields, require, texts

_DAY = 86400.0  # seconds
_TRUTH = (("False", "True"), ("0", "1"))
_LARGEST = float(np.finfo(np.float32).max)
_BLOCK = 1 << 18  # numbers that are worked on at once, so that float64 temporaries stay at a few MB


class Column(ABC):
    """What was learnt from one input column (or one block of them), and how its values are encoded.

    A row of the input sets at most `slots` of the `width` output columns to something other than zero.
    """

    kind: ClassVar[Kind]
    width: int

    @property
    def slots(self) -> int:
        """How many entries a row takes in a sparse matrix, at most."""
        return self.width

    @abstractmethod
    def names(self, inputs: Sequence[str]) -> list[str]:
        """Name the output columns, given the names of the input columns."""

    @abstractmethod
    def write(self, values: Any, out: NDArray[np.float32]) -> None:
        """Encode values into `out` of shape (n, width), all zeros."""

    def write_slots(self, values: Any, out: NDArray[np.float32], positions: NDArray[np.int32]) -> None:
        """Encode values into `out` of shape (n, slots), all zeros; positions[i, k] is the column of out[i, k]."""
        self.write(values, out)
        positions[:] = np.arange(self.width)

    @abstractmethod
    def to_state(self) -> dict[str, object]:
        """Return what was learnt as plain values and arrays."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: object) -> Self:
        """Rebuild from `to_state`; a ValueError where that is impossible."""


class Numbers(Column):
    """Numbers of shape (n, D): (x - mean) / scale, missing ones 0, then an indicator per column with missing values.

    `mean` is NaN for a column that had no value at all, which is left out. `missing` lists the columns with indicators.
    """

    kind = "number"

    def __init__(self, mean: NDArray[np.float64], scale: NDArray[np.float64], missing: Sequence[int]) -> None:
        self.mean = mean
        self.scale = scale
        self.missing = list(missing)
        self.kept = np.flatnonzero(~np.isnan(mean)).tolist()
        self.width = len(self.kept) + len(self.missing)

    @classmethod
    def fit(cls, values: NDArray[Any], *, one_scale: bool = False) -> Self:
        """Learn means and scales; with `one_scale` the standard deviation over all values serves every column."""
        mean, std, count = _mean_std_count(values)
        scale = np.full_like(std, _pooled_std(mean, std, count)) if one_scale else std
        missing = np.flatnonzero((count > 0) & (count < len(values)))
        return cls(mean, np.where(scale > 0, scale, 1.0), missing.tolist())

    def names(self, inputs: Sequence[str]) -> list[str]:
        return [inputs[j] for j in self.kept] + [f"{inputs[j]} missing" for j in self.missing]

    def write(self, values: NDArray[Any], out: NDArray[np.float32]) -> None:
        kept = len(self.kept)
        for rows, block in row_blocks(values):
            with np.errstate(over="ignore"):
                scores = (block - self.mean) / self.scale
            # A number far beyond those seen in fit must not become infinite in float32.
            np.clip(scores, -_LARGEST, _LARGEST, out=scores)
            scores[np.isnan(scores)] = 0.0
            out[rows, :kept] = scores if kept == scores.shape[1] else scores[:, self.kept]
            if self.missing:
                out[rows, kept:] = np.isnan(block[:, self.missing])

    def to_state(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "mean": self.mean.copy(),
            "scale": self.scale.copy(),
            "missing": self.missing.copy(),
        }

    @classmethod
    def from_state(cls, state: object) -> Self:
        _, mean, scale, missing = fields(state, kind=str, mean=np.ndarray, scale=np.ndarray, missing=list)
        require(all(array.dtype == np.float64 and array.ndim == 1 for array in (mean, scale)), "means and scales")
        require(mean.shape == scale.shape and not np.isinf(mean).any(), "means and scales")
        require((np.isfinite(scale) & (scale > 0)).all(), "means and scales")
        require(all(type(j) is int and 0 <= j < len(mean) and not np.isnan(mean[j]) for j in missing), "indicators")
        require(missing == sorted(set(missing)), "indicators")
        return cls(mean, scale, missing)


class Categories(Column):
    """Strings: one-hot, with a shared column for values without their own and an indicator of missing ones.

    Without the shared column, a value that was not seen in fit is all zeros. A column without any value has no output.
    """

    kind = "category"

    def __init__(self, values: Sequence[str], other: bool, missing: bool) -> None:
        self.values = list(values)
        self.other = other
        self.missing = missing
        self.width = len(self.values) + other + missing

    @classmethod
    def fit(cls, values: Sequence[str | None], max_categories: int) -> Self:
        """Keep the most frequent values, ties by value, so that there are at most `max_categories` output columns."""
        counts = Counter(values)
        missing = counts.pop(None, 0) > 0 and bool(counts)
        room = max_categories - missing
        other = len(counts) > room
        by_frequency = sorted((-count, value) for value, count in counts.items() if value is not None)
        return cls(sorted(value for _, value in by_frequency[: room - other]), other, missing)

    @property
    def slots(self) -> int:
        return min(self.width, 1)

    def names(self, inputs: Sequence[str]) -> list[str]:
        (name,) = inputs
        own = [f"{name}={value}" for value in self.values]
        return own + [f"{name} other"] * self.other + [f"{name} missing"] * self.missing

    def write(self, values: Sequence[str | None], out: NDArray[np.float32]) -> None:
        positions = self._positions(values)
        rows = np.flatnonzero(positions >= 0)
        out[rows, positions[rows]] = 1.0

    def write_slots(self, values: Sequence[str | None], out: NDArray[np.float32], positions: NDArray[np.int32]) -> None:
        found = self._positions(values)
        out[:, 0] = found >= 0
        positions[:, 0] = np.maximum(found, 0)

    @property
    def unseen(self) -> int:
        """The output column of values without one of their own, -1 for none."""
        return len(self.values) if self.other else -1

    def positions(self) -> dict[str | None, int]:
        """Return the output column of each known value, and of None for a missing one, -1 for none."""
        index: dict[str | None, int] = {value: position for position, value in enumerate(self.values)}
        for names in (_TRUTH, _TRUTH[::-1]):
            if index.keys() <= set(names[0]):  # truth values come as bools from one file and as 0 and 1 from another
                index |= {other: index[name] for name, other in zip(*names, strict=True) if name in index}
                break
        index[None] = self.width - 1 if self.missing else -1
        return index

    def _positions(self, values: Sequence[str | None]) -> NDArray[np.intp]:
        """Return the output column of every value, -1 for none."""
        index, unseen = self.positions(), self.unseen
        return np.fromiter((index.get(value, unseen) for value in values), np.intp, len(values))

    def to_state(self) -> dict[str, object]:
        values = np.array(self.values, dtype=object)
        return {"kind": self.kind, "values": values, "other": self.other, "missing": self.missing}

    @classmethod
    def from_state(cls, state: object) -> Self:
        _, values, other, missing = fields(state, kind=str, values=np.ndarray, other=bool, missing=bool)
        strings = texts(values)
        require(strings == sorted(set(strings)), "categories")
        require(strings or other or not missing, "categories")
        return cls(strings, other, missing)


class Times(Column):
    """Seconds since midnight: sine and cosine of the phase in the day, then an indicator if some were missing."""

    kind = "time"

    def __init__(self, missing: bool) -> None:
        self.missing = missing
        self.width = 2 + missing

    @classmethod
    def fit(cls, values: NDArray[np.float64]) -> Self:
        """Learn whether there are missing values."""
        return cls(bool(np.isnan(values).any()))

    def names(self, inputs: Sequence[str]) -> list[str]:
        (name,) = inputs
        return [f"{name} day sin", f"{name} day cos"] + [f"{name} missing"] * self.missing

    def write(self, values: NDArray[np.float64], out: NDArray[np.float32]) -> None:
        _write_with_indicator(_circle(values / _DAY), np.isnan(values), self.missing, out)

    def to_state(self) -> dict[str, object]:
        return {"kind": self.kind, "missing": self.missing}

    @classmethod
    def from_state(cls, state: object) -> Self:
        _, missing = fields(state, kind=str, missing=bool)
        return cls(missing)


class Datetimes(Column):
    """Seconds since 1970-01-01 UTC: standardised days, and sine and cosine of the phases in the year and the week.

    Then those of the phase in the day if `daily`, and an indicator if some were missing.
    """

    kind = "datetime"

    def __init__(self, mean: float, scale: float, daily: bool, missing: bool) -> None:
        self.mean = mean
        self.scale = scale
        self.daily = daily
        self.missing = missing
        self.cycles = ("year", "week", "day") if daily else ("year", "week")
        self.width = 1 + 2 * len(self.cycles) + missing

    @classmethod
    def fit(cls, values: NDArray[np.float64]) -> Self:
        """Learn the scale of the days, and whether any datetime is not a midnight."""
        days = values / _DAY
        missing = np.isnan(days)
        mean, scale, _ = _mean_std_count(days)
        daily = bool((days[~missing] % 1.0 != 0.0).any())
        return cls(float(mean[0]), float(scale[0]) or 1.0, daily, bool(missing.any()))

    def names(self, inputs: Sequence[str]) -> list[str]:
        (name,) = inputs
        phases = [f"{name} {cycle} {part}" for cycle in self.cycles for part in ("sin", "cos")]
        return [f"{name} days", *phases] + [f"{name} missing"] * self.missing

    def write(self, values: NDArray[np.float64], out: NDArray[np.float32]) -> None:
        missing = np.isnan(values)
        days = np.where(missing, 0.0, values) / _DAY
        # 1970-01-01 was a Thursday; weeks start on Monday.
        phases = {"year": _phase_in_year(days), "week": (days + 3.0) / 7.0, "day": days}
        parts = [(days - self.mean) / self.scale, *(_circle(phases[cycle]) for cycle in self.cycles)]
        _write_with_indicator(np.hstack(parts), missing, self.missing, out)

    def to_state(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "mean": self.mean,
            "scale": self.scale,
            "daily": self.daily,
            "missing": self.missing,
        }

    @classmethod
    def from_state(cls, state: object) -> Self:
        _, mean, scale, daily, missing = fields(state, kind=str, mean=float, scale=float, daily=bool, missing=bool)
        require(math.isfinite(mean) and math.isfinite(scale) and scale > 0, "means and scales")
        return cls(mean, scale, daily, missing)


def column_from_state(state: object) -> Column:
    """Rebuild a column of any kind from its state."""
    kind = state.get("kind") if isinstance(state, dict) else None
    known: dict[object, type[Column]] = {column.kind: column for column in (Numbers, Categories, Datetimes, Times)}
    require(isinstance(kind, str) and kind in known, "kinds of columns")
    return known[kind].from_state(state)


def row_blocks(values: NDArray[Any]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield a 2-D array in blocks of rows as float64, so that no whole copy of it is made."""
    n_rows = max(1, _BLOCK // values.shape[1])
    for start in range(0, len(values), n_rows):
        rows = slice(start, start + n_rows)
        yield rows, np.asarray(values[rows], dtype=np.float64)


def _mean_std_count(
    values: NDArray[Any],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp]]:
    """Return mean, standard deviation and number of the present values of each column; NaN where there are none.

    Each column is first mapped to [-1, 1] by its extremes, so that no sum overflows, no square underflows and a
    constant column has a standard deviation of exactly 0; then two passes, the second corrected for the rounding
    error of the mean (Chan, Golub and LeVeque, 1983).
    """
    low = np.full(values.shape[1], np.inf)
    high = -low
    count = np.zeros(values.shape[1], dtype=np.intp)
    for _, block in row_blocks(values):
        low = np.fmin(low, np.fmin.reduce(block))
        high = np.fmax(high, np.fmax.reduce(block))
        count += np.count_nonzero(~np.isnan(block), axis=0)
    with np.errstate(invalid="ignore"):
        centre = low / 2 + high / 2
        spread = high / 2 - low / 2
        spread[~(spread > 0)] = 1.0
        mean = sum(np.nansum((block - centre) / spread, axis=0) for _, block in row_blocks(values)) / count
        total = np.zeros_like(mean)
        squares = np.zeros_like(mean)
        for _, block in row_blocks(values):
            deviations = (block - centre) / spread - mean
            total += np.nansum(deviations, axis=0)
            squares += np.nansum(deviations * deviations, axis=0)
        variance = (squares - total * total / count) / count
    return centre + spread * mean, spread * np.sqrt(variance), count


def _pooled_std(mean: NDArray[np.float64], std: NDArray[np.float64], count: NDArray[np.intp]) -> float:
    """Return the standard deviation of all values together (the law of total variance)."""
    seen = count > 0
    weight = count[seen] / count.sum()
    offset = mean[seen] - weight @ mean[seen]
    return float(np.hypot.reduce(np.sqrt(weight) * np.hypot(std[seen], offset)))


def _phase_in_year(days: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how much of its calendar year has passed, from days since 1970-01-01."""
    years = np.floor(days).astype("datetime64[D]").astype("datetime64[Y]")
    start, stop = ((years + np.timedelta64(k, "Y")).astype("datetime64[D]").astype(np.float64) for k in (0, 1))
    return (days - start) / (stop - start)


def _circle(phase: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sine and cosine of a phase whose period is 1, so that its end meets its beginning."""
    angle = 2.0 * np.pi * (phase % 1.0)
    return np.hstack((np.sin(angle), np.cos(angle)))


def _write_with_indicator(
    encoded: NDArray[np.float64], missing: NDArray[np.bool_], indicator: bool, out: NDArray[np.float32]
) -> None:
    """Write encoded values, 0 where missing, and the indicator of missing values if there is one."""
    out[:, : encoded.shape[1]] = np.where(missing, 0.0, encoded)
    if indicator:
        out[:, -1:] = missing
