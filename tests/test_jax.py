"""softhead.jax: values and derivatives against long double, in every transformation."""

import functools
import inspect

import ml_dtypes
import numpy as np
import pytest
from exact import Exact

import softhead

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

import softhead.jax as ours  # noqa: E402

ULP = 8  # of float32, computed in float32: JAX has no float64 unless it is told to
EPS = np.finfo(np.float32).eps
TINY = float(np.finfo(np.float32).smallest_normal)  # below it JAX flushes to zero
LABELS = np.array([0, 3, 2, -100, 1, 4])
OPTIONS = {"label_smoothing": 0.2, "temperature": 0.7, "z_loss": 0.1, "weight": np.float32([0.5, 1.0, 0.0, 2.5, 1.5])}


def adversarial_rows():
    """Rows meant to hurt: ties, gaps of every size, offsets that eat digits, one class far above."""
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal(50) * scale for scale in (0.01, 1.0, 20.0, 1e4, 1e37)]
    rows += [8.0 * rng.integers(-10, 10, 50) + offset for offset in (1e4, 1e8, -1e8)]
    rows += [np.where(np.arange(50) == 7, gap, 0.0) for gap in (5.0, 17.0, 40.0, 80.0, 100.0, 1e4)]
    rows += [np.zeros(50), np.linspace(-60.0, 60.0, 50), rng.integers(0, 3, 50)]
    return np.array(rows, np.float32)


@pytest.fixture
def x():
    x = np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32) * 4
    x[2] = [1.0, 3.0, 3.0, 0.0, 3.0]  # ties at the top, for its label and for others
    x[0, 2] = -np.inf
    x[3] = [np.nan, np.inf, 0.0, 1.0, 2.0]  # an ignored row
    return x


@pytest.fixture
def finite(x):
    return np.where(np.isfinite(x), x, np.float32(-2.0))


@pytest.fixture
def q():
    q = np.random.default_rng(2).dirichlet(np.ones(5), 6).astype(np.float32)
    q[0, 2] = 0.0
    return q


def assert_close(result, expected, scale=0.0):
    """Assert a few units in the last place, or of terms of a given scale."""
    result, expected = np.asarray(result, np.longdouble), np.asarray(expected, np.longdouble)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
    np.testing.assert_allclose(result, expected, rtol=ULP * EPS, atol=scale * ULP * EPS + 50 * TINY)


def run(function, *arguments, **options):
    """Compile a function once and call it."""
    return jax.jit(functools.partial(function, **options))(*arguments)


def test_values_and_gradients_on_rows_meant_to_hurt():
    x = adversarial_rows()
    labels = [np.full(len(x), 7), x.argmax(axis=1), x.argmin(axis=1)]

    def everything(x, temperature):
        loss = functools.partial(ours.cross_entropy, temperature=temperature, reduction="none")
        of_labels = [(loss(x, y), jax.grad(lambda x, y=y: jnp.sum(loss(x, y)))(x)) for y in labels]
        maps = [f(x, temperature=temperature) for f in (ours.softmax, ours.log_softmax)]
        return *maps, ours.logsumexp(x), jax.grad(lambda x: jnp.sum(ours.logsumexp(x)))(x), of_labels

    for temperature in (1.0, 0.7):
        softmax, log_softmax, lse, of_lse, of_labels = run(everything, x, temperature=temperature)
        for y, (loss, gradient) in zip(labels, of_labels, strict=True):
            exact = Exact(x, y, temperature)
            assert_close(loss, exact.loss)
            assert_close(gradient, exact.gradient)
        assert_close(softmax, exact.softmax)
        assert_close(log_softmax, exact.log_softmax)
    exact = Exact(x, labels[0])
    assert (np.abs(np.asarray(lse, np.longdouble) - exact.logsumexp) <= ULP * EPS * exact.size).all()
    assert_close(of_lse, exact.softmax)


def test_a_common_offset_changes_no_bit_and_neither_does_compiling():
    x = 8.0 * np.random.default_rng(3).integers(-10, 10, (20, 30)).astype(np.float32)
    plain, shifted = run(lambda x: (ours.softmax(x), ours.softmax(x + np.float32(1e8))), x)
    np.testing.assert_array_equal(shifted, plain)
    eager = ours.softmax(x)
    assert isinstance(eager, jax.Array)
    assert_close(eager, plain)


