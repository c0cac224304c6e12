"""Figures of a classifier from one confidence and one outcome a row: what the metrics and the command line share."""

from typing import NamedTuple

import numpy as np

from softhead import _checks as check
from softhead._intervals import Bootstrap, Estimate, quantile_of_normal, wilson

STRATEGIES = ("uniform", "quantile")
NORMS = ("l1", "l2", "max")
_SEGMENTS = 256  # of rows in order of confidence; a bootstrap resamples cumulative sums at their ends


def edges(p: np.ndarray, weight: np.ndarray, n_bins: int, strategy: str) -> np.ndarray | None:
    """Return the upper edges of all bins but the last for bins of equal weight; None for bins of equal width."""
    check.one_of("strategy", strategy, STRATEGIES)
    if strategy == "uniform" or not len(p):
        return None
    order = np.argsort(p, kind="stable")
    cumulated = np.cumsum(weight[order])
    wanted = np.arange(1, n_bins) / n_bins * cumulated[-1]
    tolerance = 1e-12 * cumulated[-1]  # so that ten rows are halved after the fifth, whatever the sums round to
    return p[order[np.searchsorted(cumulated, wanted - tolerance)]]


def bin_of(p: np.ndarray, n_bins: int, limits: np.ndarray | None) -> np.ndarray:
    """Return the bin of each probability: above its lower edge, at most its upper one."""
    if limits is None:
        return np.clip(np.ceil(p * n_bins).astype(np.intp) - 1, 0, n_bins - 1)
    return np.searchsorted(limits, p)


def _number_of_bins(n_bins: int) -> int:
    if isinstance(n_bins, bool) or not isinstance(n_bins, int | np.integer) or n_bins < 1:
        raise ValueError(f"n_bins={n_bins!r}; it must be an integer of at least 1")
    return int(n_bins)


class Bins:
    """The differences between outcomes and probabilities, summed over bins; rows are added block by block.

    Parameters
    ----------
    n_rows, n_classes, n_bins : int
        With one class, the bins are those of the predicted class.
    """

    def __init__(self, n_rows: int, n_classes: int, *, n_bins: int) -> None:
        self.n_bins, self.n_classes = _number_of_bins(n_bins), n_classes
        self.offsets = np.arange(n_classes) * self.n_bins
        self.mass = np.zeros(n_classes * self.n_bins)
        self.bootstrap = Bootstrap(n_rows, len(self.mass) + 1)  # the last sum is that of the weights

    def add(
        self, rows: slice, p: np.ndarray, hits: np.ndarray, weight: np.ndarray, limits: list[np.ndarray | None]
    ) -> None:
        """Add rows: probabilities and outcomes (n, n_classes), weights (n,), and for each class `edges` of its bins."""
        cells = bin_of(p, self.n_bins, None)
        for c, limit in enumerate(limits):
            if limit is not None:
                cells[:, c] = bin_of(p[:, c], self.n_bins, limit)
        cells += self.offsets
        weights = np.broadcast_to(weight[:, None], p.shape)
        self.mass += np.bincount(cells.ravel(), weights.ravel(), minlength=len(self.mass))
        self.bootstrap.add(rows, cells, weights * (hits - p))
        self.bootstrap.add(rows, np.full((len(p), 1), len(self.mass)), weight[:, None])

    def error(self, norm: str, confidence: float) -> Estimate:
        """Return the calibration error, and about it the quantile of the norm of the bootstrapped deviations."""
        check.one_of("norm", norm, NORMS)
        quantile_of_normal(confidence)
        if not self.bootstrap.n_groups:
            return Estimate(np.nan, np.nan, np.nan)
        *sums, total = self.bootstrap.sums
        means = np.array(sums) / total
        samples = self.bootstrap.replicates()
        value = float(self._norm(norm, means, total))
        deviation = self._norm(norm, samples[:, :-1] / samples[:, -1:] - means, total)
        return _within(value, deviation, confidence, self.bootstrap)

    def _norm(self, norm: str, means: np.ndarray, total: float) -> np.ndarray:
        """Return the norm over bins, on the last axis, of differences that are already times the bins' masses."""
        if norm == "l1":
            return np.abs(means).sum(axis=-1) / self.n_classes
        filled = self.mass > 0.0
        share = self.mass[filled] / total
        if norm == "l2":
            return np.sqrt((np.square(means[..., filled]) / share).sum(axis=-1) / self.n_classes)
        return (np.abs(means[..., filled]) / share).max(axis=-1)


def top_label_error(
    top: np.ndarray,
    correct: np.ndarray,
    weight: np.ndarray,
    *,
    n_bins: int,
    strategy: str,
    norm: str,
    confidence: float,
) -> Estimate:
    """Return the calibration error of the predicted class."""
    bins = Bins(len(top), 1, n_bins=n_bins)
    bins.add(slice(None), top[:, None], correct[:, None], weight, [edges(top, weight, n_bins, strategy)])
    return bins.error(norm, confidence)


