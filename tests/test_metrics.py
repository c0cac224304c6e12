"""Metrics of probabilities: against a few lines that do the same row by row, laws, and intervals that cover."""

from itertools import pairwise
from math import comb

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as sklearn_log_loss

import softhead
from softhead._intervals import proportion


def sample(n=700, n_classes=5, seed=0, temperature=0.5):
    """Overconfident probabilities, and classes drawn from the right ones."""
    rng = np.random.default_rng(seed)
    z = rng.normal(scale=1.5, size=(n, n_classes))
    y = (z + rng.gumbel(size=z.shape)).argmax(axis=1)
    return softhead.softmax(z / temperature), y


def by_hand(p, hits, weight, edges, norm):
    """The calibration error of one column, bin by bin and row by row."""
    parts = []
    for low, high in pairwise(edges):
        inside = [i for i in range(len(p)) if low < p[i] <= high]
        if inside:
            mass = sum(weight[i] for i in inside)
            gap = sum(weight[i] * (hits[i] - p[i]) for i in inside) / mass
            parts.append((mass / sum(weight), abs(gap)))
    if norm == "max":
        return max(gap for _, gap in parts)
    power = {"l1": 1, "l2": 2}[norm]
    return sum(mass * gap**power for mass, gap in parts)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
@pytest.mark.parametrize("weighted", [False, True])
def test_calibration_errors_are_those_of_a_loop(norm, strategy, weighted):
    p, y = sample(600, 4)
    weight = np.random.default_rng(1).integers(0, 4, len(y)) if weighted else np.ones(len(y))

    def edges(column):
        if strategy == "uniform":
            return np.linspace(0.0, 1.0, 11)
        repeated = np.sort(np.repeat(column, weight.astype(int)))
        return [-1.0, *(repeated[int(np.ceil(k * len(repeated) / 10)) - 1] for k in range(1, 10)), 2.0]

    options = {"n_bins": 10, "strategy": strategy, "norm": norm, "sample_weight": weight if weighted else None}
    top, correct = p.max(axis=1), p.argmax(axis=1) == y
    expected = by_hand(top, correct, weight, edges(top), norm)
    error = softhead.calibration_error(p, y, **options)
    assert error.value == pytest.approx(expected ** (0.5 if norm == "l2" else 1.0), abs=1e-12)
    assert 0.0 <= error.low <= error.value <= error.high <= 1.0

    columns = [by_hand(p[:, c], y == c, weight, edges(p[:, c]), norm) for c in range(4)]
    expected = max(columns) if norm == "max" else np.mean(columns) ** (0.5 if norm == "l2" else 1.0)
    error = softhead.calibration_error(p, y, of="every_class", **options)
    assert error.value == pytest.approx(expected, abs=1e-12)


def test_a_weight_is_a_number_of_rows():
    p, y = sample(200)
    weight = np.random.default_rng(3).integers(0, 3, len(y))
    repeated = np.repeat(np.arange(len(y)), weight)
    for metric in (
        softhead.calibration_error,
        softhead.ks_calibration_error,
        softhead.brier_score,
        lambda p, y, **k: softhead.log_loss(np.log(p), y, **k),
        lambda p, y, **k: softhead.risk_coverage(p, y, **k).area,
    ):
        assert metric(p, y, sample_weight=weight).value == pytest.approx(metric(p[repeated], y[repeated]).value)


def test_the_error_without_bins_is_the_largest_cumulative_difference():
    p, y = sample(300)
    top, correct = p.max(axis=1), p.argmax(axis=1) == y
    largest = max(abs(np.mean((top <= t) * (correct - top))) for t in top)
    error = softhead.ks_calibration_error(p, y)
    assert error.value == pytest.approx(largest, abs=1e-12)
    assert 0.0 <= error.low < error.value < error.high
    # One confidence for all rows: only the sum over all of them is a cumulative sum.
    p, y = np.tile([0.7, 0.3], (10, 1)), np.array([0, 1] * 5)
    assert softhead.ks_calibration_error(p, y).value == pytest.approx(0.2)


