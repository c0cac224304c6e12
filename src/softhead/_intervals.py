"""Estimates from a sample of rows, with confidence intervals: means, proportions, and sums over a bootstrap."""

from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

_REPLICATES = 1000
_GROUPS = 2000  # up to so many rows are drawn one by one; more of them in groups of equal size
_CELLS = 4_000_000  # numbers that the sums of all groups may take


class Estimate(NamedTuple):
    """A figure from a sample of rows, and the interval that covers the population's with the confidence asked for.

    Attributes
    ----------
    value, low, high : float

    Examples
    --------
    >>> import softhead
    >>> value, low, high = softhead.brier_score([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]], [0, 1, 1])
    >>> round(value, 4), bool(low < value < high)
    (0.14, True)
    """

    value: float
    low: float
    high: float

    def __float__(self) -> float:
        return self.value


def quantile_of_normal(confidence: float) -> float:
    """Return how many standard deviations about the mean hold a share of a normal distribution."""
    if not (isinstance(confidence, float) and 0.0 < confidence < 1.0):
        raise ValueError(f"confidence={confidence!r}; it must lie strictly between 0 and 1")
    return NormalDist().inv_cdf(0.5 + confidence / 2.0)


def mean(values: np.ndarray, weight: np.ndarray | None, confidence: float, *, largest: float = np.inf) -> Estimate:
    """Return the mean of independent rows whose values lie between 0 and `largest`.

    The interval is the normal one, with the variance from the residuals, as far as it lies in that range; of one row,
    which has no residual, it is the whole range.
    """
    z = quantile_of_normal(confidence)
    if not len(values):
        return Estimate(np.nan, np.nan, np.nan)
    share = np.full(len(values), 1.0 / len(values)) if weight is None else weight / weight.sum()
    value = float(share @ values)
    if not np.isfinite(value):
        return Estimate(value, value, value)
    if len(values) == 1:
        return Estimate(value, 0.0, largest)
    half = z * float(np.sqrt(np.square(share) @ np.square(values - value)))
    return Estimate(value, max(0.0, value - half), min(largest, value + half))


def proportion(successes: np.ndarray, weight: np.ndarray | None, confidence: float) -> Estimate:
    """Return the share of successes with Wilson's interval, which holds near 0 and 1 where the normal one does not.

    Unequal weights count as the number of rows with the same variance, (sum s)^2 / sum s^2 (Kish, 1965).
    """
    weight = np.ones(len(successes)) if weight is None else weight
    return Estimate(*map(float, wilson(weight @ successes, weight.sum(), np.square(weight).sum(), confidence)))


def wilson(
    successes: np.ndarray, total: np.ndarray, squares: np.ndarray, confidence: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return shares and Wilson's intervals of them from the sums of weights, and of their squares; NaN without rows."""
    z2 = quantile_of_normal(confidence) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        n = np.square(total) / squares
        p = successes / total
        half = np.sqrt(z2 * (p * (1.0 - p) / n + z2 / (4.0 * n * n)))
        centre, scale = p + z2 / (2.0 * n), 1.0 + z2 / n
        return p, np.clip((centre - half) / scale, 0.0, p), np.clip((centre + half) / scale, p, 1.0)


class Bootstrap:
    """Sums of rows over cells, of the sample and of a fixed number of bootstrap samples of it.

    The samples are drawn once, from one seed: results repeat. A bootstrap sample of many rows is one of groups of rows,
    dealt at random: rows are independent, so their groups are too, and the cost is that of 2,000 rows.

    Parameters
    ----------
    n_rows, n_cells : int
    """

    def __init__(self, n_rows: int, n_cells: int) -> None:
        self.n_cells = n_cells
        self.n_groups = min(n_rows, _GROUPS, max(100, _CELLS // n_cells))
        drawn = np.random.default_rng(0).permutation(n_rows)
        drawn %= max(1, self.n_groups)
        self.group = drawn.astype(np.int16)  # there may be very many rows
        self.by_group = np.zeros((self.n_groups, n_cells))

    def add(self, rows: slice, cells: np.ndarray, values: np.ndarray) -> None:
        """Add the values (n, k) of some rows to their cells (n, k)."""
        at = self.group[rows].astype(np.intp).reshape(-1, *[1] * (cells.ndim - 1))
        at *= self.n_cells
        at = at + cells
        size = self.by_group.size
        self.by_group += np.bincount(at.ravel(), values.ravel(), minlength=size).reshape(self.by_group.shape)

    @property
    def sums(self) -> np.ndarray:
        """The sums over all rows."""
        return self.by_group.sum(axis=0)

    def replicates(self) -> np.ndarray:
        """Return the sums over each bootstrap sample, of shape (n_replicates, n_cells)."""
        return _counts(self.n_groups) @ self.by_group


@lru_cache(maxsize=2)
def _counts(n_groups: int) -> np.ndarray:
    """Return how often each bootstrap sample has each group, of shape (n_replicates, n_groups)."""
    draws = np.random.default_rng(1).integers(n_groups, size=(_REPLICATES, n_groups))
    draws += np.arange(_REPLICATES)[:, None] * n_groups
    return np.bincount(draws.ravel(), minlength=draws.size).reshape(draws.shape).astype(np.float64)
