"""entropy, kl_divergence and distillation_loss: identities and error bounds."""

import ml_dtypes
import mpmath
import numpy as np
import pytest

import softhead


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_entropy_identities(rng):
    x = rng.standard_normal((5, 8)) * 3
    p = softhead.softmax(x)
    entropy = softhead.entropy(x)
    np.testing.assert_allclose(entropy, -(p * np.log(p)).sum(axis=1), rtol=1e-13)
    np.testing.assert_allclose(softhead.entropy(x + 100), entropy, rtol=1e-12)
    np.testing.assert_allclose(softhead.cross_entropy(x, p, reduction="none"), entropy, rtol=1e-13)
    np.testing.assert_allclose(softhead.entropy(np.zeros(7)), np.log(7), rtol=1e-15)
    np.testing.assert_allclose(softhead.entropy(x, axis=0), softhead.entropy(x.T.copy()), rtol=0)
    np.testing.assert_allclose(softhead.entropy(x, axis=None), softhead.entropy(x.reshape(-1)), rtol=0)
    assert softhead.entropy([3.0]) == 0.0
    assert softhead.entropy([3.0, -np.inf]) == 0.0
    assert np.isnan(softhead.entropy([[np.nan, 1.0], [np.inf, 1.0], [-np.inf, -np.inf]])).all()
    assert softhead.entropy(np.zeros((2, 0))).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 4), (np.float64, 8), (np.float16, 1)])
def test_entropy_error_bound(rng, dtype, bound):
    rows = [rng.standard_normal(40) * scale for scale in (1e-3, 1.0, 10.0, 300.0)]
    for gap in (17.0, 40.0, 100.0, 700.0, 745.0):
        rows.append(np.concatenate([[gap], rng.uniform(-1, 0, 39)]))
    x = np.array(rows).astype(dtype)
    computed = softhead.entropy(x)
    assert computed.dtype == dtype
    with mpmath.workprec(1500):  # p of the largest logit may differ from 1 by exp(-745)
        for row, entropy in zip(x, computed, strict=True):
            e = [mpmath.exp(mpmath.mpf(float(z))) for z in row]
            total = mpmath.fsum(e)
            exact = -mpmath.fsum(v / total * mpmath.log(v / total) for v in e)
            slack = 40 * mpmath.mpf(2) ** -1074
            spacing = mpmath.mpf(float(np.spacing(dtype(exact))))
            assert abs(mpmath.mpf(float(entropy)) - exact) <= bound * spacing + slack


def test_kl_is_cross_entropy_less_entropy(rng):
    x, q = rng.standard_normal((5, 8)) * 3, rng.dirichlet(np.ones(8), 5)
    kl = softhead.kl_divergence(x, q, reduction="none")
    expected = softhead.cross_entropy(x, q, reduction="none") - softhead.entropy(np.log(q))
    np.testing.assert_allclose(kl, expected, rtol=1e-12)
    assert softhead.kl_divergence(x, q) == pytest.approx(kl.mean(), rel=1e-15)
    assert softhead.kl_divergence(x, q, reduction="sum") == pytest.approx(kl.sum(), rel=1e-15)
    np.testing.assert_allclose(
        softhead.kl_divergence(x, q, temperature=2.0), softhead.kl_divergence(x / 2, q), rtol=1e-14
    )
    columns = softhead.kl_divergence(x.T.copy(), q.T.copy(), axis=0, reduction="none")
    np.testing.assert_array_equal(columns, kl)


def test_kl_of_a_distribution_with_itself_is_zero_and_its_cross_entropy_is_its_entropy(rng):
    q = rng.dirichlet(np.full(9, 0.2), 500) + 1e-300
    kl = softhead.kl_divergence(np.log(q), q, reduction="none")
    assert (kl >= 0).all()
    np.testing.assert_allclose(kl, 0.0, atol=1e-15)
    for counts in ([1.0, 2.0, 3.0], [10.0, 20.0, 30.0]):
        p = np.array(counts) / np.sum(counts)
        assert softhead.kl_divergence(np.log(counts), p) == pytest.approx(0.0, abs=1e-16)
        assert softhead.cross_entropy(np.log([1.0, 2.0, 3.0]), p) == pytest.approx(
            softhead.entropy(np.log([10.0, 20.0, 30.0])), rel=1e-15
        )
    assert softhead.kl_divergence(np.zeros(4), np.full(4, 0.25)) == 0.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kl_error_bound(rng, dtype):
    """8 u sum q (|log q| + |log p|), also close to equality."""
    u = float(np.finfo(dtype).eps) / 2
    for scale in (0.0, 1e-8, 1e-3, 1.0, 50.0):
        q = rng.dirichlet(np.full(30, 0.3), 20).astype(dtype)
        x = (np.log(q + dtype(1e-30)) + scale * rng.standard_normal(q.shape)).astype(dtype)
        computed = softhead.kl_divergence(x, q, reduction="none")
        assert (computed >= 0).all()
        with mpmath.workprec(200):
            for row, target, kl in zip(x, q, computed, strict=True):
                lse = mpmath.log(mpmath.fsum(mpmath.exp(mpmath.mpf(float(z))) for z in row))
                terms = [
                    (mpmath.mpf(float(t)), mpmath.log(mpmath.mpf(float(t))), mpmath.mpf(float(z)) - lse)
                    for t, z in zip(target, row, strict=True)
                    if t > 0
                ]
                exact = mpmath.fsum(t * (log_q - log_p) for t, log_q, log_p in terms)
                bound = 8 * u * mpmath.fsum(t * (abs(log_q) + abs(log_p)) for t, log_q, log_p in terms)
                assert abs(mpmath.mpf(float(kl)) - exact) <= bound


