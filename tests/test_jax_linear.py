"""softhead.jax.linear_cross_entropy: in blocks, in every direction, on one device and on four."""

import functools
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import softhead

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

import softhead.jax as ours  # noqa: E402
import softhead.jax.linear as blocks  # noqa: E402

LABELS = np.random.default_rng(0).integers(0, 9, 50)
LABELS[7] = -100
WEIGHT = np.linspace(0.5, 2.0, 9, dtype=np.float32)
OPTIONS = {"label_smoothing": 0.1, "temperature": 0.7, "z_loss": 0.1, "weight": WEIGHT}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Cut 50 rows into blocks of 16, and compile without optimising: what is tested are formulas."""
    monkeypatch.setattr(blocks, "_BLOCK_SIZE", 9 * 16)
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def arguments():
    rng = np.random.default_rng(1)
    x, linear_weight, linear_bias = (rng.standard_normal(shape, np.float32) for shape in ((50, 3), (9, 3), 9))
    x[7] = np.nan  # of an ignored row nothing is read
    return x, linear_weight, linear_bias


def total(x, linear_weight, linear_bias, targets=LABELS, **options):
    return jnp.sum(ours.linear_cross_entropy(x, linear_weight, targets, linear_bias=linear_bias, **options))


def assert_close(result, expected, scale=1.0):
    np.testing.assert_allclose(result, expected, rtol=4e-6, atol=scale * 1e-6)


@pytest.mark.parametrize(
    ("options", "soft"), [({"l2": 0.3}, False), (OPTIONS, True), (OPTIONS | {"reduction": "none"}, False)]
)
def test_value_gradients_and_curvature(arguments, options, soft):
    targets = np.random.default_rng(2).dirichlet(np.ones(9), 50).astype(np.float32) if soft else LABELS
    if soft:
        arguments[0][7] = 0.0
    direction = tuple(np.random.default_rng(3).standard_normal(a.shape, np.float32) for a in arguments)
    function = functools.partial(total, targets=targets, **options)
    gradient = jax.grad(function, argnums=(0, 1, 2))
    value, slope, gradients, product = jax.jit(
        lambda a, d: (*jax.jvp(function, a, d), *jax.jvp(lambda *a: gradient(*a), a, d))
    )(arguments, direction)
    reduced = options | ({"reduction": "sum"} if options.get("reduction") == "none" else {})
    x, linear_weight, linear_bias = arguments
    expected, exact = softhead.linear_cross_entropy_value_and_grad(
        x, linear_weight, targets, linear_bias=linear_bias, **reduced
    )
    assert_close(value, expected, 20.0)
    for ours_, theirs in zip(gradients, exact, strict=True):
        assert_close(ours_, theirs, 5.0)
    assert_close(slope, sum(np.vdot(g, d) for g, d in zip(exact, direction, strict=True)), 50.0)
    assert_close(
        product[1],
        softhead.linear_cross_entropy_hvp(
            x, linear_weight, targets, softhead.LinearGradients(*direction), linear_bias=linear_bias, **reduced
        ).linear_weight,
        50.0,
    )


def test_reverse_over_reverse_is_forward_over_reverse(arguments):
    def everything(x, w, b):
        for reduction in ("mean", "none"):
            loss = functools.partial(total, reduction=reduction)
            yield jax.jacrev(jax.jacrev(loss, 1), 1)(x, w, b), jax.hessian(loss, 1)(x, w, b)

    for twice, hessian in jax.jit(lambda *a: list(everything(*a)))(*arguments):
        assert np.abs(hessian).max() > 0.01
        assert_close(twice, hessian, 10.0)


def test_gradients_of_targets_and_of_class_weights(arguments):
    x, linear_weight, linear_bias = arguments
    x[7] = 0.0
    q = np.random.default_rng(2).dirichlet(np.ones(9), 50).astype(np.float32)
    fused, plain = jax.jit(
        lambda q, w: [
            jax.grad(loss, argnums=(0, 1))(q, w)
            for loss in (
                lambda q, w: ours.linear_cross_entropy(x, linear_weight, q, weight=w, linear_bias=linear_bias),
                lambda q, w: ours.cross_entropy(x @ linear_weight.T + linear_bias, q, weight=w),
            )
        ]
    )(q, WEIGHT)
    for ours_, theirs in zip(fused, plain, strict=True):
        assert np.abs(theirs).max() > 0.01
        assert_close(ours_, theirs)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_logits_of_all_rows_never_exist(reduction):
    x, linear_weight = jnp.zeros((1000, 3)), jnp.zeros((9, 3))
    loss = functools.partial(total, targets=np.zeros(1000, int), linear_bias=None, reduction=reduction)
    for function in (loss, jax.grad(loss, (0, 1)), lambda *a: jax.jvp(jax.grad(loss, (0, 1)), a, a)):
        text = str(jax.make_jaxpr(function)(x, linear_weight))
        for logits in ("1000,9]", "f32[62,16,9]"):
            assert logits not in text
        assert "16,9]" in text


def test_memory_is_a_block_and_one_gradient_of_the_weight(monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK_SIZE", 4000 * 16)
    jax.config.update("jax_disable_most_optimizations", False)
    x, linear_weight, targets = np.ones((64, 512), np.float32), np.ones((4000, 512), np.float32), np.zeros(64, int)
    loss = jax.value_and_grad(ours.linear_cross_entropy, (0, 1))
    memory = jax.jit(loss).lower(x, linear_weight, targets).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 1.5 * linear_weight.nbytes  # the second one is a block's part of the sum


def test_half_types_sum_their_gradients_in_float32():
    rng = np.random.default_rng(4)
    x, linear_weight = rng.standard_normal((512, 8), np.float32), rng.standard_normal((9, 8), np.float32)
    labels = rng.integers(0, 9, 512)
    half = [a.astype(ml_dtypes.bfloat16) for a in (x, linear_weight)]
    _, exact = softhead.linear_cross_entropy_value_and_grad(*(a.astype(np.float64) for a in half), labels)
    loss = lambda x, w: ours.linear_cross_entropy(x, w, labels)  # noqa: E731
    for result, expected in zip(jax.jit(jax.grad(loss, (0, 1)))(*half), exact, strict=False):
        assert result.dtype == ml_dtypes.bfloat16
        np.testing.assert_allclose(np.asarray(result, float), expected, rtol=2.0**-8, atol=1e-7)


def test_shapes_of_leading_axes_no_rows_and_a_batch(arguments):
    x, linear_weight, _ = arguments
    x[7] = 0.0
    rows, losses, none, batch = jax.jit(
        lambda x, w: (
            ours.linear_cross_entropy(x.reshape(5, 10, 3), w, LABELS.reshape(5, 10), reduction="none"),
            ours.linear_cross_entropy(x, w, LABELS, reduction="none"),
            ours.linear_cross_entropy(x[:0], w, LABELS[:0], reduction="sum"),
            jax.vmap(jax.grad(lambda x: ours.linear_cross_entropy(x, w, LABELS)))(jnp.stack([x, x[::-1]])),
        )
    )(x, linear_weight)
    assert rows.shape == (5, 10)
    np.testing.assert_array_equal(rows.ravel(), losses)
    assert none == 0.0
    for one, gradient in zip((x, x[::-1]), batch, strict=True):
        assert_close(gradient, softhead.linear_cross_entropy_value_and_grad(one, linear_weight, LABELS)[1].x)


def test_where_no_row_is_read_no_gradient_is_nan(arguments):
    value, gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2)))(*arguments, np.full(50, -100))
    assert np.isnan(value)
    for gradient in gradients:
        assert not np.asarray(gradient).any()


def test_a_label_that_a_program_finds_impossible_makes_value_and_gradients_nan(arguments):
    x, linear_weight, linear_bias = arguments
    x[7] = 0.0
    for label in (9, -1):
        for reduction in ("mean", "none"):
            loss = functools.partial(total, reduction=reduction)
            value, (by_x, by_weight) = jax.jit(jax.value_and_grad(loss, (0, 1)))(
                x, linear_weight, linear_bias, np.where(np.arange(50) == 3, label, 0)
            )
            assert np.isnan(value)
            assert np.isnan(by_weight).all()
            np.testing.assert_array_equal(np.isnan(by_x).all(1), np.arange(50) == 3)


def test_what_is_wrong_is_an_error():
    x, linear_weight = np.zeros((2, 3)), np.zeros((4, 3))
    with pytest.raises(IndexError, match=r"targets\[1\] is 4"):
        ours.linear_cross_entropy(x, linear_weight, [0, 4])
    with pytest.raises(ValueError, match="reduction='none'"):
        ours.linear_cross_entropy(x, linear_weight, [0, 1], l2=0.1, reduction="none")
    with pytest.raises(ValueError, match="linear_bias has shape"):
        ours.linear_cross_entropy(x, linear_weight, [0, 1], linear_bias=np.zeros(3))
    with pytest.raises(ValueError, match="x has shape"):
        ours.linear_cross_entropy(x[:, :2], linear_weight, [0, 1])


ON_FOUR_DEVICES = """
import jax, jax.numpy as jnp, numpy as np, softhead.jax as ours
import softhead.jax.linear as blocks
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

