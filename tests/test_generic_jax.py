"""The generic formulas on JAX's arrays: plain, compiled, mapped and differentiated."""

import functools

import ml_dtypes
import numpy as np
import pytest

import softhead
from softhead import generic

jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")

ULP = 8  # of float32, computed in float32: JAX has no float64 unless it is told to
EPS = np.finfo(np.float32).eps
LABELS = np.array([0, 3, 2, -100, 1, 4])
OPTIONS = {"label_smoothing": 0.2, "temperature": 0.7, "z_loss": 0.1, "weight": np.float32([0.5, 1.0, 0.0, 2.5, 1.5])}


@pytest.fixture
def x():
    x = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32) * 4
    x[2] = [1.0, 3.0, 3.0, 0.0, 3.0]  # ties at the top, for its label and for others
    x[0, 2] = -np.inf
    x[3] = [np.nan, np.inf, 0.0, 1.0, 2.0]  # an ignored row
    return x


@pytest.fixture
def q():
    q = np.random.default_rng(1).dirichlet(np.ones(5), 6).astype(np.float32)
    q[0, 2] = 0.0
    return q


def gradient_of(function, x):
    """Return the automatic derivative of the sum of a function's results, compiled."""
    return np.asarray(jax.jit(jax.grad(lambda x: jnp.sum(function(x))))(x))


def assert_close(ours, theirs, scale=0.0):
    """JAX flushes subnormal numbers to zero."""
    ours, theirs = np.asarray(ours), np.asarray(theirs, np.float32)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    atol = scale * ULP * EPS + 8 * np.finfo(np.float32).smallest_normal
    np.testing.assert_allclose(ours, theirs, rtol=ULP * EPS, atol=atol)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("spread", [1.0, 20.0])
def test_maps_keep_their_accuracy_compiled_or_not(compiled, spread):
    x = np.random.default_rng(2).standard_normal((200, 50)).astype(np.float32) * np.float32(spread)
    for name in ("softmax", "log_softmax"):
        for temperature in (1.0, 0.7, 3.0):
            ours = functools.partial(getattr(generic, name), temperature=temperature)
            result = (jax.jit(ours) if compiled else ours)(jnp.asarray(x))
            assert isinstance(result, jax.Array)
            assert_close(result, getattr(softhead, name)(x, temperature=temperature))
    for name in ("logsumexp", "entropy"):
        ours = getattr(generic, name)
        assert_close((jax.jit(ours) if compiled else ours)(jnp.asarray(x)), getattr(softhead, name)(x))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_types_are_computed_wider_and_rounded_once(x, dtype):
    x = np.where(np.isfinite(x), x, -1.0).astype(dtype)
    for name in ("softmax", "log_softmax", "entropy", "hardmax"):
        result = getattr(generic, name)(jnp.asarray(x))
        expected = getattr(softhead, name)(x)
        assert result.dtype == expected.dtype == np.dtype(dtype)
        difference = np.abs(np.asarray(result, np.float64) - expected.astype(np.float64))
        assert (difference <= 2 * float(ml_dtypes.finfo(dtype).eps) * np.abs(expected.astype(np.float64))).all()


@pytest.mark.parametrize("options", [{}, OPTIONS])
@pytest.mark.parametrize("soft", [False, True])
def test_losses_and_their_automatic_derivatives(x, q, options, soft):
    """The explicit gradients are those of the values, and the Hessian's products those of the gradients."""
    targets = jnp.asarray(q if soft else LABELS)
    x = jnp.asarray(np.where(np.isfinite(x), x, 0.0) if soft else x)
    for reduction in ("mean", "none"):
        settings = options | {"reduction": reduction}
        expected = softhead.cross_entropy_value_and_grad(np.asarray(x), np.asarray(targets), **settings)
        value, gradient = jax.jit(functools.partial(generic.cross_entropy_value_and_grad, **settings))(x, targets)
        assert_close(value, expected[0], scale=20.0)
        assert_close(gradient, expected[1], scale=20.0)
        loss = functools.partial(generic.cross_entropy, **settings)
        assert_close(gradient_of(lambda x, loss=loss: loss(x, targets), x), expected[1], scale=20.0)
    tangent = jnp.asarray(np.random.default_rng(3).standard_normal(x.shape), jnp.float32)
    _, automatic = jax.jvp(lambda x: generic.cross_entropy_value_and_grad(x, targets, **options)[1], (x,), (tangent,))
    product = jax.jit(functools.partial(generic.cross_entropy_hvp, **options))(x, targets, tangent)
    assert_close(product, automatic, scale=50.0)


