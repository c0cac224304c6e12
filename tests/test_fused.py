"""linear_cross_entropy: equal to its two parts, derivatives, blocks, memory and dtypes."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest

import softhead
from softhead import fused
from softhead.kernels import reference

WEIGHT = np.array([0.5, 1.0, 0.2, 2.5])
OPTIONS = {"weight": WEIGHT, "label_smoothing": 0.2, "temperature": 0.7, "z_loss": 0.1}


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    x, linear_weight, linear_bias = rng.standard_normal((30, 5)), rng.standard_normal((4, 5)), rng.standard_normal(4)
    return x, linear_weight, linear_bias, rng.integers(0, 4, 30)


def both(*args, **options):
    """Return value and gradients, having held the value against `linear_cross_entropy`."""
    value, gradients = softhead.linear_cross_entropy_value_and_grad(*args, **options)
    np.testing.assert_array_equal(value, softhead.linear_cross_entropy(*args, **options))
    return value, gradients


def in_two_parts(x, linear_weight, targets, linear_bias, *, l2=0.0, **options):
    """Return value and gradients by way of all logits."""
    value, residuals = softhead.cross_entropy_value_and_grad(x @ linear_weight.T + linear_bias, targets, **options)
    flat, rows = residuals.reshape(-1, len(linear_weight)), x.reshape(-1, x.shape[-1])
    gradients = residuals @ linear_weight, flat.T @ rows + l2 * linear_weight, flat.sum(axis=0)
    return value + l2 / 2 * (linear_weight**2).sum() if l2 else value, gradients


def assert_same(first, second, rtol=1e-12):
    np.testing.assert_allclose(first[0], second[0], rtol=rtol)
    for a, b in zip(first[1], second[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("options", [{}, OPTIONS, OPTIONS | {"reduction": "sum", "l2": 0.3}, {"reduction": "none"}])
@pytest.mark.parametrize("rows_of_a_block", [16, 4096])
def test_equals_its_two_parts(problem, options, rows_of_a_block, monkeypatch):
    monkeypatch.setattr(fused, "_MAX_ROWS", rows_of_a_block)
    x, linear_weight, linear_bias, y = problem
    ours = both(x, linear_weight, y, linear_bias=linear_bias, **options)
    assert_same(ours, in_two_parts(x, linear_weight, y, linear_bias, **options))
    q = np.random.default_rng(1).dirichlet(np.ones(4), 30)
    ours = both(x, linear_weight, q, linear_bias=linear_bias, **options)
    assert_same(ours, in_two_parts(x, linear_weight, q, linear_bias, **options))


def test_equals_the_definition(problem):
    x, linear_weight, linear_bias, y = problem
    value, gradients = both(x, linear_weight, y, linear_bias=linear_bias, l2=0.3)
    expected = reference.linear_cross_entropy(x, linear_weight, linear_bias, np.eye(4)[y], 0.3)
    assert value == pytest.approx(float(expected[0]), rel=1e-13)
    for ours, theirs in zip(gradients, expected[1:], strict=True):
        np.testing.assert_allclose(ours, theirs.astype(float), rtol=1e-12, atol=1e-15)


def test_gradients_are_derivatives(problem):
    x, linear_weight, linear_bias, y = problem
    options = OPTIONS | {"l2": 0.3}
    _, gradients = both(x, linear_weight, y, linear_bias=linear_bias, **options)
    step = 1e-5
    for position, gradient in enumerate(gradients):
        for index in np.ndindex(gradient.shape):
            values = []
            for sign in (1, -1):
                arguments = [x.copy(), linear_weight.copy(), linear_bias.copy()]
                arguments[position][index] += sign * step
                values.append(
                    softhead.linear_cross_entropy(arguments[0], arguments[1], y, linear_bias=arguments[2], **options)
                )
            assert (values[0] - values[1]) / (2 * step) == pytest.approx(gradient[index], abs=1e-9)


def test_hvp_is_the_derivative_of_the_gradients(problem):
    x, linear_weight, linear_bias, y = problem
    rng, step = np.random.default_rng(4), 1e-5
    options = OPTIONS | {"l2": 0.3}
    y = np.where(np.arange(30) % 5 == 0, -100, y)
    tangent = softhead.LinearGradients(*(rng.standard_normal(array.shape) for array in problem[:3]))
    product = softhead.linear_cross_entropy_hvp(x, linear_weight, y, tangent, linear_bias=linear_bias, **options)
    ahead, behind = (
        both(
            x + s * tangent.x,
            linear_weight + s * tangent.linear_weight,
            y,
            linear_bias=linear_bias + s * tangent.linear_bias,
            **options,
        )[1]
        for s in (step, -step)
    )
    for moved, forward, backward in zip(product, ahead, behind, strict=True):
        np.testing.assert_allclose((forward - backward) / (2 * step), moved, atol=1e-8)


@pytest.mark.parametrize("rows_of_a_block", [16, 4096])
def test_hvp_holds_constant_what_has_no_tangent(problem, rows_of_a_block, monkeypatch):
    monkeypatch.setattr(fused, "_MAX_ROWS", rows_of_a_block)
    x, linear_weight, linear_bias, y = problem
    zeros = softhead.LinearGradients(*(np.zeros_like(array) for array in problem[:3]))
    for name, array in zip(zeros._fields, problem[:3], strict=True):
        part = {name: np.random.default_rng(5).standard_normal(array.shape)}
        alone = softhead.LinearGradients(None, None, None)._replace(**part)
        options = {"linear_bias": linear_bias, "l2": 0.2}
        short = softhead.linear_cross_entropy_hvp(x, linear_weight, y, alone, **options)
        full = softhead.linear_cross_entropy_hvp(x, linear_weight, y, zeros._replace(**part), **options)
        for other in zeros._fields:
            if other == name:
                np.testing.assert_allclose(getattr(short, other), getattr(full, other), rtol=1e-11, atol=1e-15)
            else:
                assert getattr(short, other) is None


def test_hvp_shapes_and_dtypes(problem):
    x, linear_weight, linear_bias, y = problem
    tangent = softhead.LinearGradients(x.reshape(2, 15, 5), linear_weight, linear_bias)
    product = softhead.linear_cross_entropy_hvp(
        x.reshape(2, 15, 5).astype(np.float32), linear_weight, y.reshape(2, 15), tangent, linear_bias=linear_bias
    )
    assert [part.dtype.name for part in product] == ["float32", "float64", "float64"]
    assert product.x.shape == (2, 15, 5)
    with pytest.raises(
        ValueError, match=r"tangent\.linear_weight has shape \(5,\); it must have the shape of linear_w"
    ):
        softhead.linear_cross_entropy_hvp(x, linear_weight, y, softhead.LinearGradients(None, np.ones(5), None))
    with pytest.raises(ValueError, match=r"tangent\.x has shape \(5,\)"):
        softhead.linear_cross_entropy_hvp(x, linear_weight, y, softhead.LinearGradients(np.ones(5), None, None))


def test_without_bias_and_with_the_bias_as_a_feature(problem):
    x, linear_weight, linear_bias, y = problem
    value, gradients = both(x, linear_weight, y, linear_bias=linear_bias)
    wider, parameters = np.column_stack([x, np.ones(30)]), np.column_stack([linear_weight, linear_bias])
    again, joint = both(wider, parameters, y)
    assert joint.linear_bias is None
    assert value == pytest.approx(again, rel=1e-14)
    np.testing.assert_allclose(gradients.linear_weight, joint.linear_weight[:, :-1], rtol=1e-12)
    np.testing.assert_allclose(gradients.linear_bias, joint.linear_weight[:, -1], rtol=1e-12)


def test_leading_axes(problem):
    x, linear_weight, linear_bias, y = problem
    shape = (2, 3, 5)
    flat = both(x, linear_weight, y, linear_bias=linear_bias, reduction="none")
    value, gradients = both(
        x.reshape(*shape, 5), linear_weight, y.reshape(shape), linear_bias=linear_bias, reduction="none"
    )
    np.testing.assert_array_equal(value, flat[0].reshape(shape))
    np.testing.assert_array_equal(gradients.x, flat[1].x.reshape(*shape, 5))
    np.testing.assert_array_equal(gradients.linear_weight, flat[1].linear_weight)
    value, gradients = both(x[0], linear_weight, y[0])
    assert isinstance(value, np.float64)
    assert gradients.x.shape == (5,)


@pytest.mark.parametrize("spoil", [np.nan, np.inf])
def test_ignored_rows_are_not_read(problem, spoil):
    x, linear_weight, linear_bias, y = problem
    kept = np.arange(30) % 3 != 0
    value, gradients = both(
        np.where(kept[:, np.newaxis], x, spoil), linear_weight, np.where(kept, y, -100), linear_bias=linear_bias
    )
    expected = both(x[kept], linear_weight, y[kept], linear_bias=linear_bias)
    assert value == pytest.approx(expected[0], rel=1e-14)
    np.testing.assert_array_equal(gradients.x[~kept], 0.0)
    np.testing.assert_allclose(gradients.x[kept], expected[1].x, rtol=1e-12)
    np.testing.assert_allclose(gradients.linear_weight, expected[1].linear_weight, rtol=1e-12)


def test_every_row_ignored_and_no_row_at_all(problem):
    x, linear_weight, linear_bias, y = problem
    value, gradients = both(x, linear_weight, np.full(30, -100), linear_bias=linear_bias)
    assert np.isnan(value)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0.0)
    value, gradients = both(x[:0], linear_weight, y[:0], linear_bias=linear_bias)
    assert np.isnan(value)
    assert gradients.x.shape == (0, 5)
    np.testing.assert_array_equal(gradients.linear_weight, np.zeros((4, 5)))
    assert softhead.linear_cross_entropy(x[:0], linear_weight, y[:0], reduction="sum", l2=2.0) == pytest.approx(
        (linear_weight**2).sum()
    )


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_narrow_dtypes(problem, name):
    dtype = np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)
    x, linear_weight, linear_bias = (part.astype(dtype) for part in problem[:3])
    value, gradients = both(x, linear_weight, problem[3], linear_bias=linear_bias, l2=0.1)
    wide = both(x.astype(float), linear_weight.astype(float), problem[3], linear_bias=linear_bias.astype(float), l2=0.1)
    u = 2.0 ** -{"float32": 22, "float16": 10, "bfloat16": 7}[name]
    assert value.dtype == dtype
    assert float(value) == pytest.approx(float(wide[0]), rel=u)
    for ours, exact in zip(gradients, wide[1], strict=True):
        assert ours.dtype == dtype
        # Products in float32, then one rounding.
        np.testing.assert_allclose(ours.astype(float), exact, rtol=u, atol=2e-6)


def test_dtypes_are_promoted_and_gradients_keep_their_own(problem):
    x, linear_weight, linear_bias, y = problem
    value, gradients = both(
        x.astype(np.float32), linear_weight.astype(np.float16), y, linear_bias=linear_bias.astype(np.float64)
    )
    assert value.dtype == np.float64
    assert [gradient.dtype.name for gradient in gradients] == ["float32", "float16", "float64"]
    value, gradients = both((x * 9).astype(np.uint8), linear_weight, y)
    assert value.dtype == gradients.x.dtype == np.float64
    big_endian = both(x.astype(">f8"), linear_weight.astype(">f8"), y)
    assert_same((big_endian[0], big_endian[1][:2]), (lambda v, g: (v, g[:2]))(*both(x, linear_weight, y)), rtol=1e-15)


def test_inputs_are_only_read(problem):
    for array in problem:
        array.flags.writeable = False
    x, linear_weight, linear_bias, y = problem
    strided = np.repeat(x, 2, axis=1)[:, ::2]
    options = {"linear_bias": linear_bias, "l2": 0.1}
    assert_same(
        both(strided, np.asfortranarray(linear_weight), y, **options), both(x, linear_weight, y, **options), 1e-14
    )


def test_memory_is_one_block():
    """40,000 x 2,500 logits would be 400 MB; a block of 4,096 rows is 41 MB, and nothing else is as large."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((40_000, 4), dtype=np.float32), rng.integers(0, 2500, 40_000)
    linear_weight = rng.standard_normal((2500, 4), dtype=np.float32)
    softhead.linear_cross_entropy_value_and_grad(x[:2], linear_weight, y[:2])  # loads what is compiled
    tracemalloc.start()
    try:
        softhead.linear_cross_entropy_value_and_grad(x, linear_weight, y)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 45e6


