"""The loops for every option and floating type, against the definitions at extended precision."""

import ml_dtypes
import numpy as np
import pytest

import softhead
from softhead.kernels import reference, row_losses, rows

DTYPES = [np.dtype(name) for name in ("float16", ml_dtypes.bfloat16, "float32", "float64")]
LENGTHS = [1, 2, 31, 32, 33, 1000, 5000]
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
BOUND = {"float16": 1, "bfloat16": 1, "float32": 4, "float64": 8}  # in u of the terms
# Results in float64 of inputs of at most 32 bits: all that can be seen of plain arithmetic in float64.
INNER = {"float16": 2.0**-40, "bfloat16": 2.0**-40, "float32": 2.0**-40, "float64": 2.0**-53}
OPTIONS = {
    "temperature": {"temperature": 0.7},
    "smoothing": {"label_smoothing": 0.1},
    "z_loss": {"z_loss": 0.3},
    "all": {"temperature": 1.9, "label_smoothing": 0.3, "z_loss": 0.01},
    "none": {},
}

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_length = pytest.mark.parametrize("n_classes", LENGTHS)


def problem(n, n_classes, dtype, seed=0):
    """Return logits, of which some rows are confident, labels, some of them on top, and distributions."""
    rng = np.random.default_rng(seed + n_classes)
    x = rng.standard_normal((n, n_classes)) * rng.choice([0.1, 3.0, 10.0], (n, 1))
    x[::3, n_classes // 2] += 25.0
    x = x.astype(dtype)
    labels = rng.integers(0, n_classes, n)
    labels[::2] = x[::2].astype(float).argmax(axis=1)
    q = rng.dirichlet(np.full(n_classes, 0.5), n)
    return x, labels, q


def exact_parts(x, temperature=1.0):
    """Return log p, d = (x - m) / T and log(sum of exp(d)): unlike the textbook's, also of confident rows exact."""
    wide = x.astype(np.longdouble)
    top = wide.argmax(axis=1)[:, np.newaxis]
    d = (wide - np.take_along_axis(wide, top, axis=1)) / np.longdouble(temperature)
    e = np.exp(d)
    np.put_along_axis(e, top, 0, axis=1)
    log_sum = np.log1p(e.sum(axis=1, keepdims=True))
    return d - log_sum, d, log_sum


def spacing(exact, dtype):
    """Return the unit in the last place of the exact result rounded to a dtype, in float64."""
    size = np.maximum(np.abs(np.asarray(exact, np.float64)), float(ml_dtypes.finfo(dtype).smallest_normal))
    digits = int(ml_dtypes.finfo(dtype).nmant)
    return np.ldexp(1.0, np.frexp(size)[1] - 1 - digits)


def check(computed, exact, bound, dtype, slack=0.1):
    error = np.abs(computed.astype(np.longdouble) - exact)
    assert (error <= (bound + slack) * spacing(exact, dtype)).all()


@each_dtype
@each_length
@pytest.mark.parametrize("temperature", [0.3, 17.0])
def test_maps(n_classes, dtype, temperature):
    x, _, _ = problem(7, n_classes, dtype)
    p, log_p, lse = np.empty_like(x), np.empty_like(x), np.empty((7, 1), dtype)
    rows.softmax(x, temperature, p)
    rows.log_softmax(x, temperature, log_p)
    rows.logsumexp(x, lse)
    check(p, reference.softmax(x, temperature), min(BOUND[dtype.name], 2), dtype, 0.25)
    check(log_p, exact_parts(x, temperature)[0], BOUND[dtype.name], dtype, 0.25)
    size = np.abs(x.astype(np.longdouble)).max(axis=1, keepdims=True) + np.log(n_classes)
    error = np.abs(lse.astype(np.longdouble) - reference.logsumexp(x))
    assert (error <= (BOUND[dtype.name] + 0.25) * UNIT[dtype.name] * size).all()


@each_dtype
@each_length
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
def test_losses(n_classes, dtype, options, soft):
    x, labels, q = problem(7, n_classes, dtype)
    weight = np.random.default_rng(1).uniform(0.0, 3.0, n_classes)
    weight[0] = 1.0
    smoothing, temperature = options.get("label_smoothing", 0.0), options.get("temperature", 1.0)
    z_loss = options.get("z_loss", 0.0)
    targets = q if soft else labels
    losses, gradient, alone = np.empty(7), np.empty_like(x), np.empty(7)
    row_losses.cross_entropy_gradient(x, targets, weight, smoothing, temperature, z_loss, 3.7, losses, gradient)
    row_losses.cross_entropy(x, targets, weight, smoothing, temperature, z_loss, alone)
    np.testing.assert_array_equal(losses, alone)
    wanted = reference.smooth(q if soft else reference.target_distribution(labels, n_classes), smoothing)
    log_p, _, _ = exact_parts(x, temperature)
    lse = reference.logsumexp(x.astype(np.longdouble) / np.longdouble(temperature))
    exact = -(weight * wanted * log_p).sum(axis=1) + z_loss * lse[:, 0] ** 2
    if options or soft or dtype.name != "float32":  # others are computed in float32
        np.testing.assert_allclose(losses, exact.astype(float), rtol=12 * INNER[dtype.name], atol=1e-300)
    exact = reference.cross_entropy_gradient(x, wanted, temperature, z_loss, weight) / np.longdouble(3.7)
    p = np.exp(log_p)
    terms = p * (weight * wanted).sum(axis=1, keepdims=True) + weight * wanted + 2 * z_loss * np.abs(lse) * p
    allowed = BOUND[dtype.name] * UNIT[dtype.name] * terms / (temperature * 3.7)
    allowed += float(ml_dtypes.finfo(dtype).smallest_subnormal)
    if dtype.itemsize == 2:
        allowed = spacing(exact, dtype) + 2.0**-50 * terms
    assert (np.abs(gradient.astype(np.longdouble) - exact) <= allowed).all()


@each_dtype
@each_length
@pytest.mark.parametrize("temperature", [1.0, 0.3, 1e-290])
def test_products(n_classes, dtype, temperature):
    x, _, _ = problem(7, n_classes, dtype)
    p = softhead.softmax(x)
    v = (np.random.default_rng(2).standard_normal(x.shape) * 1e-3).astype(dtype)
    wide_p, wide_v = p.astype(np.longdouble), v.astype(np.longdouble)
    mean, total = ((wide_p * part).sum(axis=1, keepdims=True) for part in (wide_v, 1.0))
    total = wide_v.sum(axis=1, keepdims=True)
    size, sizes = (wide_p * np.abs(wide_v)).sum(axis=1, keepdims=True), np.abs(wide_v).sum(axis=1, keepdims=True)
    out = np.empty(x.shape)  # float64 from any inputs
    rows.softmax_product(p, v, temperature, out)
    allowed = 8 * UNIT["float64"] * wide_p * (np.abs(wide_v) + size) / temperature
    assert (np.abs(out - wide_p * (wide_v - mean) / temperature) <= allowed + 1e-305).all()
    rows.log_softmax_vjp(p, v, temperature, out)
    allowed = 8 * UNIT["float64"] * (np.abs(wide_v) + wide_p * sizes) / temperature
    assert (np.abs(out - (wide_v - wide_p * total) / temperature) <= allowed).all()


@each_dtype
@each_length
def test_hessian_products(n_classes, dtype):
    x, labels, q = problem(7, n_classes, dtype)
    t = np.random.default_rng(3).standard_normal(x.shape)
    weight, temperature, z_loss = np.full(n_classes, 1.5), 0.7, 0.2
    for targets in (labels, q):
        out = np.empty(x.shape)
        row_losses.cross_entropy_hvp(x, targets, t, weight, 0.1, temperature, z_loss, 2.0, out)
        p, lse = reference.softmax(x, temperature), reference.logsumexp(x.astype(np.longdouble) / temperature)
        mean = (p * t).sum(axis=1, keepdims=True)
        steep = 1.5 + 2 * z_loss * lse
        exact = (steep * p * (t - mean) + 2 * z_loss * mean * p) / np.longdouble(temperature) ** 2 / 2
        size = (p * np.abs(t)).sum(axis=1, keepdims=True)
        allowed = 16 * INNER[dtype.name] * p * (1.5 + 2 * z_loss * np.abs(lse)) * (np.abs(t) + size) / temperature**2
        assert (np.abs(out - exact) <= allowed).all()


@each_dtype
@each_length
def test_divergences(n_classes, dtype):
    x, _, q = problem(7, n_classes, dtype)
    q[0, 0], q[1] = 0.0, np.eye(n_classes)[-1]
    h, kl, distilled = np.empty(7), np.empty(7), np.empty(7)
    row_losses.entropy(x, h)
    log_p, d, log_sum = exact_parts(x)
    exact = log_sum[:, 0] - (np.exp(log_p) * d).sum(axis=1)
    np.testing.assert_allclose(h, exact.astype(float), rtol=8 * INNER[dtype.name], atol=0)
    row_losses.kl_divergence(x, q, 0.7, kl)
    log_p = exact_parts(x, 0.7)[0]
    with np.errstate(divide="ignore"):
        log_q = np.where(q == 0, 0, np.log(q.astype(np.longdouble)))
    exact = (q * (log_q - log_p)).sum(axis=1)
    allowed = 8 * INNER[dtype.name] * (q * (np.abs(log_q) + np.abs(log_p))).sum(axis=1)
    assert (np.abs(kl - exact) <= allowed).all()
    teacher = x[::-1].astype(np.float32)
    row_losses.distillation(x, teacher, 3.0, distilled)
    log_p, log_q = exact_parts(x, 3.0)[0], exact_parts(teacher, 3.0)[0]
    exact = 9 * (np.exp(log_q) * (log_q - log_p)).sum(axis=1)
    allowed = 9 * 16 * INNER[dtype.name] * (np.exp(log_q) * (np.abs(log_q) + np.abs(log_p))).sum(axis=1)
    assert (np.abs(distilled - exact) <= allowed).all()
    row_losses.distillation(x, x, 3.0, distilled)
    np.testing.assert_array_equal(distilled, 0.0)


@each_dtype
@pytest.mark.parametrize("n_classes", [1, 2, 31, 33, 1000, 5000])
def test_what_is_around_a_row_and_the_threads_cannot_be_seen(n_classes, dtype):
    n = 2 * 2**16 // n_classes + 5 if n_classes > 2 else 3000
    x, labels, q = problem(n, n_classes, dtype)
    labels[1] = -100

    def everything(x, labels, q):
        options = {"label_smoothing": 0.1, "z_loss": 0.1, "temperature": 0.7, "reduction": "none"}
        p = softhead.softmax(x, temperature=0.7)
        return [
            p,
            softhead.log_softmax(x, temperature=0.7),
            softhead.logsumexp(x),
            *softhead.cross_entropy_value_and_grad(x, labels, **options),
            *softhead.cross_entropy_value_and_grad(x, q, **options),
            softhead.cross_entropy_hvp(x, labels, q, **options),
            softhead.softmax_vjp(p, q),
            softhead.log_softmax_vjp(p, q),
            softhead.entropy(x),
            softhead.kl_divergence(x, q, reduction="none"),
            softhead.distillation_loss(x, q, temperature=2.0, reduction="none"),
            softhead.nll_loss(x, labels, label_smoothing=0.1, reduction="none"),
        ]

    with softhead.num_threads(1):
        together = everything(x, labels, q)
    for n_threads in (2, 8):
        with softhead.num_threads(n_threads):
            for first, second in zip(together, everything(x, labels, q), strict=True):
                assert first.tobytes() == second.tobytes()
    for i in (0, 1, 2, n - 1):
        for whole, alone in zip(together, everything(x[i : i + 1], labels[i : i + 1], q[i : i + 1]), strict=True):
            assert whole[i].tobytes() == alone[0].tobytes()
    again = everything(np.asfortranarray(x), labels, np.repeat(q, 2, axis=1)[:, ::2])
    for first, second in zip(together, again, strict=True):
        assert first.tobytes() == second.tobytes()


@each_dtype
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_stay_alone(bad, dtype):
    x, labels, q = problem(40, 40, dtype)
    x[7], labels[9] = bad, -100
    x[9] = np.nan
    ordinary = np.delete(np.arange(40), [7, 9])
    options = {"label_smoothing": 0.1, "z_loss": 0.1, "temperature": 0.7, "reduction": "none"}
    value, gradient = softhead.cross_entropy_value_and_grad(x, labels, **options)
    product = softhead.cross_entropy_hvp(x, labels, q, **options)
    for result in (value, gradient, product):
        finite = np.isfinite(result.astype(float).reshape(40, -1))
        assert finite[ordinary].all()
        assert not finite[7].any()
        np.testing.assert_array_equal(result[9].astype(float), 0.0)
    p = softhead.softmax(x, temperature=0.7).astype(float)
    assert np.isnan(p[[7, 9]]).all()
    assert np.isfinite(p[ordinary]).all()


@pytest.mark.parametrize(
    ("weight", "temperature", "denominator"),
    [(1e300, 1.0, 1e290), (1e-300, 1.0, 1e-295), (1e-300, 1.0, 1.0), (1e200, 1e-150, 1e300), (1.0, 1e300, 1e-300)],
)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_and_temperatures_of_any_size(weight, temperature, denominator, soft, dtype):
    """Products of factors leave the range of float64 on the way, the results do not."""
    size = temperature if dtype == "float64" else min(max(temperature, 1e-30), 1e30)
    x = (np.array([[0.3, -0.2, 0.1, 0.0], [0.0, -30.0, -0.5, -700.0]]) * size).astype(dtype)
    labels = np.array([1, 0])
    q = reference.target_distribution(labels, 4).astype(float) if soft else labels
    weights = np.array([1.0, 2.0, 3.0, 4.0]) * weight
    losses, gradient = np.empty(2), np.empty((2, 4))
    row_losses.cross_entropy_gradient(x, q, weights, 0.25, temperature, 0.0, denominator, losses, gradient)
    wanted = reference.smooth(reference.target_distribution(labels, 4), 0.25)
    exact = reference.cross_entropy_gradient(x, wanted, temperature, 0.0, weights) / np.longdouble(denominator)
    scale = np.abs(exact).max(axis=1, keepdims=True)
    assert np.isfinite(exact.astype(float)).all()
    assert (np.abs(gradient - exact) <= 1e-14 * scale).all()
    with np.errstate(over="ignore"):
        exact = reference.cross_entropy(x, wanted, temperature, 0.0, weights).astype(float)
    np.testing.assert_allclose(losses, exact)


@pytest.mark.parametrize("temperature", [1.5, 21288.0, 1e300])
def test_a_temperature_brings_the_widest_gap_back_into_range(temperature):
    gap = np.finfo(np.float64).max
    x, expected = np.array([[1.0, -gap]]), gap / temperature + softhead.logsumexp([0.0, -gap / temperature])
    unit = 8 * np.spacing(expected)
    assert abs(softhead.log_softmax(x, temperature=temperature)[0, 1] + expected) <= unit
    assert abs(softhead.cross_entropy(x, [1], temperature=temperature) - expected) <= unit
    assert abs(softhead.kl_divergence(x, [[0.0, 1.0]], temperature=temperature) - expected) <= unit