def ks_error(top: np.ndarray, correct: np.ndarray, weight: np.ndarray, confidence: float) -> Estimate:
    """Return the largest cumulative difference between outcomes and confidences, and its bootstrapped band."""
    quantile_of_normal(confidence)
    if not len(top):
        return Estimate(np.nan, np.nan, np.nan)
    order, ends, segment = _ordered(top)
    difference = weight * (correct - top) / weight.sum()
    value = float(np.abs(np.cumsum(difference[order])[ends]).max())
    del order, ends  # there may be very many rows
    bootstrap = Bootstrap(len(top), _SEGMENTS + 1)
    bootstrap.add(slice(None), segment, difference)
    bootstrap.add(slice(None), np.full(len(top), _SEGMENTS), weight / weight.sum())
    samples = bootstrap.replicates()
    deviation = np.cumsum(samples[:, :-1] / samples[:, -1:] - bootstrap.sums[:-1], axis=1)
    return _within(value, np.abs(deviation).max(axis=1), confidence, bootstrap)


def _within(value: float, deviation: np.ndarray, confidence: float, bootstrap: Bootstrap) -> Estimate:
    """Return an error from 0 to 1 that is known up to a quantile of its deviations; of one row nothing is known."""
    radius = float(np.quantile(deviation, confidence)) if bootstrap.n_groups > 1 else np.inf
    return Estimate(value, max(0.0, value - radius), min(max(1.0, value), value + radius))


def _ordered(score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rising order, the last places of equal scores in it, and the segment of each row, alike for these."""
    order = np.argsort(score, kind="stable")
    ordered = score[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    segment = np.empty(len(score), np.int16)  # few bytes: there may be very many rows
    segment[order] = np.repeat(ends * _SEGMENTS // len(score), np.diff(ends, prepend=-1))
    return order, ends, segment


class ReliabilityTable(NamedTuple):
    """The bins of a reliability diagram, as `softhead.reliability_table` describes them."""

    lower: np.ndarray
    upper: np.ndarray
    mass: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray


def reliability(
    top: np.ndarray, correct: np.ndarray, weight: np.ndarray, *, n_bins: int, strategy: str, confidence: float
) -> ReliabilityTable:
    """Return the bins of a reliability diagram."""
    n_bins = _number_of_bins(n_bins)
    limits = edges(top, weight, n_bins, strategy)
    cells = bin_of(top, n_bins, limits)
    inner = np.arange(1, n_bins) / n_bins if limits is None else limits

    def sums(values: np.ndarray) -> np.ndarray:
        return np.bincount(cells, values, minlength=n_bins)

    mass = sums(weight)
    accuracy, low, high = wilson(sums(weight * correct), mass, sums(weight * weight), confidence)
    with np.errstate(invalid="ignore"):
        return ReliabilityTable(
            lower=np.append(0.0, inner),
            upper=np.append(inner, 1.0),
            mass=mass / mass.sum(),
            confidence=sums(weight * top) / mass,
            accuracy=accuracy,
            low=low,
            high=high,
        )


class RiskCoverage(NamedTuple):
    """The risk at each coverage, as `softhead.risk_coverage` describes it."""

    coverage: np.ndarray
    risk: np.ndarray
    threshold: np.ndarray
    area: Estimate


def selective(score: np.ndarray, correct: np.ndarray, weight: np.ndarray, confidence: float) -> RiskCoverage:
    """Return the risk of answering only the rows of the highest scores."""
    tail = (1.0 - confidence) / 2.0 if quantile_of_normal(confidence) else 0.0
    if not len(score):
        nothing = np.empty(0)
        return RiskCoverage(nothing, nothing, nothing, Estimate(np.nan, np.nan, np.nan))
    order, ends, segment = _ordered(-score)
    wrong = weight * ~correct
    answered, failed = (np.cumsum(values[order])[ends] for values in (weight, wrong))
    threshold = score[order[ends]]
    del order, ends  # there may be very many rows
    with np.errstate(invalid="ignore"):
        risk = failed / answered  # 0 / 0 before the first weight
    del failed
    first = np.searchsorted(answered, 0.0, side="right")
    value = float(risk[first:] @ np.diff(answered, prepend=0.0)[first:] / answered[-1])
    bootstrap = Bootstrap(len(score), 2 * _SEGMENTS)
    bootstrap.add(slice(None), segment, wrong)
    bootstrap.add(slice(None), segment + _SEGMENTS, weight)
    coarse = _area(*np.split(bootstrap.sums, 2))
    samples = _area(*np.split(bootstrap.replicates(), 2, axis=1))
    low, high = value + np.quantile(samples - coarse, [tail, 1.0 - tail]) if len(score) > 1 else (0.0, 1.0)
    area = Estimate(value, max(0.0, float(low)), min(1.0, float(high)))
    return RiskCoverage(answered / answered[-1], risk, threshold, area)


def _area(wrong: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the mean risk over coverages from the weights of errors and of rows, in steps along the last axis."""
    total = np.cumsum(weight, axis=-1)
    risk = np.cumsum(wrong, axis=-1)
    risk /= np.where(total > 0.0, total, 1.0)
    risk *= weight
    return risk.sum(axis=-1) / total[..., -1]


def brier_rows(p: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the squared distance of each row's probabilities from the unit vector of its class."""
    rows = np.arange(len(p))
    true = p[rows, targets]
    # Summed without the true class: 1 - 2 p + sum p^2 would cancel where p is close to 1.
    squares = np.einsum("ij,ij->i", p, p) - true * true
    return np.square(1.0 - true) + np.maximum(squares, 0.0)
