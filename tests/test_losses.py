"""cross_entropy and its gradient: options, reductions, equivalences and derivatives."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import softhead
from softhead.kernels import reference


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def logits(rng):
    return rng.standard_normal((6, 5)) * 2


LABELS = np.array([0, 3, 4, 1, 1, 2])
WEIGHT = np.array([0.5, 1.0, 0.0, 2.5, 1.5])
OPTIONS = {"weight": WEIGHT, "label_smoothing": 0.2, "temperature": 0.7, "z_loss": 0.1}


def both(*args, **options):
    """Return value and gradient, having held the value against `cross_entropy`."""
    value, gradient = softhead.cross_entropy_value_and_grad(*args, **options)
    value_only = softhead.cross_entropy(*args, **options)
    assert value.dtype == value_only.dtype
    np.testing.assert_array_equal(np.asarray(value, float), np.asarray(value_only, float))
    return value, gradient


def assert_same(first, second, rtol=1e-13):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-15)


def test_is_the_negative_log_likelihood(logits):
    value, gradient = both(logits, LABELS, reduction="none")
    np.testing.assert_allclose(value, -softhead.log_softmax(logits)[np.arange(6), LABELS], rtol=1e-15)
    np.testing.assert_allclose(gradient, softhead.softmax(logits) - np.eye(5)[LABELS], rtol=1e-13)


@pytest.mark.parametrize("gap", [17.0, 40.0, 100.0, 700.0])
def test_confident_rows_have_exact_tiny_losses_and_gradients(gap):
    expected = np.exp(-gap)  # log1p(r) and r / (1 + r) up to r^2, far below rounding from gap 40 on
    value, gradient = both([gap, 0.0], 0)
    assert value == pytest.approx(np.log1p(expected), rel=1e-15)
    np.testing.assert_allclose(gradient, np.array([-1, 1]) * expected / (1 + expected), rtol=1e-15)
    if gap < 80:
        value, gradient = both(np.float32([gap, 0.0]), 0)
        np.testing.assert_array_max_ulp(value, np.float32(np.log1p(expected)), 1)
        np.testing.assert_array_max_ulp(gradient, np.float32([-1, 1]) * np.float32(expected / (1 + expected)), 1)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reductions_with_every_option(logits, reduction):
    q = reference.smooth(reference.target_distribution(LABELS, 5), 0.2)
    losses = reference.cross_entropy(logits, q, 0.7, 0.1, WEIGHT).astype(float)
    gradient = reference.cross_entropy_gradient(logits, q, 0.7, 0.1, WEIGHT).astype(float)
    expected = {
        "mean": (losses.sum() / WEIGHT[LABELS].sum(), gradient / WEIGHT[LABELS].sum()),
        "sum": (losses.sum(), gradient),
        "none": (losses, gradient),
    }[reduction]
    assert_same(both(logits, LABELS, **OPTIONS, reduction=reduction), expected)


def test_mean_over_probabilities_divides_by_the_rows(logits, rng):
    q = rng.random((6, 5))
    total, gradient = both(logits, q, **OPTIONS, reduction="sum")
    assert_same(both(logits, q, **OPTIONS), (total / 6, gradient / 6))


@pytest.mark.parametrize("options", [{}, {"temperature": 3.0}, OPTIONS])
def test_integer_targets_equal_one_hot(logits, options):
    options = options | {"reduction": "none"}
    assert_same(both(logits, LABELS, **options), both(logits, np.eye(5)[LABELS], **options))
    assert_same(both(logits, LABELS, **options), both(logits, np.eye(5, dtype=bool)[LABELS], **options))


def test_smoothing_is_mixed_targets(logits):
    mixed = 0.7 * np.eye(5)[LABELS] + 0.3 / 5
    assert_same(both(logits, LABELS, label_smoothing=0.3), both(logits, mixed))
    uniform = np.full((6, 5), 0.2)
    assert_same(both(logits, LABELS, label_smoothing=1.0), both(logits, uniform))


def test_axis_is_moveaxis(rng):
    logits, labels = rng.standard_normal((3, 5, 2, 4)), rng.integers(0, 5, (3, 2, 4))
    q = rng.dirichlet(np.ones(5), (3, 2, 4))
    moved = np.moveaxis(logits, 1, -1).copy()
    for reduction in ("mean", "none"):
        options = OPTIONS | {"reduction": reduction}
        value, gradient = both(moved, labels, **options)
        assert_same(both(logits, labels, axis=1, **options), (value, np.moveaxis(gradient, -1, 1)), rtol=0)
        value, gradient = both(moved, q, **options)
        assert_same(both(logits, np.moveaxis(q, -1, 1), axis=-3, **options), (value, np.moveaxis(gradient, -1, 1)), 0)


def test_one_row_without_a_batch(logits):
    for i in range(6):
        value, gradient = both(logits[i], LABELS[i], reduction="none")
        whole = both(logits, LABELS, reduction="none")
        assert isinstance(value, np.float64)
        assert value == whole[0][i]
        np.testing.assert_array_equal(gradient, whole[1][i])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("ignore_index", [-100, 3, 17])
def test_ignoring_is_subsetting(logits, reduction, ignore_index):
    labels = np.where(np.array([0, 1, 0, 1, 0, 0], bool), ignore_index, np.where(LABELS == 3, 0, LABELS))
    kept = labels != ignore_index
    logits[~kept, 2] = np.nan
    options = OPTIONS | {"reduction": reduction, "ignore_index": ignore_index}
    value, gradient = both(logits, labels, **options)
    assert_same((value, gradient[kept]), both(logits[kept], labels[kept], **options))
    np.testing.assert_array_equal(gradient[~kept], 0.0)


def test_whole_weights_are_repetitions(logits):
    weight = np.array([1.0, 3.0, 0.0, 2.0, 1.0])
    repeats = weight[LABELS].astype(int)
    value, gradient = both(logits, LABELS, weight=weight)
    again = both(np.repeat(logits, repeats, axis=0), np.repeat(LABELS, repeats))
    assert value == pytest.approx(again[0], rel=1e-14)
    summed = np.zeros_like(logits)
    np.add.at(summed, np.repeat(np.arange(6), repeats), again[1])
    np.testing.assert_allclose(gradient, summed, rtol=1e-13)


@pytest.mark.parametrize("targets", ["labels", "probabilities"])
def test_gradient_is_the_derivative(logits, rng, targets):
    targets = LABELS if targets == "labels" else rng.random((6, 5))
    _, gradient = both(logits, targets, **OPTIONS)
    step = 1e-5
    for i, j in np.ndindex(6, 5):
        change = np.zeros((6, 5))
        change[i, j] = step
        ahead = softhead.cross_entropy(logits + change, targets, **OPTIONS)
        behind = softhead.cross_entropy(logits - change, targets, **OPTIONS)
        assert (ahead - behind) / (2 * step) == pytest.approx(gradient[i, j], abs=1e-9)


@pytest.mark.parametrize("targets", ["labels", "probabilities"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_hvp_is_the_derivative_of_the_gradient(logits, rng, targets, reduction):
    targets = np.where(LABELS == 4, -100, LABELS) if targets == "labels" else rng.random((6, 5))
    tangent, step = rng.standard_normal((6, 5)), 1e-5
    options = OPTIONS | {"reduction": reduction}
    product = softhead.cross_entropy_hvp(logits, targets, tangent, **options)
    _, ahead = both(logits + step * tangent, targets, **options)
    _, behind = both(logits - step * tangent, targets, **options)
    np.testing.assert_allclose((ahead - behind) / (2 * step), product, atol=1e-8)


def test_hvp_laws(logits, rng):
    """Linear in the tangent, symmetric, never negative, zero for a common shift, and softmax_jvp without options."""
    s, t = rng.standard_normal((2, 6, 5))

    def hvp(tangent, **options):
        return softhead.cross_entropy_hvp(logits, LABELS, tangent, reduction="none", **options)

    np.testing.assert_allclose(hvp(s + 2 * t, **OPTIONS), hvp(s, **OPTIONS) + 2 * hvp(t, **OPTIONS), rtol=1e-12)
    np.testing.assert_allclose((s * hvp(t, **OPTIONS)).sum(), (t * hvp(s, **OPTIONS)).sum(), rtol=1e-12)
    assert (t * hvp(t)).sum() > 0
    np.testing.assert_allclose(hvp(np.ones((6, 5))), 0.0, atol=1e-15)
    np.testing.assert_allclose(hvp(t), softhead.softmax_jvp(softhead.softmax(logits), t), rtol=1e-11)


def test_hvp_axis_dtype_and_errors(logits, rng):
    tangent = rng.standard_normal((6, 5))
    expected = softhead.cross_entropy_hvp(logits, LABELS, tangent)
    np.testing.assert_array_equal(softhead.cross_entropy_hvp(logits.T, LABELS, tangent.T, axis=0), expected.T)
    narrow = softhead.cross_entropy_hvp(logits.astype(np.float32), LABELS, tangent)
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, expected, rtol=1e-4, atol=1e-7)
    spoiled = np.where(np.arange(6)[:, np.newaxis] == 2, np.nan, logits)
    ignored = softhead.cross_entropy_hvp(spoiled, np.where(np.arange(6) == 2, -100, LABELS), tangent)
    np.testing.assert_array_equal(ignored[2], 0.0)
    assert np.isfinite(ignored).all()
    with pytest.raises(ValueError, match=r"tangent has shape \(5,\); it must have the shape of logits, \(6, 5\)"):
        softhead.cross_entropy_hvp(logits, LABELS, tangent[0])


def test_targets_that_do_not_sum_to_one(logits, rng):
    q = rng.random((6, 5)) * 3
    p = softhead.softmax(logits)
    expected = -(q * np.log(p)).sum(axis=1), p * q.sum(axis=1, keepdims=True) - q
    assert_same(both(logits, q, reduction="none"), expected)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64", "int32", "bool", ">f4"])
def test_result_dtypes(logits, name):
    dtype = np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)
    x = (logits > 0).astype(dtype) if name == "bool" else logits.astype(dtype)
    expected = np.dtype(np.float64) if dtype.kind in "ib" else dtype.newbyteorder("=")
    for reduction in ("mean", "none"):
        value, gradient = both(x, LABELS, reduction=reduction)
        assert value.dtype == gradient.dtype == expected
        wide = both(x.astype(np.float64), LABELS, reduction=reduction)
        if expected == np.float32:  # computed as such, not rounded from a wider result
            np.testing.assert_array_max_ulp(value, wide[0].astype(expected), 4)
            np.testing.assert_array_max_ulp(gradient, wide[1].astype(expected), 4)
        else:
            np.testing.assert_array_equal(value, wide[0].astype(expected))
            np.testing.assert_array_equal(gradient, wide[1].astype(expected))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64, bool, ">i4"])
def test_label_dtypes(logits, dtype):
    labels = LABELS % 2
    np.testing.assert_array_equal(
        softhead.cross_entropy(logits, labels.astype(dtype)), softhead.cross_entropy(logits, labels)
    )


def test_a_float16_sum_beyond_its_range_is_infinite(logits):
    many = np.zeros((20_000, 100), np.float16)
    labels = np.zeros(20_000, int)
    assert softhead.cross_entropy(many, labels, reduction="sum") == np.inf
    assert softhead.cross_entropy(many, labels) == np.float16(np.log(100))


class TestErrors:
    def test_shapes(self, logits):
        with pytest.raises(
            ValueError, match=r"targets has shape \(5,\); .* classes have shape \(6,\) and prob.* \(6, 5\)"
        ):
            softhead.cross_entropy(logits, np.zeros(5, int))
        with pytest.raises(ValueError, match="needs an axis of classes"):
            softhead.cross_entropy(1.0, 0)
        with pytest.raises(np.exceptions.AxisError):
            softhead.cross_entropy(logits, LABELS, axis=2)
        with pytest.raises(ValueError, match=r"weight has shape \(4,\); with 5 classes"):
            softhead.cross_entropy(logits, LABELS, weight=np.ones(4))

    def test_float_labels_are_refused(self, logits):
        with pytest.raises(TypeError, match="targets has dtype float64 and the shape of class labels"):
            softhead.cross_entropy(logits, LABELS.astype(float))

    @pytest.mark.parametrize("reduction", ["average", None, ""])
    def test_reduction(self, logits, reduction):
        with pytest.raises(ValueError, match="it must be one of 'mean', 'sum', 'none'"):
            softhead.cross_entropy(logits, LABELS, reduction=reduction)

    @pytest.mark.parametrize(("name", "value"), [("temperature", "1"), ("z_loss", None), ("label_smoothing", [0.1])])
    def test_numbers(self, logits, name, value):
        with pytest.raises(TypeError, match=f"{name} is a .*; it must be a real number"):
            softhead.cross_entropy(logits, LABELS, **{name: value})

    def test_ignore_index(self, logits):
        with pytest.raises(TypeError, match="ignore_index is a float; it must be an integer"):
            softhead.cross_entropy(logits, LABELS, ignore_index=1.0)

    @pytest.mark.parametrize("z_loss", [-1e-4, np.inf, np.nan])
    def test_z_loss(self, logits, z_loss):
        with pytest.raises(ValueError, match=r"z_loss=.*; it must be a finite number not below 0"):
            softhead.cross_entropy(logits, LABELS, z_loss=z_loss)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 8),
    st.integers(1, 6),
    st.sampled_from([np.float16, np.float32, np.float64, ">f8", ml_dtypes.bfloat16]),
    st.sampled_from(["mean", "sum", "none"]),
    st.booleans(),
    st.booleans(),
    st.floats(0, 1),
    st.floats(0.25, 4),
    st.integers(0, 2**32),
)
def test_any_problem_agrees_with_the_definitions(n, c, dtype, reduction, soft, ignore, smoothing, temperature, seed):
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((c, n)) * 5).astype(dtype).T
    logits.flags.writeable = False
    labels = rng.integers(0, c, n)
    kept = rng.random(n) < 0.7 if ignore and not soft else np.ones(n, bool)
    q = rng.dirichlet(np.ones(c), n) if soft else np.eye(c)[labels]
    weight = rng.uniform(0.1, 2, c)
    options = {"weight": weight, "label_smoothing": smoothing, "temperature": temperature, "z_loss": 0.01}
    targets = q if soft else np.where(kept, labels, -100)
    value, gradient = both(logits, targets, **options, reduction=reduction)
    smoothed = reference.smooth(q, smoothing)
    losses = np.where(kept, reference.cross_entropy(logits, smoothed, temperature, 0.01, weight), 0).astype(float)
    expected = reference.cross_entropy_gradient(logits, smoothed, temperature, 0.01, weight).astype(float)
    expected[~kept] = 0
    if reduction == "mean":
        denominator = n if soft else weight[labels[kept]].sum()
        losses = losses.sum() / denominator if kept.any() else np.nan
        expected = expected / denominator if kept.any() else expected
    elif reduction == "sum":
        losses = losses.sum()
    rtol = {2: 2.0**-7, 4: 2.0**-22, 8: 1e-12}[np.dtype(dtype).itemsize]
    np.testing.assert_allclose(np.asarray(value, float), losses, rtol=rtol, atol=1e-7 if rtol > 1e-3 else 1e-14)
    np.testing.assert_allclose(gradient.astype(float), expected, rtol=rtol, atol=rtol * np.abs(weight).max() * 4)