@pytest.mark.parametrize("gap", [20.0, 60.0])
def test_confident_rows_keep_loss_gradient_and_curvature(gap):
    tiny = np.exp(-gap)

    def everything(x):
        loss = lambda x: ours.cross_entropy(x, 0)  # noqa: E731
        first = jax.grad(loss), jax.jacfwd(loss)
        second = jax.hessian(loss), jax.jacfwd(jax.jacfwd(loss)), jax.jacrev(jax.jacrev(loss)), jax.jacrev(ours.softmax)
        return loss(x), [f(x) for f in first], [f(x) for f in second]

    loss, gradients, curvatures = run(everything, np.float32([gap, 0.0]))
    np.testing.assert_allclose(loss, tiny, rtol=ULP * EPS)
    np.testing.assert_allclose(gradients, [[-tiny, tiny]] * 2, rtol=ULP * EPS)
    np.testing.assert_allclose(curvatures, [[[tiny, -tiny], [-tiny, tiny]]] * 4, rtol=ULP * EPS)


@pytest.mark.parametrize(("soft", "axis"), [(False, -1), (True, 0)])
@pytest.mark.parametrize("options", [{}, OPTIONS])
def test_cross_entropy_and_its_derivatives_are_those_of_numpy(x, finite, q, options, soft, axis):
    x, targets = (finite.T, q.T) if soft else (x, LABELS)
    tangent = np.random.default_rng(4).standard_normal(x.shape).astype(np.float32)
    options = options | {"axis": axis}

    def everything(x, tangent):
        for reduction in ("mean", "none"):
            loss = functools.partial(ours.cross_entropy, **options, reduction=reduction)
            total = lambda x, loss=loss: jnp.sum(loss(x, targets))  # noqa: E731
            yield loss(x, targets), *jax.jvp(jax.grad(total), (x,), (tangent,))

    for reduction, (value, gradient, product) in zip(
        ("mean", "none"), run(lambda x, t: list(everything(x, t)), x, tangent), strict=True
    ):
        settings = options | {"reduction": reduction}
        expected = softhead.cross_entropy_value_and_grad(x, targets, **settings)
        assert_close(value, expected[0], 20.0)
        assert_close(gradient, expected[1], 20.0)
        assert_close(product, softhead.cross_entropy_hvp(x, targets, tangent, **settings), 50.0)
        if not soft:
            assert not np.asarray(gradient)[3].any()


def test_derivatives_of_the_maps(x, finite):
    cotangent = np.random.default_rng(5).standard_normal((5, 5)).astype(np.float32)
    rows, finite = x[[0, 1, 2, 4, 5]], finite[[0, 1, 2, 4, 5]]

    def everything(rows, finite):
        softmax = functools.partial(ours.softmax, temperature=0.7)
        yield jax.vjp(softmax, rows)[1](cotangent)[0]
        yield jax.jvp(softmax, (rows,), (cotangent,))[1]
        yield jax.vjp(functools.partial(ours.log_softmax, temperature=0.7), finite)[1](cotangent)[0]
        yield ours.entropy(finite)
        yield jax.grad(lambda x: jnp.sum(ours.entropy(x)))(finite)
        yield jax.hessian(ours.logsumexp)(finite[0])

    p = softhead.softmax(rows, temperature=0.7)
    vjp, jvp, log_vjp, entropy, of_entropy, hessian = run(lambda *a: list(everything(*a)), rows, finite)
    assert_close(vjp, softhead.softmax_vjp(p, cotangent, temperature=0.7), 5.0)
    assert_close(jvp, softhead.softmax_jvp(p, cotangent, temperature=0.7), 5.0)
    p = softhead.softmax(finite, temperature=0.7)
    assert_close(log_vjp, softhead.log_softmax_vjp(p, cotangent, temperature=0.7), 10.0)
    p, log_p = softhead.softmax(finite), softhead.log_softmax(finite)
    assert_close(entropy, softhead.entropy(finite))
    assert_close(of_entropy, -p * (log_p + softhead.entropy(finite)[:, np.newaxis]), 5.0)
    assert_close(hessian, softhead.softmax_jacobian(p[0]), 1.0)


