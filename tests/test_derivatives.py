"""The derivatives of softmax and log-softmax: against each other, finite differences and their error bounds."""

import ml_dtypes
import mpmath
import numpy as np
import pytest

import softhead


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def p(rng):
    return softhead.softmax(rng.standard_normal((4, 6)) * 2)


def test_jacobian_laws(p):
    """Entries p_i (1 - p_i) and -p_i p_j; symmetric; rows sum to 0."""
    jacobian = softhead.softmax_jacobian(p)
    assert jacobian.shape == (4, 6, 6)
    for row, matrix in zip(p, jacobian, strict=True):
        np.testing.assert_allclose(matrix, np.diag(row) - np.outer(row, row), rtol=1e-14, atol=1e-17)
        np.testing.assert_array_equal(matrix.diagonal(), row * (1 - row))
        np.testing.assert_array_equal(matrix, matrix.T)
        np.testing.assert_allclose(matrix.sum(axis=1), 0.0, atol=1e-16)


def test_jacobian_is_the_derivative(rng):
    x, step = rng.standard_normal(5), 1e-5
    jacobian = softhead.softmax_jacobian(softhead.softmax(x, temperature=0.7), temperature=0.7)
    for j in range(5):
        change = step * np.eye(5)[j]
        ahead, behind = softhead.softmax(x + change, temperature=0.7), softhead.softmax(x - change, temperature=0.7)
        np.testing.assert_allclose((ahead - behind) / (2 * step), jacobian[:, j], atol=1e-9)


def test_jacobian_axis_and_dtype(p):
    by_columns = softhead.softmax_jacobian(np.ascontiguousarray(p.T), axis=0)
    np.testing.assert_array_equal(by_columns, softhead.softmax_jacobian(p))
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        narrow = p.astype(dtype)
        jacobian = softhead.softmax_jacobian(narrow)
        assert jacobian.dtype == dtype
        np.testing.assert_array_equal(jacobian, softhead.softmax_jacobian(narrow.astype(float)).astype(dtype))


@pytest.mark.parametrize("temperature", [1.0, 0.3, 8.0])
def test_products_are_products_with_the_jacobian(p, rng, temperature):
    vectors = rng.standard_normal(p.shape)
    expected = np.einsum("nij,nj->ni", softhead.softmax_jacobian(p, temperature=temperature), vectors)
    for function in (softhead.softmax_vjp, softhead.softmax_jvp):
        np.testing.assert_allclose(function(p, vectors, temperature=temperature), expected, atol=1e-15 / temperature)