def test_automatic_derivatives_of_the_maps(x):
    x, cotangent = jnp.asarray(x[[0, 1, 2, 4, 5]]), np.random.default_rng(4).standard_normal((5, 5)).astype(np.float32)
    p = softhead.softmax(np.asarray(x), temperature=0.7)
    softmax = functools.partial(generic.softmax, temperature=0.7)
    assert_close(
        gradient_of(lambda x: softmax(x) * cotangent, x), softhead.softmax_vjp(p, cotangent, temperature=0.7), 20.0
    )
    finite = jnp.where(jnp.isinf(x), -3.0, x)
    p = softhead.softmax(np.asarray(finite), temperature=0.7)
    log_softmax = functools.partial(generic.log_softmax, temperature=0.7)
    expected = softhead.log_softmax_vjp(p, cotangent, temperature=0.7)
    assert_close(gradient_of(lambda x: log_softmax(x) * cotangent, finite), expected, 20.0)
    assert_close(gradient_of(generic.logsumexp, x), softhead.softmax(np.asarray(x)), 2.0)
    where = np.array([True, False, True, True, True])
    masked = gradient_of(lambda x: generic.logsumexp(x, where=where), x.at[:, 1].set(np.nan))
    assert_close(masked, softhead.softmax(np.asarray(x), where=where), 2.0)


@pytest.mark.parametrize("gap", [20.0, 60.0])
def test_automatic_derivatives_of_confident_rows_are_exact(gap):
    gradient = gradient_of(lambda x: generic.cross_entropy(x, 0), jnp.asarray([gap, 0.0], jnp.float32))
    np.testing.assert_allclose(gradient, np.array([-1, 1]) * np.exp(-gap), rtol=ULP * EPS)


def test_automatic_derivatives_of_the_divergences(x, q):
    x, q = np.where(np.isfinite(x), x, np.float32(-2.0)), jnp.asarray(q)
    log_p, p = softhead.log_softmax(x), softhead.softmax(x)
    entropy = np.sum(-p * log_p, axis=1, keepdims=True)
    assert_close(gradient_of(generic.entropy, jnp.asarray(x)), -p * (log_p + entropy), 10.0)
    kl = functools.partial(generic.kl_divergence, reduction="sum")
    assert_close(gradient_of(lambda x: kl(x, q), jnp.asarray(x)), p * np.sum(q, axis=1, keepdims=True) - q, 5.0)
    distillation = functools.partial(generic.distillation_loss, temperature=2.0, reduction="sum")
    teacher = np.roll(x, 1, axis=0)
    soft_p, soft_q = softhead.softmax(x, temperature=2.0), softhead.softmax(teacher, temperature=2.0)
    of_student = gradient_of(lambda x: distillation(x, jnp.asarray(teacher)), jnp.asarray(x))
    assert_close(of_student, 2.0 * (soft_p - soft_q), 10.0)
    of_teacher = gradient_of(lambda t: distillation(jnp.asarray(x), t), jnp.asarray(teacher))
    assert_close(of_teacher, 4.0 * softhead.softmax_vjp(soft_q, np.log(soft_q / soft_p), temperature=2.0), 40.0)
    masked = jnp.asarray(teacher).at[:, 1].set(-jnp.inf)  # a class of probability 0 for the teacher has no derivative
    of_masked = gradient_of(lambda t: distillation(jnp.asarray(x), t), masked)
    assert np.isfinite(of_masked).all()
    assert not of_masked[:, 1].any()