def test_kl_at_zeros():
    assert softhead.kl_divergence([-np.inf, 0.0, 0.0], [0.0, 0.5, 0.5]) == 0.0
    assert softhead.kl_divergence([-np.inf, 0.0], [0.5, 0.5]) == np.inf
    assert softhead.kl_divergence([3.0, 0.0], [1.0, 0.0]) == pytest.approx(softhead.cross_entropy([3.0, 0.0], 0))
    assert np.isnan(softhead.kl_divergence([np.nan, 0.0], [0.5, 0.5]))
    assert np.isnan(softhead.kl_divergence(np.zeros((0, 3)), np.zeros((0, 3))))


def test_kl_of_targets_that_are_no_distribution_is_the_formula():
    q, x = np.array([0.1, 0.1]), np.zeros(2)
    assert softhead.kl_divergence(x, q) == pytest.approx(0.2 * (np.log(0.1) - np.log(0.5)), rel=1e-14)


def test_distillation_is_the_scaled_divergence(rng):
    student, teacher = rng.standard_normal((2, 6, 5)) * 3
    for temperature in (0.5, 1.0, 4.0):
        q = softhead.softmax(teacher, temperature=temperature)
        expected = temperature**2 * softhead.kl_divergence(student, q, temperature=temperature, reduction="none")
        loss = softhead.distillation_loss(student, teacher, temperature=temperature, reduction="none")
        np.testing.assert_allclose(loss, expected, rtol=1e-12)
        mean = softhead.distillation_loss(student.T.copy(), teacher.T.copy(), temperature=temperature, axis=0)
        assert mean == pytest.approx(expected.mean(), rel=1e-12)
    assert softhead.distillation_loss(student, student + 3, temperature=2.0) == pytest.approx(0.0, abs=1e-14)


def test_distillation_keeps_the_size_of_its_gradient(rng):
    """At high temperature the loss tends to half the mean squared difference of the centred logits, over C."""
    student, teacher = rng.standard_normal((2, 6, 5))
    difference = (student - student.mean(axis=1, keepdims=True)) - (teacher - teacher.mean(axis=1, keepdims=True))
    loss = softhead.distillation_loss(student, teacher, temperature=1e4, reduction="none")
    np.testing.assert_allclose(loss, (difference**2).sum(axis=1) / 10, rtol=1e-3)


def test_dtypes(rng):
    x = rng.standard_normal((3, 4))
    q = softhead.softmax(rng.standard_normal((3, 4)))
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float32):
        narrow = x.astype(dtype)
        wide = narrow.astype(float)
        assert softhead.entropy(narrow).dtype == dtype
        np.testing.assert_array_equal(softhead.entropy(narrow), softhead.entropy(wide).astype(dtype))
        assert softhead.kl_divergence(narrow, q) == softhead.kl_divergence(wide, q).astype(dtype)
        loss = softhead.distillation_loss(narrow, q, temperature=2.0)
        assert loss == softhead.distillation_loss(wide, q, temperature=2.0).astype(dtype)


def test_errors(rng):
    x = rng.standard_normal((3, 4))
    with pytest.raises(ValueError, match=r"targets has shape \(3,\); it must have the shape of logits, \(3, 4\)"):
        softhead.kl_divergence(x, [0, 1, 2])
    with pytest.raises(ValueError, match=r"targets\[0, 0\] is -1.0; probabilities must be finite and not negative"):
        softhead.kl_divergence(x, -np.ones((3, 4)))
    with pytest.raises(ValueError, match="teacher_logits has shape"):
        softhead.distillation_loss(x, x[:2], temperature=1.0)
    with pytest.raises(ValueError, match=r"temperature=-1\.0"):
        softhead.distillation_loss(x, x, temperature=-1.0)
    with pytest.raises(ValueError, match="reduction='batchmean'"):
        softhead.kl_divergence(x, np.ones((3, 4)), reduction="batchmean")
    with pytest.raises(TypeError, match="logits has dtype object"):
        softhead.entropy(x.astype(object))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_targets_that_sum_to_less_may_have_a_negative_divergence(dtype):
    targets = np.array([[0.99]], dtype)
    expected = float(targets[0, 0]) * np.log(float(targets[0, 0]))
    assert softhead.kl_divergence(np.zeros((1, 1)), targets) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("function", [softhead.kl_divergence, softhead.cross_entropy])
@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float32"])
def test_targets_that_are_nan_are_named(function, dtype):
    with pytest.raises(ValueError, match=r"^targets\[0, 1\] is nan; probabilities must be finite and not negative$"):
        function(np.zeros((1, 2)), np.array([[1.0, np.nan]], dtype))