def test_means_are_scikit_learns():
    p, y = sample()
    weight = np.random.default_rng(2).random(len(y))
    expected = sklearn_log_loss(y, p, sample_weight=weight, labels=range(5))
    assert softhead.log_loss(np.log(p), y, sample_weight=weight).value == pytest.approx(expected)
    expected = brier_score_loss(y, p, sample_weight=weight, labels=range(5))
    assert softhead.brier_score(p, y, sample_weight=weight).value == pytest.approx(expected)
    p, y = sample(n_classes=2)
    expected = brier_score_loss(y, p[:, 1], scale_by_half=False)
    assert softhead.brier_score(p, y).value == pytest.approx(expected)


def test_a_confident_row_keeps_its_tiny_brier_score_and_a_hopeless_one_its_log_loss():
    p = np.array([[1.0 - 2e-13, 1e-13, 1e-13]])
    assert softhead.brier_score(p, [0]).value == pytest.approx(6e-26, rel=1e-2)
    assert softhead.log_loss(softhead.log_softmax([[0.0, -1e4]]), [1]).value == 1e4


def test_the_reliability_table_holds_the_calibration_error():
    p, y = sample()
    for strategy in ("uniform", "quantile"):
        table = softhead.reliability_table(p, y, strategy=strategy, n_bins=12)
        assert table.mass.sum() == pytest.approx(1.0)
        np.testing.assert_array_equal(table.lower[1:], table.upper[:-1])
        error = np.nansum(table.mass * np.abs(table.accuracy - table.confidence))
        assert softhead.calibration_error(p, y, strategy=strategy, n_bins=12).value == pytest.approx(error)
        filled = table.mass > 0
        assert (table.low <= table.accuracy)[filled].all()
        assert (table.accuracy <= table.high)[filled].all()
        assert (table.lower <= table.confidence)[filled].all()
        assert (table.confidence <= table.upper)[filled].all()
        assert np.isnan(table.accuracy[~filled]).all()
    np.testing.assert_allclose(table.mass, 1 / 12, atol=1 / len(y))


def test_risk_falls_to_that_of_the_rows_that_are_trusted_most():
    p, y = sample(400)
    top, wrong = p.max(axis=1), p.argmax(axis=1) != y
    curve = softhead.risk_coverage(p, y)
    for k in (0, 57, 399):
        answered = top >= curve.threshold[k]
        assert curve.coverage[k] == pytest.approx(answered.mean())
        assert curve.risk[k] == pytest.approx(wrong[answered].mean())
    order = np.argsort(-top)
    assert curve.area.value == pytest.approx(np.mean(np.cumsum(wrong[order]) / np.arange(1, 401)))
    assert curve.area.low < curve.area.value < curve.area.high
    # A score that says which rows are wrong leaves them to the end; one that says nothing is one step.
    share = wrong.mean()
    oracle = softhead.risk_coverage(p, y, score=~wrong)
    np.testing.assert_allclose(oracle.risk, [0.0, share])
    blind = softhead.risk_coverage(p, y, score=np.zeros(len(y)))
    assert (blind.coverage.tolist(), blind.risk.tolist()) == ([1.0], pytest.approx([share]))
    assert blind.area.value == pytest.approx(share)


def test_scores_of_scope_follow_their_formulas():
    z = np.array([[3.0, 1.0, -2.0], [0.5, 0.4, 0.3], [900.0, 0.0, 0.0]])
    energy = softhead.out_of_scope_score(z, method="energy", temperature=2.0)
    np.testing.assert_allclose(energy, -2.0 * softhead.logsumexp(z / 2.0))
    np.testing.assert_array_equal(softhead.out_of_scope_score(z, method="max_logit"), -z.max(axis=1))
    p = softhead.softmax(z[:2])
    np.testing.assert_allclose(softhead.out_of_scope_score(z[:2], method="max_probability"), 1.0 - p.max(axis=1))
    assert softhead.out_of_scope_score([[0.0, -60.0]], method="max_probability")[0] == pytest.approx(np.exp(-60.0))


