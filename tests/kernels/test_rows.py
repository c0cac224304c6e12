"""The row kernels: the error bounds of every dtype on adversarial rows, against mpmath, and their independence."""

import tracemalloc

import ml_dtypes
import mpmath
import numpy as np
import pytest

from softhead.kernels import reference, row_losses, rows
from softhead.kernels.primitives import rounded

# dtype: digits of the significand after the leading one, smallest exponent of a normal number
FORMATS = {"float64": (52, -1022), "float32": (23, -126), "float16": (10, -14), "bfloat16": (7, -126)}
# In units in the last place: softmax; log_softmax, losses and gradients for integer targets.
BOUNDS = {"float64": (2, 8), "float32": (2, 4), "float16": (1, 1), "bfloat16": (1, 1)}
TEMPERATURES = [1.0, 0.7, 1e-3, 37.3, 1e-300, 1.3e308]


@pytest.fixture(autouse=True)
def _precision():
    with mpmath.workprec(200):
        yield


def dtype_of(name):
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def largest(dtype):
    return float(ml_dtypes.finfo(dtype).max)


def adversarial(n_classes, limit):
    """Rows at the places where floating-point softmax goes wrong, as float64 below a limit."""
    rng = np.random.default_rng(n_classes)
    for scale in (1e-3, 1.0, 10.0, 1e4):
        yield rng.standard_normal(n_classes) * scale
    for offset in (1e8, -1e8, 1e16, 1e300):
        yield rng.standard_normal(n_classes) * max(5.0, abs(offset) / 1e12) + offset
    for gap in (17.0, 40.0, 100.0, 700.0, 740.0, 745.0, 1e3, 1e4, limit):
        row = rng.uniform(-1.0, 0.0, n_classes)
        row[0] = gap
        yield row
    yield np.full(n_classes, 0.3)
    row = np.zeros(n_classes)
    row[1:3] = 5.1
    yield row
    row = rng.standard_normal(n_classes)
    row[:2] = limit, -limit
    yield row


def ulps(computed, exact, name):
    """Return |computed - exact| in units in the last place of the format, 0 for an infinity that is right."""
    digits, smallest = FORMATS[name]
    size = abs(exact)
    if size > largest(dtype_of(name)):
        assert abs(float(computed)) in (np.inf, largest(dtype_of(name)))
        return 0.0
    exponent = max(int(mpmath.floor(mpmath.log(size, 2))), smallest) if size else smallest
    return float(abs(mpmath.mpf(float(computed)) - exact) / mpmath.mpf(2) ** (exponent - digits))


class Exact:
    """A row's softmax in 200 bits, once for every distinct logit."""

    def __init__(self, row, temperature):
        logits, self.first, counts = np.unique(row.astype(np.float64), return_index=True, return_counts=True)
        self.t = mpmath.mpf(temperature)
        self.maximum = mpmath.mpf(logits[-1])
        self.d = [(mpmath.mpf(z) - self.maximum) / self.t for z in logits]
        e = [mpmath.exp(d) for d in self.d]
        self.rest = mpmath.fsum(v * int(c) for v, c in zip(e[:-1], counts[:-1], strict=True)) + int(counts[-1] - 1)
        self.p = [v / (1 + self.rest) for v in e]
        self.log_sum = mpmath.log1p(self.rest)
        self.lse = self.maximum / self.t + self.log_sum
        # Where a sum of C exponentials is below the normal numbers, C of the smallest subnormal are allowed for.
        self.slack = len(row) * mpmath.mpf(2) ** -1074 if self.rest < mpmath.mpf(2) ** -1022 else mpmath.mpf(0)

    def gradient(self, i, true):
        """Return the derivative of the loss of one distinct logit with respect to another."""
        if i != true:
            return self.p[i] / self.t
        return -(self.rest / (1 + self.rest) if i == len(self.d) - 1 else 1 - self.p[i]) / self.t