def test_automatic_derivatives_of_the_binary_loss_also_at_zero():
    targets = jnp.asarray([1.0, 0.25, 0.0, 1.0])
    loss = functools.partial(generic.binary_cross_entropy_with_logits, reduction="sum")
    gradient = gradient_of(lambda x: loss(x, targets), jnp.asarray([0.0, 0.0, 3.0, -200.0]))
    np.testing.assert_allclose(gradient, [-0.5, 0.25, 1 / (1 + np.exp(-3.0)), -1.0], rtol=ULP * EPS)


@pytest.mark.parametrize("norm", ["l1", "l2", "zscore"])
def test_automatic_derivatives_of_normalizing_also_at_zero(norm):
    vectors = np.array([[1.0, -2.0, 4.0], [0.0, 0.0, 0.0]], np.float32)
    gradient = gradient_of(lambda x: generic.normalize(x, norm=norm)[:, :2], jnp.asarray(vectors))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[0]).max() > 0.01
    assert np.sum(gradient[0] * vectors[0]) == pytest.approx(0.0, abs=1e-6)  # scaling a vector changes nothing


@pytest.mark.parametrize("options", [{}, OPTIONS | {"l2": 0.3}])
def test_linear_cross_entropy(options):
    rng = np.random.default_rng(5)
    x, linear_weight, linear_bias = (rng.standard_normal(shape, np.float32) for shape in ((6, 3), (5, 3), 5))
    x[3] = np.nan
    expected = softhead.linear_cross_entropy_value_and_grad(
        x, linear_weight, LABELS, linear_bias=linear_bias, **options
    )
    value, gradients = jax.jit(functools.partial(generic.linear_cross_entropy_value_and_grad, **options))(
        x := jnp.asarray(x), jnp.asarray(linear_weight), LABELS, linear_bias=jnp.asarray(linear_bias)
    )
    assert_close(value, expected[0], 5.0)
    automatic = jax.grad(
        lambda x, w, b: generic.linear_cross_entropy(x, w, LABELS, linear_bias=b, **options), argnums=(0, 1, 2)
    )(x, jnp.asarray(linear_weight), jnp.asarray(linear_bias))
    for ours, by_itself, theirs in zip(gradients, automatic, expected[1], strict=True):
        assert_close(ours, theirs, 5.0)
        assert_close(by_itself, theirs, 5.0)


def test_mapped_over_a_batch(x):
    rows, labels = jnp.asarray(x[[0, 1, 2, 4, 5]]), jnp.asarray(LABELS[[0, 1, 2, 4, 5]])
    mapped = jax.jit(jax.vmap(generic.cross_entropy))(rows, labels)
    assert_close(mapped, softhead.cross_entropy(np.asarray(rows), np.asarray(labels), reduction="none"))


@pytest.mark.parametrize("compiled", [False, True])
def test_impossible_labels_make_their_row_nan(x, compiled):
    function = functools.partial(generic.cross_entropy_value_and_grad, reduction="none")
    labels = jnp.asarray([0, 5, 2, -100, -1, 4])
    value, gradient = (jax.jit(function) if compiled else function)(jnp.asarray(x), labels)
    np.testing.assert_array_equal(np.isnan(value), [False, True, False, False, True, False])
    np.testing.assert_array_equal(np.isnan(gradient).all(axis=1), np.isnan(value))
    np.testing.assert_array_equal(gradient[3], 0.0)


def test_float64_where_it_is_enabled(x):
    """Then float32 is computed in float64, too."""
    rows = x[[0, 1, 2, 4, 5]]
    with jax.enable_x64(True):
        for dtype, ulp in ((np.float32, 1), (np.float64, ULP)):
            wide = rows.astype(dtype)
            result = jax.jit(functools.partial(generic.softmax, temperature=0.7))(jnp.asarray(wide))
            assert result.dtype == dtype
            expected = softhead.softmax(wide, temperature=0.7)
            assert (np.abs(np.asarray(result) - expected) <= ulp * np.spacing(expected)).all()
        assert generic.softmax(jnp.asarray([1, 2, 3])).dtype == np.float64