def covers(metric, truth, n, runs=100, **options):
    hits = 0
    for seed in range(runs):
        estimate = metric(*sample(n, seed=seed, **options))
        hits += estimate.low <= truth <= estimate.high
    return hits / runs


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_intervals_cover_what_more_rows_would_show(temperature):
    def ks(p, y):
        return softhead.ks_calibration_error(p, y)

    def log_loss(p, y):
        return softhead.log_loss(np.log(p), y)

    for metric in (softhead.calibration_error, ks, softhead.brier_score, log_loss):
        truth = metric(*sample(200_000, seed=999, temperature=temperature)).value
        if temperature == 1.0 and metric in (softhead.calibration_error, ks):
            truth = 0.0  # the labels were drawn from these very probabilities
        assert covers(metric, truth, 1000, temperature=temperature) > 0.9


def test_wilsons_interval_covers_shares_near_one():
    n, shares = 50, np.linspace(0.8, 0.995, 100)
    intervals = [proportion(np.arange(n) < k, None, 0.95) for k in range(n + 1)]
    covered = sum(
        comb(n, k) * shares**k * (1.0 - shares) ** (n - k) * ((interval.low <= shares) & (shares <= interval.high))
        for k, interval in enumerate(intervals)
    )
    assert 0.93 < covered.mean() < 0.97
    assert covered.min() > 0.85
    assert proportion(np.ones(10, bool), None, 0.95).low == pytest.approx(0.7225, abs=1e-4)  # 10 of 10: n / (n + z^2)


def test_intervals_repeat_and_do_not_depend_on_the_order_of_classes():
    p, y = sample(5000)
    for of in ("top_label", "every_class"):
        once, again = (softhead.calibration_error(p, y, of=of) for _ in range(2))
        assert once == again
        turned = softhead.calibration_error(p[:, ::-1], 4 - y, of=of)
        assert turned == pytest.approx(once, abs=1e-12)


METRICS = [
    softhead.calibration_error,
    softhead.ks_calibration_error,
    softhead.brier_score,
    softhead.reliability_table,
    softhead.risk_coverage,
]


def same(one, other):
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("metric", METRICS)
def test_only_the_ratios_of_weights_count(metric):
    p, y = sample(40)
    weight = np.random.default_rng(2).integers(1, 5, len(y)).astype(float)
    expected = metric(p, y, sample_weight=weight)
    for factor in (2.0**1020, 2.0**-1072):
        assert same(metric(p, y, sample_weight=factor * weight), expected)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_without_weight_do_not_count(metric):
    p, y = sample(40)
    weight = np.random.default_rng(2).integers(0, 2, len(y))
    for counts in (weight, np.arange(len(y)) == 7):
        kept = counts > 0
        assert same(metric(p, y, sample_weight=counts), metric(p[kept], y[kept]))


def test_impossible_rows_and_scores_without_weight_do_not_count():
    log_p = np.array([[-np.inf, 0.0], [np.log(0.5), np.log(0.5)], [0.0, -np.inf]])
    assert softhead.log_loss(log_p, [0, 1, 0], sample_weight=[0, 1, 1]).value == pytest.approx(np.log(2) / 2)
    curve = softhead.risk_coverage(np.exp(log_p), [1, 1, 0], score=[9, 1, 2], sample_weight=[0, 1, 1])
    assert curve.threshold.tolist() == [2.0, 1.0]