blocks._BLOCK_SIZE = 9 * 16
mesh = jax.make_mesh((4,), ("rows",), axis_types=(AxisType.Auto,))
rng = np.random.default_rng(0)
x, w = rng.standard_normal((200, 3), np.float32), rng.standard_normal((9, 3), np.float32)
b, y = rng.standard_normal(9, np.float32), rng.integers(0, 9, 200)
whole = lambda w, b, x, y: ours.cross_entropy(x @ w.T + b, y, reduction="sum")
expected = jax.tree.map(np.asarray, jax.value_and_grad(whole, (0, 1, 2))(w, b, x, y))
specs = {"in_specs": (P(), P(), P("rows"), P("rows")), "out_specs": P()}
close = lambda a, b: jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), a, b)

for reduction in ("sum", "none"):
    loss = lambda w, b, x, y: jnp.sum(ours.linear_cross_entropy(x, w, y, linear_bias=b, reduction=reduction))
    spread = jax.shard_map(lambda *a: jax.lax.psum(loss(*a), "rows"), mesh=mesh, **specs)
    close(jax.jit(jax.value_and_grad(spread, (0, 1, 2)))(w, b, x, y), expected)
    within = jax.jit(jax.shard_map(jax.grad(loss), mesh=mesh, **specs))
    close(within(w, b, x, y), expected[1][0])
    # Gradients are summed over the devices at the end, not in every block.
    assert str(jax.make_jaxpr(within)(w, b, x, y)).count("psum") == 1

logits = x @ w.T + b
of_rows = jax.shard_map(
    lambda z, y: jax.lax.pmean(ours.cross_entropy(z, y), "rows"), mesh=mesh, in_specs=P("rows"), out_specs=P()
)
close(jax.jit(jax.grad(of_rows))(logits, y), jax.grad(ours.cross_entropy)(logits, y))
by_class = jax.device_put(np.concatenate([logits, logits[:, :3]], 1), NamedSharding(mesh, P(None, "rows")))
close(jax.jit(jax.grad(ours.cross_entropy))(by_class, y), jax.grad(ours.cross_entropy)(np.asarray(by_class), y))
print("right")
"""


def test_rows_spread_over_devices():
    environment = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0",
        "PYTHONPATH": ":".join(sys.path),
    }
    done = subprocess.run([sys.executable, "-c", ON_FOUR_DEVICES], env=environment, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("right", 0), done.stderr