def value_and_gradient(x, labels, temperature=1.0, *, weight=None, smoothing=0.0, z_loss=0.0, denominator=1.0):
    weight = np.ones(x.shape[1]) if weight is None else weight
    losses, gradient = np.zeros(len(x)), np.empty_like(x)
    row_losses.cross_entropy_gradient(x, labels, weight, smoothing, temperature, z_loss, denominator, losses, gradient)
    value_only = np.zeros(len(x))
    row_losses.cross_entropy(x, labels, weight, smoothing, temperature, z_loss, value_only)
    np.testing.assert_array_equal(losses, value_only)
    return losses, gradient


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("n_classes", [2, 3, 10, 150])
@pytest.mark.parametrize("name", FORMATS)
def test_error_bounds(name, n_classes, temperature):
    dtype = dtype_of(name)
    limit = largest(dtype)
    x = np.array([np.clip(row, -limit, limit) for row in adversarial(n_classes, limit)]).astype(dtype)
    p, log_p = np.empty_like(x), np.empty_like(x)
    rows.softmax(x, temperature, p)
    rows.log_softmax(x, temperature, log_p)
    softmax_bound, bound = BOUNDS[name]
    exact = [Exact(row, temperature) for row in x]
    for i, true in enumerate(exact):
        for j, first in enumerate(true.first):
            assert ulps(p[i, first], true.p[j], name) <= softmax_bound
            allowed = true.slack if name == "float64" else 0
            assert max(0, ulps(log_p[i, first], true.d[j] - true.log_sum, name)) <= bound or (
                abs(mpmath.mpf(float(log_p[i, first])) - (true.d[j] - true.log_sum)) <= allowed
            )
    for pick in (0, -1):  # the least and the most likely class
        labels = np.array([true.first[pick] for true in exact])
        losses, gradient = value_and_gradient(x, labels, temperature)
        losses = rounded(losses, dtype)
        for i, true in enumerate(exact):
            position = pick % len(true.first)
            loss = true.log_sum - true.d[position]
            assert ulps(losses[i], loss, name) <= bound or abs(mpmath.mpf(float(losses[i])) - loss) <= true.slack
            for j, first in enumerate(true.first):
                derivative = true.gradient(j, position)
                assert ulps(gradient[i, first], derivative, name) <= bound or (
                    abs(mpmath.mpf(float(gradient[i, first])) - derivative) <= true.slack / true.t
                )


@pytest.mark.parametrize("n_classes", [1, 2, 3, 10, 150])
@pytest.mark.parametrize("name", FORMATS)
def test_logsumexp_error_bound(name, n_classes):
    dtype = dtype_of(name)
    limit = largest(dtype)
    x = np.array([np.clip(row, -limit, limit) for row in adversarial(max(n_classes, 3), limit)])
    x = x[:, :n_classes].astype(dtype)
    lse = np.empty((len(x), 1), dtype)
    rows.logsumexp(x, lse)
    factor, u = {"float64": (8, -53), "float32": (4, -24), "float16": (0, 0), "bfloat16": (0, 0)}[name]
    for row, computed in zip(x, lse[:, 0], strict=True):
        true = Exact(row, 1.0)
        if factor:
            allowed = factor * mpmath.mpf(2) ** u * (abs(true.maximum) + true.log_sum)
            assert abs(mpmath.mpf(float(computed)) - true.lse) <= allowed
        else:
            assert ulps(computed, true.lse, name) <= 1


@pytest.mark.parametrize("n_classes", [4096, 9001, 2**17])
@pytest.mark.parametrize("name", FORMATS)
def test_error_bounds_of_long_rows(name, n_classes):
    dtype = dtype_of(name)
    rng = np.random.default_rng(n_classes)
    distinct = np.concatenate([rng.standard_normal(150) * 3, rng.standard_normal(50) * 200 - 300])
    long = distinct[rng.integers(0, 200, n_classes)]
    confident = long.clip(-30, 0)
    confident[7] = 45.0
    x = np.stack([long, confident, np.zeros(n_classes)]).astype(dtype)
    p, log_p = np.empty_like(x), np.empty_like(x)
    rows.softmax(x, 1.0, p)
    rows.log_softmax(x, 1.0, log_p)
    exact = [Exact(row, 1.0) for row in x]
    losses, gradient = value_and_gradient(x, np.array([true.first[-1] for true in exact]))
    losses = rounded(losses, dtype)
    softmax_bound, bound = BOUNDS[name]
    for i, true in enumerate(exact):
        assert ulps(losses[i], true.log_sum, name) <= bound
        for j, first in enumerate(true.first):
            assert ulps(p[i, first], true.p[j], name) <= softmax_bound
            assert ulps(log_p[i, first], true.d[j] - true.log_sum, name) <= bound
            assert ulps(gradient[i, first], true.gradient(j, len(true.first) - 1), name) <= bound