def test_of_one_row_the_interval_is_the_whole_range():
    p = np.array([[0.9, 0.1]])
    for y in ([0], [1]):
        assert softhead.calibration_error(p, y)[1:] == (0.0, 1.0)
        assert softhead.calibration_error(p, y, of="every_class")[1:] == (0.0, 1.0)
        assert softhead.ks_calibration_error(p, y)[1:] == (0.0, 1.0)
        assert softhead.risk_coverage(p, y).area[1:] == (0.0, 1.0)
        assert softhead.brier_score(p, y)[1:] == (0.0, 2.0)
        assert softhead.log_loss(np.log(p), y)[1:] == (0.0, np.inf)


def test_intervals_stay_in_the_range_of_their_figure():
    p = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert softhead.brier_score(p, [0, 0])[1:] == (0.0, 2.0)
    assert softhead.log_loss(np.log([[0.999, 0.001]] * 5 + [[0.2, 0.8]]), [0] * 6).low == 0.0


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_small_temperature_lets_no_narrow_logit_overflow(dtype):
    z = np.array([[0.9, 0.9], [-0.5, 0.0]], dtype) * np.finfo(dtype).max
    energy = softhead.out_of_scope_score(z, temperature=0.01)
    assert energy.dtype == dtype
    assert energy.tolist() == (-z.max(axis=1)).tolist()


def test_no_rows_are_nan():
    p, y = np.empty((0, 3)), []
    estimates = [
        softhead.calibration_error(p, y),
        softhead.calibration_error(p, y, of="every_class", strategy="quantile"),
        softhead.ks_calibration_error(p, y),
        softhead.brier_score(p, y),
        softhead.log_loss(p, y),
        softhead.risk_coverage(p, y).area,
    ]
    assert np.isnan(estimates).all()


@pytest.mark.parametrize(
    ("call", "error", "part"),
    [
        (lambda p, y: softhead.brier_score(p * 2, y), ValueError, "probabilities"),
        (lambda p, y: softhead.brier_score(p / 2, y), ValueError, "sum"),
        (lambda p, y: softhead.brier_score(p[0], y), ValueError, "probabilities has shape"),
        (lambda p, y: softhead.brier_score(p, y[:-1]), ValueError, "targets has shape"),
        (lambda p, y: softhead.brier_score(p, y + 3), IndexError, r"targets\["),
        (lambda p, y: softhead.brier_score(p, y - 2), IndexError, r"targets\[\d+\] is -\d; classes lie in \[0, 5\)$"),
        (lambda p, y: softhead.brier_score(p, y / 2), TypeError, "targets"),
        (lambda p, y: softhead.brier_score(p, y, confidence=95.0), ValueError, "confidence"),
        (lambda p, y: softhead.brier_score(p, y, sample_weight=-np.ones(len(y))), ValueError, "sample_weight"),
        (lambda p, y: softhead.brier_score(p, y, sample_weight=0 * y), ValueError, "sample_weight"),
        (lambda p, y: softhead.calibration_error(p, y, norm="l3"), ValueError, "norm"),
        (lambda p, y: softhead.calibration_error(p, y, of="label"), ValueError, "of="),
        (lambda p, y: softhead.calibration_error(p, y, strategy="wide"), ValueError, "strategy"),
        (lambda p, y: softhead.calibration_error(p, y, n_bins=0), ValueError, "n_bins"),
        (lambda p, y: softhead.reliability_table(p, y, n_bins=2.5), ValueError, "n_bins"),
        (lambda p, y: softhead.log_loss(p + 1, y), ValueError, "log_probs"),
        (lambda p, y: softhead.risk_coverage(p, y, score=np.full(len(y), np.nan)), ValueError, "score"),
        (lambda p, y: softhead.out_of_scope_score(p, method="softmax"), ValueError, "method"),
        (lambda p, y: softhead.out_of_scope_score(p[0]), ValueError, "logits"),
        (lambda p, y: softhead.out_of_scope_score(p, temperature=0.0), ValueError, "temperature"),
    ],
)
def test_what_is_wrong_is_named(call, error, part):
    with pytest.raises(error, match=part):
        call(*sample(50))