def test_product_with_the_derivative_of_cross_entropy(p, rng):
    """The product of diag(p) - p p^T with -q / p is p sum(q) - q: a - y for one-hot y."""
    for q in (rng.random(p.shape), np.eye(6)[[0, 5, 2, 2]]):
        expected = p * q.sum(axis=1, keepdims=True) - q
        np.testing.assert_allclose(softhead.softmax_vjp(p, -q / p), expected, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(softhead.log_softmax_vjp(p, -q), expected, rtol=1e-12, atol=1e-15)


def test_log_softmax_vjp_is_the_derivative(rng):
    x, cotangent, step = rng.standard_normal(5), rng.standard_normal(5), 1e-5
    p = softhead.softmax(x, temperature=0.7)
    vjp = softhead.log_softmax_vjp(p, cotangent, temperature=0.7)
    for j in range(5):
        change = step * np.eye(5)[j]
        ahead = softhead.log_softmax(x + change, temperature=0.7) @ cotangent
        behind = softhead.log_softmax(x - change, temperature=0.7) @ cotangent
        assert (ahead - behind) / (2 * step) == pytest.approx(vjp[j], abs=1e-9)


@pytest.mark.parametrize("axis", [0, -1, (0, 1), None])
def test_axes(p, rng, axis):
    vectors = rng.standard_normal(p.shape)
    p = softhead.softmax(rng.standard_normal(p.shape), axis=axis)
    sums = (p * vectors).sum(axis=axis, keepdims=True), vectors.sum(axis=axis, keepdims=True)
    np.testing.assert_allclose(softhead.softmax_vjp(p, vectors, axis=axis), p * (vectors - sums[0]), atol=1e-15)
    np.testing.assert_allclose(softhead.log_softmax_vjp(p, vectors, axis=axis), vectors - p * sums[1], atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("temperature", [1.0, 1e-3, 1e300, 1e-200])
def test_error_bounds(rng, dtype, temperature):
    """8 u p_j (|c_j| + sum p |c|) / T, and 8 u (|c_j| + p_j sum |c|) / T."""
    n = 300
    p = softhead.softmax(rng.standard_normal(n) * 30).astype(dtype)
    c = (rng.standard_normal(n) * 10.0 ** rng.integers(-20, 20, n)).astype(dtype)
    results = [
        function(p, c, temperature=temperature).astype(float)
        for function in (softhead.softmax_vjp, softhead.softmax_jvp, softhead.log_softmax_vjp)
    ]
    largest, tiny = np.finfo(dtype).max, float(np.finfo(dtype).smallest_subnormal)
    with mpmath.workprec(200):
        u = mpmath.mpf(float(np.finfo(dtype).eps)) / 2
        exact_p, exact_c = ([mpmath.mpf(float(v)) for v in values] for values in (p, c))
        t = mpmath.mpf(temperature)
        mean = mpmath.fsum(a * b for a, b in zip(exact_p, exact_c, strict=True))
        size = mpmath.fsum(a * abs(b) for a, b in zip(exact_p, exact_c, strict=True))
        total, total_size = mpmath.fsum(exact_c), mpmath.fsum(abs(b) for b in exact_c)
        for j in range(n):
            product = exact_p[j] * (exact_c[j] - mean) / t
            pulled = (exact_c[j] - exact_p[j] * total) / t
            bounds = (
                8 * u * exact_p[j] * (abs(exact_c[j]) + size) / t + tiny,
                8 * u * (abs(exact_c[j]) + exact_p[j] * total_size) / t + tiny,
            )
            for computed, exact, bound in zip(
                (result[j] for result in results), (product, product, pulled), (bounds[0], *bounds), strict=True
            ):
                if abs(exact) < largest:
                    assert abs(mpmath.mpf(computed) - exact) <= bound
                else:
                    assert abs(computed) == np.inf


def test_huge_cotangents_do_not_overflow_on_the_way():
    largest = np.finfo(np.float64).max
    np.testing.assert_array_equal(softhead.softmax_vjp([0.5, 0.5], [largest, -largest]), [largest / 2, -largest / 2])
    pulled = softhead.log_softmax_vjp([0.5, 0.5], [largest / 2, largest])
    np.testing.assert_allclose(pulled, [-largest / 4, largest / 4], rtol=1e-15)


def test_dtypes_are_promoted(p):
    assert softhead.softmax_vjp(p.astype(np.float32), p).dtype == np.float64
    assert softhead.softmax_vjp(p.astype(np.float16), p.astype(np.float16)).dtype == np.float16
    assert softhead.softmax_jvp([1, 0], [1, 0]).dtype == np.float64
    assert softhead.softmax_vjp(1.0, 5.0) == 0.0


def test_errors(p):
    with pytest.raises(ValueError, match=r"cotangent has shape \(6,\); it must have the shape of p, \(4, 6\)"):
        softhead.softmax_vjp(p, p[0])
    with pytest.raises(ValueError, match="tangent has shape"):
        softhead.softmax_jvp(p, p[:1])
    with pytest.raises(TypeError, match="cotangent has dtype complex128"):
        softhead.log_softmax_vjp(p, p.astype(complex))
    with pytest.raises(ValueError, match=r"temperature=0\.0"):
        softhead.softmax_jacobian(p, temperature=0.0)
    with pytest.raises(ValueError, match="p is a single number; it needs an axis of classes"):
        softhead.softmax_jacobian(1.0)