def test_float16_with_more_classes_than_its_largest_number():
    x = np.zeros((1, 100_000), np.float16)
    p, lse = np.empty_like(x), np.empty((1, 1), np.float16)
    rows.softmax(x, 1.0, p)
    rows.logsumexp(x, lse)
    assert (p == np.float16(1e-5)).all()
    assert lse == np.float16(np.log(100_000.0))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("soft", [False, True])
def test_gradient_with_every_option_keeps_the_bound_of_its_terms(name, soft):
    """w p_j, w q_j and 2 z |lse| p_j, also where lse is nearly 0: logits that are log-probabilities."""
    dtype = dtype_of(name)
    rng = np.random.default_rng(3)
    n, c = 12, 9
    x = rng.standard_normal((n, c)) * 10.0 ** rng.integers(-1, 3, (n, 1))
    x[::3] -= np.log(np.exp(x[::3]).sum(axis=1, keepdims=True))
    x = x.astype(dtype)
    labels = rng.integers(0, c, n)
    labels[:6] = x[:6].astype(np.float64).argmax(axis=1)
    q = rng.dirichlet(np.full(c, 0.3), n) if soft else np.eye(c)[labels]
    weight = rng.uniform(0, 3, c)
    temperature, smoothing, z_loss, denominator = 0.7, 0.1, 0.5, 3.7
    losses, gradient = value_and_gradient(
        x,
        q if soft else labels,
        temperature,
        weight=weight,
        smoothing=smoothing,
        z_loss=z_loss,
        denominator=denominator,
    )
    factor = {"float64": 8, "float32": 4}.get(name, 0)
    s, z = mpmath.mpf(smoothing), mpmath.mpf(z_loss)
    for i in range(n):
        true = Exact(x[i], temperature)
        where = np.unique(x[i].astype(np.float64), return_inverse=True)[1]
        p = [true.p[k] for k in where]
        wanted = [mpmath.mpf(weight[j]) * ((1 - s) * mpmath.mpf(q[i, j]) + s / c) for j in range(c)]
        mass = mpmath.fsum(wanted)
        value = mpmath.fsum(wanted[j] * (true.log_sum - true.d[where[j]]) for j in range(c)) + z * true.lse**2
        assert abs(mpmath.mpf(losses[i]) / value - 1) <= 8 * mpmath.mpf(2) ** -53
        for j in range(c):
            terms = mass * p[j], wanted[j], 2 * z * true.lse * p[j]
            divisor = mpmath.mpf(temperature) * mpmath.mpf(denominator)
            exact = (terms[0] - terms[1] + terms[2]) / divisor
            if factor:
                unit = mpmath.mpf(2) ** (-53 if name == "float64" else -24)
                allowed = factor * unit * mpmath.fsum(abs(term) for term in terms) / divisor
                assert abs(mpmath.mpf(float(gradient[i, j])) - exact) <= allowed
            else:
                assert ulps(gradient[i, j], exact, name) <= 1