@pytest.mark.parametrize("function", [softhead.linear_cross_entropy, softhead.linear_cross_entropy_value_and_grad])
class TestErrors:
    def test_shapes(self, problem, function):
        x, linear_weight, _, y = problem
        with pytest.raises(ValueError, match=r"x has shape \(30, 4\); with linear_weight of shape \(4, 5\)"):
            function(x[:, :4], linear_weight, y)
        with pytest.raises(ValueError, match=r"linear_weight has shape \(5,\); it must have two axes"):
            function(x, linear_weight[0], y)
        with pytest.raises(ValueError, match=r"linear_bias has shape \(5,\)"):
            function(x, linear_weight, y, linear_bias=np.zeros(5))
        with pytest.raises(ValueError, match=r"targets has shape \(29,\)"):
            function(x, linear_weight, y[1:])

    def test_penalty(self, problem, function):
        x, linear_weight, _, y = problem
        with pytest.raises(ValueError, match="with reduction='none'; the penalty is no row's"):
            function(x, linear_weight, y, l2=0.1, reduction="none")
        with pytest.raises(ValueError, match=r"l2=-1\.0; it must be a finite number not below 0"):
            function(x, linear_weight, y, l2=-1.0)

    def test_dtypes(self, problem, function):
        x, linear_weight, _, y = problem
        with pytest.raises(TypeError, match="x has dtype complex128"):
            function(x.astype(complex), linear_weight, y)
        with pytest.raises(TypeError, match="linear_weight has dtype object"):
            function(x, linear_weight.astype(object), y)


def test_hessian_does_not_read_the_tangent_of_an_ignored_row():
    rng = np.random.default_rng(0)
    x, weight, labels = rng.standard_normal((3, 4)), rng.standard_normal((5, 4)), [1, -100, 4]
    moves = rng.standard_normal((3, 4))
    spoilt = np.where([[False], [True], [False]], np.nan, moves)
    answers = [
        softhead.linear_cross_entropy_hvp(x, weight, labels, softhead.LinearGradients(t, weight, None))
        for t in (moves, spoilt)
    ]
    assert np.array_equal(answers[0].linear_weight, answers[1].linear_weight)
    assert np.array_equal(answers[0].x, answers[1].x)


def test_arguments_that_do_not_go_together_are_named():
    with pytest.raises(TypeError, match=r"^tangent is a tuple; it must be a LinearGradients$"):
        softhead.linear_cross_entropy_hvp(np.ones((1, 2)), np.ones((3, 2)), [0], (None, np.ones((3, 2)), None))
    with pytest.raises(TypeError, match=r"^x has dtype float16, linear_weight bfloat16 and .*; NumPy has no dtype for"):
        softhead.linear_cross_entropy(np.ones((1, 2), np.float16), np.ones((3, 2), ml_dtypes.bfloat16), [0])
