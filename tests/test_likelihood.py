"""nll_loss and binary_cross_entropy_with_logits: identities, limits and error bounds."""

import ml_dtypes
import mpmath
import numpy as np
import pytest

import softhead

LABELS = np.array([0, 3, -100, 1, 1, 2])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_is_the_loss_of_log_softmax(rng, reduction, smoothing, soft):
    logits = rng.standard_normal((6, 5)) * 3
    targets = rng.dirichlet(np.ones(5), 6) if soft else LABELS
    options = {"weight": np.array([0.5, 1.0, 0.2, 2.5, 1.5]), "label_smoothing": smoothing, "reduction": reduction}
    np.testing.assert_allclose(
        softhead.nll_loss(softhead.log_softmax(logits), targets, **options),
        softhead.cross_entropy(logits, targets, **options),
        rtol=1e-14,
    )


def test_log_probabilities_are_taken_as_they_are():
    assert softhead.nll_loss([1.0, 2.0, 4.0], 1) == -2.0
    assert softhead.nll_loss(np.log([0.1, 0.15, 0.05, 0.6, 0.1]), 3) == pytest.approx(-np.log(0.6), rel=1e-15)
    assert softhead.nll_loss([-np.inf, 0.0], [0.0, 1.0]) == 0.0
    assert softhead.nll_loss([-np.inf, 0.0], 0) == np.inf
    assert np.isnan(softhead.nll_loss([[np.nan, 0.0]], [-100]))
    assert softhead.nll_loss([[np.nan, 0.0]], [-100], reduction="sum") == 0.0


def test_nll_axis_and_dtypes(rng):
    log_probs = softhead.log_softmax(rng.standard_normal((2, 5, 3)), axis=1)
    labels = rng.integers(0, 5, (2, 3))
    moved = np.moveaxis(log_probs, 1, -1)
    expected = -np.take_along_axis(moved, labels[..., np.newaxis], axis=-1)[..., 0]
    np.testing.assert_array_equal(softhead.nll_loss(log_probs, labels, axis=1, reduction="none"), expected)
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float32):
        assert softhead.nll_loss(log_probs.astype(dtype), labels, axis=1).dtype == dtype


def test_nll_errors():
    with pytest.raises(ValueError, match="log_probs is a single number"):
        softhead.nll_loss(0.0, 0)
    with pytest.raises(TypeError, match="log_probs has dtype object"):
        softhead.nll_loss(np.array([None]), 0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_binary_is_cross_entropy_of_two_classes(rng, reduction):
    x, y = rng.standard_normal((4, 3)) * 5, rng.random((4, 3))
    expected = softhead.cross_entropy(
        np.stack([np.zeros_like(x), x], axis=-1), np.stack([1 - y, y], axis=-1), reduction=reduction
    )
    ours = softhead.binary_cross_entropy_with_logits(x, y, reduction=reduction)
    np.testing.assert_allclose(ours, expected, rtol=1e-13)


def test_pos_weight(rng):
    x, y, weight = rng.standard_normal((4, 3)), rng.random((4, 3)), np.array([0.0, 2.0, 5.0])
    positive = y * weight * np.log1p(np.exp(-x))
    negative = (1 - y) * np.log1p(np.exp(x))
    ours = softhead.binary_cross_entropy_with_logits(x, y, pos_weight=weight, reduction="none")
    np.testing.assert_allclose(ours, positive + negative, rtol=1e-14)


def test_ten_balls():
    """Six of ten balls are white: p^6 (1-p)^4 is largest at p = 0.6, where the binary loss has no slope."""
    p = np.linspace(0.01, 0.99, 99)
    likelihood = 0.6 * np.log(p) + 0.4 * np.log(1 - p)
    assert p[likelihood.argmax()] == pytest.approx(0.6)
    logits = np.log(p / (1 - p))
    losses = softhead.binary_cross_entropy_with_logits(logits, np.full(99, 0.6), reduction="none")
    np.testing.assert_allclose(losses, -likelihood, rtol=1e-14)
    best = np.log(0.6 / 0.4)
    _, gradient = softhead.cross_entropy_value_and_grad([0.0, best], [0.4, 0.6])
    np.testing.assert_allclose(gradient, 0.0, atol=1e-16)
    step = 1e-5
    ahead, behind = (softhead.binary_cross_entropy_with_logits(best + s, 0.6) for s in (step, -step))
    assert ahead - behind == pytest.approx(0.0, abs=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binary_error(rng, dtype):
    x = (rng.standard_normal(300) * 10.0 ** rng.integers(-3, 3, 300)).astype(dtype)
    for y in (0.0, 1.0, 0.3):
        losses = softhead.binary_cross_entropy_with_logits(x, np.full(300, y), reduction="none")
        with mpmath.workprec(2000):
            for logit, loss in zip(x, losses, strict=True):
                z, t = mpmath.mpf(float(logit)), mpmath.mpf(y)
                exact = t * mpmath.log1p(mpmath.exp(-z)) + (1 - t) * mpmath.log1p(mpmath.exp(z))
                tiny = mpmath.mpf(float(np.finfo(dtype).smallest_subnormal))
                assert abs(mpmath.mpf(float(loss)) - exact) <= 8 * np.finfo(dtype).eps * exact + tiny


def test_binary_limits():
    def loss(x, y):
        return softhead.binary_cross_entropy_with_logits(x, y)

    assert loss(np.inf, 1) == 0.0
    assert loss(-np.inf, 0) == 0.0
    assert loss(np.inf, 0) == np.inf
    assert loss(1e308, 0) == 1e308
    assert loss(1e308, 1) == 0.0
    assert np.isnan(loss(np.nan, 1))
    assert np.isnan(loss([], []))
    assert loss(0.0, True) == pytest.approx(np.log(2))
    assert loss(np.float16(1), 1).dtype == np.float16


def test_binary_errors():
    with pytest.raises(ValueError, match=r"targets\[1\] is 1.5; it must lie in \[0, 1\]"):
        softhead.binary_cross_entropy_with_logits([0.0, 0.0], [0.0, 1.5])
    with pytest.raises(ValueError, match="targets is nan; it must lie in"):
        softhead.binary_cross_entropy_with_logits(0.0, np.nan)
    with pytest.raises(ValueError, match=r"targets has shape \(1,\); it must have the shape of logits, \(2,\)"):
        softhead.binary_cross_entropy_with_logits([0.0, 0.0], [1])
    with pytest.raises(ValueError, match=r"pos_weight\[0\] is -1.0; it must be finite and not negative"):
        softhead.binary_cross_entropy_with_logits([0.0], [1], pos_weight=[-1.0])
    with pytest.raises(ValueError, match=r"pos_weight has shape \(3,\); it must broadcast to \(2,\)"):
        softhead.binary_cross_entropy_with_logits([0.0, 0.0], [1, 0], pos_weight=np.ones(3))
    with pytest.raises(ValueError, match="reduction='max'"):
        softhead.binary_cross_entropy_with_logits(0.0, 1, reduction="max")