def test_a_mask_leaves_entries_out_of_value_and_derivative(x):
    where = np.array([True, False, True, True, True])
    rows = x[[0, 1, 2, 4, 5]]
    rows[:, 1] = np.nan
    names = ("softmax", "log_softmax", "logsumexp")

    def everything(x):
        for name in names:
            function = functools.partial(getattr(ours, name), where=where)
            yield jax.value_and_grad(lambda x, f=function: jnp.sum(jnp.where(jnp.isfinite(f(x)), f(x), 0.0)))(x)
        yield jax.jacrev(functools.partial(ours.softmax, where=np.zeros(5, bool)))(x)

    *results, nothing = run(lambda x: list(everything(x)), rows)
    for name, (value, gradient) in zip(names, results, strict=True):
        expected = getattr(softhead, name)(rows, where=where)
        assert_close(value, expected[np.isfinite(expected)].sum(), 40.0)
        assert np.isfinite(gradient).all()
        assert not gradient[:, 1].any()
    assert not np.asarray(nothing).any()


def test_divergences_and_their_derivatives(finite, q):
    kl = functools.partial(ours.kl_divergence, reduction="sum")
    distillation = functools.partial(ours.distillation_loss, temperature=2.0, reduction="sum")
    teacher = np.roll(finite, 1, axis=0)
    (of_kl, (of_x, of_q)), (of_distillation, (of_student, of_teacher)) = run(
        lambda x, q, t: [jax.value_and_grad(f, argnums=(0, 1))(x, y) for f, y in ((kl, q), (distillation, t))],
        *(finite, q, teacher),
    )
    p = softhead.softmax(finite)
    assert_close(of_kl, softhead.kl_divergence(finite, q, reduction="sum"), 10.0)
    assert_close(of_x, p * np.sum(q, axis=1, keepdims=True) - q, 2.0)
    with np.errstate(divide="ignore"):
        expected = np.where(q == 0.0, 0.0, np.log(q) - softhead.log_softmax(finite) + 1.0)
    assert_close(of_q, expected, 10.0)
    expected = softhead.distillation_loss(finite, teacher, temperature=2.0, reduction="sum")
    assert_close(of_distillation, expected, 10.0)
    soft_p, soft_q = softhead.softmax(finite, temperature=2.0), softhead.softmax(teacher, temperature=2.0)
    assert_close(of_student, 2.0 * (soft_p - soft_q), 4.0)
    assert_close(of_teacher, 4.0 * softhead.softmax_vjp(soft_q, np.log(soft_q / soft_p), temperature=2.0), 20.0)


def test_equal_distributions_diverge_by_nothing_but_bend(finite):
    q = softhead.softmax(finite)
    same, kl, bends = run(
        lambda x: (
            ours.distillation_loss(x, x, temperature=3.0, reduction="none"),
            ours.kl_divergence(x, q, reduction="none"),
            jax.vmap(jax.hessian(ours.kl_divergence))(x, jnp.asarray(q)),
        ),
        finite,
    )
    assert not np.asarray(same).any()
    assert (np.asarray(kl) >= 0.0).all()
    assert_close(bends, softhead.softmax_jacobian(q), 1.0)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_types_are_computed_wider_and_rounded_once(finite, dtype):
    x, eps = finite.astype(dtype), float(ml_dtypes.finfo(dtype).eps)
    names = ("softmax", "log_softmax", "logsumexp", "entropy")
    confident = jnp.asarray([7.0, 0.0], dtype)  # p of the true class is 0.9991, which rounds to 1 in bfloat16
    many = np.zeros((1, 100_000), dtype)  # whose exponentials sum to more than float16 holds
    *results, gradient, loss = run(
        lambda x, c, m: [
            *(getattr(ours, name)(x) for name in names),
            jax.grad(ours.cross_entropy)(c, 0),
            ours.cross_entropy(m, [5]),
        ],
        *(x, confident, many),
    )
    for name, result in zip(names, results, strict=True):
        expected = getattr(softhead, name)(x)
        assert result.dtype == expected.dtype == np.dtype(dtype)
        difference = np.abs(np.asarray(result, np.float64) - expected.astype(np.float64))
        assert (difference <= 2 * eps * np.abs(expected.astype(np.float64))).all()
    np.testing.assert_allclose(np.asarray(gradient, float), np.array([-1, 1]) / (1 + np.exp(7.0)), rtol=eps)
    assert float(loss) == pytest.approx(np.log(1e5), rel=4e-3)