def test_probabilities_below_the_normal_numbers_keep_their_digits_in_gradients():
    """p is subnormal, but the weight lifts the derivative back among the normal numbers."""
    x = np.array([[0.0, -741.3]])
    _, gradient = value_and_gradient(x, np.array([0]), 0.999, weight=np.array([1e40, 1.0]))
    true = Exact(x[0], 0.999)
    assert ulps(gradient[0, 1], mpmath.mpf(1e40) * true.gradient(0, 1), "float64") <= 8


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_classes", [1, 2, 10, 1000, 5000, 9000])
def test_a_row_does_not_depend_on_the_batch_around_it(n_classes, dtype):
    rng = np.random.default_rng(5)
    n = 2 * (2**16 // n_classes) + 3 if n_classes < 5000 else 20
    n = min(n, 3000) if n_classes < 5 else n
    x = (rng.standard_normal((n, n_classes)) * 10).astype(dtype)
    labels = rng.integers(0, n_classes, n)
    q = rng.dirichlet(np.ones(n_classes), n)

    def everything(x, labels, q):
        p, log_p, lse = np.empty_like(x), np.empty_like(x), np.empty((len(x), 1), x.dtype)
        rows.softmax(x, 0.9, p)
        rows.log_softmax(x, 0.9, log_p)
        rows.logsumexp(x, lse)
        hard = value_and_gradient(x, labels, 0.9, smoothing=0.1, z_loss=0.1)
        soft = value_and_gradient(x, q, 0.9, smoothing=0.1, z_loss=0.1)
        return [p, log_p, lse, *hard, *soft]

    together = everything(x, labels, q)
    for i in {0, 1, n // 2, n - 1}:
        for whole, alone in zip(together, everything(x[i : i + 1], labels[i : i + 1], q[i : i + 1]), strict=True):
            np.testing.assert_array_equal(whole[i], alone[0])
    for strided in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x[::-1][::-1]):
        for whole, again in zip(together, everything(strided, labels, np.asfortranarray(q)), strict=True):
            np.testing.assert_array_equal(whole, again)


def test_out_may_be_the_input():
    x = np.random.default_rng(6).standard_normal((2000, 70))
    labels = np.arange(2000) % 70
    p = np.empty_like(x)
    rows.softmax(x, 1.0, p)
    losses, gradient = value_and_gradient(x, labels)
    in_place = x.copy()
    rows.softmax(in_place, 1.0, in_place)
    np.testing.assert_array_equal(in_place, p)
    in_place, again = x.copy(), np.zeros(2000)
    row_losses.cross_entropy_gradient(in_place, labels, np.ones(70), 0.0, 1.0, 0.0, 1.0, again, in_place)
    np.testing.assert_array_equal(in_place, gradient)
    np.testing.assert_array_equal(again, losses)


@pytest.mark.parametrize("shape", [(400_000, 10), (4000, 1000), (100, 40_000)])
def test_temporary_memory_is_bounded(shape):
    x = np.ones(shape)
    tracemalloc.start()
    try:
        rows.softmax(x, 1.0, x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10e6
    assert (x == 1 / shape[1]).all()


def test_float32_softmax_shifts_exactly():
    x = np.random.default_rng(7).integers(-10, 10, (50, 30)).astype(np.float32) * 8
    p, shifted = np.empty_like(x), np.empty_like(x)
    rows.softmax(x, 1.0, p)
    rows.softmax(x + np.float32(1e8), 1.0, shifted)
    np.testing.assert_array_equal(p, shifted)


def test_kernels_agree_with_the_definitions():
    rng = np.random.default_rng(8)
    x = rng.standard_normal((40, 12)) * 4
    q = rng.dirichlet(np.ones(12), 40)
    p, log_p, lse = np.empty_like(x), np.empty_like(x), np.empty((40, 1))
    rows.softmax(x, 0.5, p)
    rows.log_softmax(x, 0.5, log_p)
    rows.logsumexp(x, lse)
    np.testing.assert_allclose(p, reference.softmax(x, 0.5).astype(float), rtol=1e-13)
    np.testing.assert_allclose(log_p, reference.log_softmax(x, 0.5).astype(float), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(lse, reference.logsumexp(x).astype(float), rtol=1e-13)
    weight = rng.uniform(0, 2, 12)
    losses, gradient = value_and_gradient(x, q, 0.5, weight=weight, smoothing=0.2, z_loss=0.3)
    smoothed = reference.smooth(q, 0.2)
    np.testing.assert_allclose(losses, reference.cross_entropy(x, smoothed, 0.5, 0.3, weight).astype(float), rtol=1e-13)
    expected = reference.cross_entropy_gradient(x, smoothed, 0.5, 0.3, weight).astype(float)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-14)


def test_the_definitions_gradient_is_their_derivative():
    rng = np.random.default_rng(9)
    x, q, weight = rng.standard_normal((5, 6)), rng.dirichlet(np.ones(6), 5), rng.uniform(0, 2, 6)
    gradient = reference.cross_entropy_gradient(x, q, 0.8, 0.3, weight)
    step = 1e-5
    for j in range(6):
        ahead, behind = x.astype(np.longdouble), x.astype(np.longdouble)
        ahead[:, j] += step
        behind[:, j] -= step
        difference = reference.cross_entropy(ahead, q, 0.8, 0.3, weight) - reference.cross_entropy(
            behind, q, 0.8, 0.3, weight
        )
        np.testing.assert_allclose((difference / (2 * step)).astype(float), gradient[:, j].astype(float), atol=1e-9)