def test_mapped_over_a_batch(finite):
    labels = np.array([0, 3, 2, 1, 1, 4])
    batch = jax.jit(jax.vmap(jax.grad(ours.cross_entropy)))(finite, labels)
    assert_close(batch, softhead.cross_entropy_value_and_grad(finite, labels, reduction="none")[1], 1.0)


def test_float64_where_it_is_enabled(finite):
    with jax.enable_x64(True):
        for dtype, ulp in ((np.float32, 1), (np.float64, ULP)):
            result = run(ours.softmax, finite.astype(dtype))
            assert result.dtype == dtype
            expected = softhead.softmax(finite.astype(dtype))
            assert (np.abs(np.asarray(result) - expected) <= ulp * np.spacing(expected)).all()


def test_samples_have_the_probabilities_of_the_logits():
    p, values = np.float32([0.1, 0.2, 0.7]), np.float32([1.0, -2.0, 0.5])
    draw = functools.partial(ours.gumbel_softmax, key=jax.random.key(0))

    def everything(x):
        gradients = [jax.grad(lambda x, h=h: jnp.sum(draw(x, hard=h) * values))(x) for h in (True, False)]
        return draw(x, hard=True), draw(x, temperature=0.5), *gradients

    hard, soft, straight, relaxed = run(everything, np.tile(np.log(p), (20_000, 1)))
    assert set(np.unique(hard)) == {0.0, 1.0}
    np.testing.assert_allclose(np.mean(hard, axis=0), p, atol=0.01)
    np.testing.assert_array_equal(np.argmax(soft, axis=1), np.argmax(hard, axis=1))
    np.testing.assert_allclose(np.sum(soft, axis=1), 1.0, rtol=4 * EPS)
    assert_close(straight, relaxed, 1.0)
    assert np.abs(relaxed).max() > 0.1


def test_what_is_wrong_is_an_error_where_it_can_be_known(finite):
    for targets, error in (
        ([0, 5, 0, 0, 0, 0], IndexError),
        (np.full((6, 5), -1.0), ValueError),
        ([0.0] * 6, TypeError),
    ):
        with pytest.raises(error, match="targets"):
            ours.cross_entropy(finite, targets)
        with pytest.raises(error, match="targets"):  # known to the program that is compiled, too
            jax.jit(lambda x, t=targets: ours.cross_entropy(x, np.asarray(t)))(finite)
    for options, name in (({"label_smoothing": np.nan}, "label_smoothing"), ({"temperature": 0.0}, "temperature")):
        with pytest.raises(ValueError, match=name):
            jax.jit(functools.partial(ours.cross_entropy, **options))(finite, np.zeros(6, int))
    with pytest.raises(ValueError, match=r"weight\[1\] is -1"):
        ours.cross_entropy(finite, np.zeros(6, int), weight=[1.0, -1.0, 1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"targets\[0, 0\] is nan"):
        ours.kl_divergence(finite, np.full((6, 5), np.nan))
    with pytest.raises(np.exceptions.AxisError):
        ours.softmax(finite, axis=2)
    with pytest.raises(TypeError, match="complex"):
        ours.softmax(finite + 1j)


def test_labels_that_only_a_compiled_program_knows_make_their_row_nan(finite):
    labels = np.array([0, 5, 2, -100, -1, 4])
    loss = functools.partial(ours.cross_entropy, reduction="none")
    value = jax.jit(loss)(finite, labels)
    np.testing.assert_array_equal(np.isnan(value), [False, True, False, False, True, False])
    gradient = jax.jit(jax.grad(lambda x, y: jnp.sum(loss(x, y))))(finite, labels)
    assert np.isfinite(np.asarray(gradient)[[0, 2, 3, 5]]).all()


def test_signatures_are_those_of_softhead():
    for name in ours.__all__:
        theirs = dict(inspect.signature(getattr(softhead, name)).parameters)
        own = inspect.signature(getattr(ours, name)).parameters
        for dropped in ("out", "rng"):
            theirs.pop(dropped, None)
        assert [(p.name, p.kind, p.default) for p in theirs.values()] == [
            (p.name, p.kind, p.default) for p in own.values() if p.name != "key"
        ], name
