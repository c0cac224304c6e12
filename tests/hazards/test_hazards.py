"""What every function does where the arithmetic has no ordinary answer: one test a row of the table of hazards."""

import ml_dtypes
import numpy as np
import pytest

import softhead

NAN, INF = np.nan, np.inf
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
ORDINARY = [0.5, -1.0, 2.0]

each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_reduction = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])


def value_and_grad(logits, targets, **options):
    """Return value and gradient as float64, having held the value against `cross_entropy`."""
    value, gradient = softhead.cross_entropy_value_and_grad(logits, targets, **options)
    value = np.asarray(value, float)  # numpy's tests do not know that NaN equals NaN in bfloat16
    np.testing.assert_array_equal(value, np.asarray(softhead.cross_entropy(logits, targets, **options), float))
    return value, gradient.astype(float)


@each_dtype
@pytest.mark.parametrize("bad", [NAN, -NAN, INF])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_row_with_nan_or_inf_is_nan_and_no_other(bad, position, dtype):
    spoiled = np.array(ORDINARY)
    spoiled[position] = bad
    x = np.array([ORDINARY, spoiled, ORDINARY], dtype)
    for function in (softhead.softmax, softhead.log_softmax):
        result = function(x).astype(float)
        assert np.isnan(result[1]).all()
        np.testing.assert_array_equal(result[[0, 2]], np.tile(function(x[:1]).astype(float), (2, 1)))
    lse = softhead.logsumexp(x).astype(float)
    np.testing.assert_array_equal(lse[1], INF if bad == INF else NAN)
    np.testing.assert_array_equal(lse[[0, 2]], softhead.logsumexp(x[0]).astype(float))
    for targets in (np.array([0, 1, 2]), np.eye(3)):
        value, gradient = value_and_grad(x, targets, reduction="none")
        np.testing.assert_array_equal(np.isnan(value), [False, True, False])
        np.testing.assert_array_equal(np.isnan(gradient).any(axis=1), [False, True, False])
        assert np.isnan(gradient[1]).all()


@each_dtype
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_one_class_that_is_not_finite(bad, dtype):
    x = np.array([[bad]], dtype)
    assert np.isnan(softhead.softmax(x).astype(float)).all()
    assert np.isnan(softhead.log_softmax(x).astype(float)).all()
    np.testing.assert_array_equal(softhead.logsumexp(x).astype(float), [bad])
    value, gradient = value_and_grad(x, [0])
    assert np.isnan(value)
    assert np.isnan(gradient).all()


@each_dtype
def test_all_minus_inf(dtype):
    x = np.full((2, 3), -INF, dtype)
    assert np.isnan(softhead.softmax(x).astype(float)).all()
    assert np.isnan(softhead.log_softmax(x).astype(float)).all()
    np.testing.assert_array_equal(softhead.logsumexp(x).astype(float), [-INF, -INF])
    value, gradient = value_and_grad(x, [0, 1], reduction="none")
    assert np.isnan(value).all()
    assert np.isnan(gradient).all()


@each_dtype
def test_a_fully_masked_row_is_zero(dtype):
    x = np.array([[NAN, INF, 1.0], ORDINARY], dtype)
    mask = np.array([[False] * 3, [True] * 3])
    p = softhead.softmax(x, where=mask).astype(float)
    np.testing.assert_array_equal(p, [[0, 0, 0], softhead.softmax(x[1]).astype(float)])
    np.testing.assert_array_equal(softhead.log_softmax(x, where=mask)[0].astype(float), [-INF] * 3)
    assert float(softhead.logsumexp(x, where=mask)[0]) == -INF


@each_dtype
@pytest.mark.parametrize("n_classes", [4, 24, 25, 200, 1500])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_table_in_rows_of_any_length(temperature, n_classes, dtype):
    """Few classes, many classes, and temperatures each have loops of their own."""

    def rounded(value):
        return np.float64(value).astype(dtype).astype(float)

    x = np.zeros((6, n_classes), dtype)
    x[0, -1], x[1, 2], x[2], x[3, 0], x[4] = NAN, INF, -INF, -INF, NAN
    others = (np.arange(n_classes) > 0) / (n_classes - 1)
    p = softhead.softmax(x, temperature=temperature).astype(float)
    assert np.isnan(p[[0, 1, 2, 4]]).all()
    np.testing.assert_array_equal(p[3], rounded(others))
    np.testing.assert_array_equal(p[5], rounded(1 / n_classes))
    log_p = softhead.log_softmax(x, temperature=temperature).astype(float)
    assert np.isnan(log_p[[0, 1, 2, 4]]).all()
    assert log_p[3, 0] == -INF
    np.testing.assert_allclose(log_p[3, 1:], rounded(-np.log(n_classes - 1)), rtol=1e-7)
    lse = softhead.logsumexp(x).astype(float)
    finite = [rounded(np.log(n_classes - 1)), NAN, rounded(np.log(n_classes))]
    np.testing.assert_allclose(lse, [NAN, INF, -INF, *finite], rtol=1e-7)

    labels = np.array([1, 1, 1, 1, -100, 2])
    one_hot = np.eye(n_classes)[np.maximum(labels, 0)]
    for options in ({}, {"label_smoothing": 0.25}, {"z_loss": 0.5}, {"weight": np.linspace(1, 2, n_classes)}):
        options = options | {"temperature": temperature, "reduction": "none"}
        value, gradient = value_and_grad(x, labels, **options)
        np.testing.assert_array_equal(np.isnan(value), [True] * 3 + [False] * 3)
        assert (value[3] == INF) == ("label_smoothing" in options)  # what is spread reaches the class at -inf
        assert value[4] == 0.0
        assert np.isnan(gradient[:3]).all()
        np.testing.assert_array_equal(gradient[4], 0.0)
        assert np.isfinite(gradient[[3, 5]]).all()
        if "label_smoothing" not in options:
            assert gradient[3, 0] == 0.0
    value, gradient = value_and_grad(x, labels, temperature=temperature, reduction="none")
    assert value[5] == pytest.approx(rounded(np.log(n_classes)), rel=1e-7)
    np.testing.assert_allclose(gradient[3], (others - one_hot[3]) / temperature, rtol=1e-2)
    value, gradient = value_and_grad(x[3:], 2.0 * one_hot[3:], temperature=temperature, reduction="none")
    assert value[0] == pytest.approx(rounded(2 * np.log(n_classes - 1)), rel=1e-7)  # 0 at -inf contributes nothing
    assert np.isnan(value[1])
    np.testing.assert_allclose(gradient[0], 2 * (others - one_hot[3]) / temperature, rtol=1e-2)
    assert value_and_grad(x[3], 0, temperature=temperature)[0] == INF
    for reduction, expected in [("mean", NAN), ("sum", 0.0)]:
        value, gradient = value_and_grad(x[4:5], [-100], temperature=temperature, reduction=reduction)
        np.testing.assert_array_equal(value, expected)
        np.testing.assert_array_equal(gradient, 0.0)


def test_masked_entries_are_zero_also_in_a_row_that_is_nan():
    p = softhead.softmax([NAN, 1.0, -INF], where=[True, True, False])
    np.testing.assert_array_equal(p, [NAN, NAN, 0.0])
    p = softhead.softmax([-INF, -INF, 2.0], where=[True, True, False])
    np.testing.assert_array_equal(p, [NAN, NAN, 0.0])


@each_dtype
def test_minus_inf_beside_finite_logits_is_probability_zero(dtype):
    x = np.array([-INF, 1.0, 1.0], dtype)
    np.testing.assert_array_equal(softhead.softmax(x).astype(float), [0, 0.5, 0.5])
    np.testing.assert_array_equal(softhead.log_softmax(x)[0].astype(float), -INF)
    value, gradient = value_and_grad(x, 1)
    assert value == np.log(2.0).astype(dtype).astype(float)
    np.testing.assert_array_equal(gradient, [0, -0.5, 0.5])
    value, gradient = value_and_grad(x, 0)
    assert value == INF
    np.testing.assert_array_equal(gradient, [-1, 0.5, 0.5])


@each_dtype
@each_reduction
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_an_ignored_row_is_not_read(bad, reduction, dtype):
    x = np.array([ORDINARY, [bad] * 3, [bad, 0, NAN]], dtype)
    options = {"label_smoothing": 0.1, "z_loss": 0.1, "temperature": 0.5, "reduction": reduction}
    value, gradient = value_and_grad(x, [1, -100, -100], **options)
    alone, gradient_alone = value_and_grad(x[:1], [1], **options)
    np.testing.assert_array_equal(gradient, [gradient_alone[0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(value, [alone[0], 0, 0] if reduction == "none" else alone)


@each_dtype
@pytest.mark.parametrize(("reduction", "expected"), [("mean", NAN), ("sum", 0.0), ("none", [0.0, 0.0])])
def test_all_rows_ignored(reduction, expected, dtype):
    x = np.array([ORDINARY, [NAN] * 3], dtype)
    value, gradient = value_and_grad(x, [-100, -100], reduction=reduction)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


@each_dtype
def test_target_probability_zero_at_logit_minus_inf_contributes_nothing(dtype):
    x = np.array([-INF, 0.0, 0.0], dtype)
    value, gradient = value_and_grad(x, [0.0, 0.5, 0.5])
    assert value == np.log(2.0).astype(dtype).astype(float)
    np.testing.assert_array_equal(gradient, [0, 0, 0])
    value, _ = value_and_grad(x, [0.5, 0.5, 0.0])
    assert value == INF
    value, _ = value_and_grad(x, [0.5, 0.5, 0.0], weight=[0.0, 1.0, 1.0])
    assert value == (0.5 * np.log(2.0)).astype(dtype).astype(float)


def test_targets_that_do_not_sum_to_one():
    value, gradient = value_and_grad([0.0, 0.0], [2.0, 1.0])
    assert value == pytest.approx(3 * np.log(2), rel=1e-15)
    np.testing.assert_array_equal(gradient, [-0.5, 0.5])
    value, gradient = value_and_grad([0.0, 0.0], [0.0, 0.0])
    assert value == 0.0
    np.testing.assert_array_equal(gradient, [0, 0])


@pytest.mark.parametrize("bad", [-1e-300, NAN, INF, -INF])
def test_probabilities_that_are_negative_or_not_finite(bad):
    q = np.full((2, 3), 1 / 3)
    q[1, 2] = bad
    with pytest.raises(ValueError, match=r"targets\[1, 2\] is .*; probabilities must be finite and not negative"):
        softhead.cross_entropy(np.zeros((2, 3)), q)


@pytest.mark.parametrize("bad", [3, -1, -101, 2**40])
def test_a_label_outside_names_the_first(bad):
    labels = np.zeros((2, 4), np.int64)
    labels[1, 1:] = bad
    with pytest.raises(IndexError, match=rf"targets\[1, 1\] is {bad}; labels lie in \[0, 3\)"):
        softhead.cross_entropy(np.zeros((2, 4, 3)), labels)
    with pytest.raises(IndexError, match=rf"targets is {bad}; labels lie in"):
        softhead.cross_entropy_value_and_grad(np.zeros(3), bad)
    with pytest.raises(IndexError, match=rf"targets\[5\] is {bad}"):
        softhead.linear_cross_entropy(np.zeros((8, 2)), np.zeros((3, 2)), labels.reshape(-1))


def test_unsigned_labels_do_not_wrap_around():
    with pytest.raises(IndexError, match=f"targets is {2**64 - 100}"):
        softhead.cross_entropy(np.zeros(3), np.uint64(2**64 - 100))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": -0.1}, r"label_smoothing=-0.1; it must lie in \[0, 1\]"),
        ({"label_smoothing": 1.1}, r"label_smoothing=1.1; it must lie in \[0, 1\]"),
        ({"label_smoothing": NAN}, r"label_smoothing=nan; it must lie in \[0, 1\]"),
        ({"temperature": 0.0}, "temperature=0.0; it must be a finite number above 0"),
        ({"temperature": -1.0}, "temperature=-1.0; it must be a finite number above 0"),
        ({"temperature": NAN}, "temperature=nan; it must be a finite number above 0"),
        ({"temperature": INF}, "temperature=inf; it must be a finite number above 0"),
        ({"weight": [1.0, -0.5, 1.0]}, r"weight\[1\] is -0.5; weights must be finite and not negative"),
        ({"weight": [1.0, 1.0, NAN]}, r"weight\[2\] is nan; weights must be finite and not negative"),
        ({"weight": [INF, 1.0, 1.0]}, r"weight\[0\] is inf; weights must be finite and not negative"),
        ({"weight": [0.0, 0.0, 0.0]}, "weight is all zeros; at least one class must have a positive weight"),
    ],
)
def test_options_outside_their_range(options, message):
    with pytest.raises(ValueError, match=message):
        softhead.cross_entropy(np.zeros((2, 3)), [0, 1], **options)
    with pytest.raises(ValueError, match=message):
        softhead.linear_cross_entropy_value_and_grad(np.zeros((2, 1)), np.zeros((3, 1)), [0, 1], **options)
    if "temperature" in options:
        with pytest.raises(ValueError, match=message):
            softhead.softmax(np.zeros(3), **options)


@pytest.mark.parametrize(
    "x",
    [
        np.array([1, 2], object),
        np.array([1j, 2]),
        np.array(["1", "2"]),
        [None, 1.0],
        np.array(["2020-01-01"], "M8[D]"),
        np.zeros(2, ml_dtypes.float8_e4m3fn),
    ],
    ids=lambda x: str(np.asarray(x).dtype),
)
def test_dtypes_that_are_no_real_numbers(x):
    for function in (softhead.softmax, softhead.log_softmax, softhead.logsumexp):
        with pytest.raises(TypeError, match=r"x has dtype .*; accepted are integers, booleans or float16, bfloat16"):
            function(x)
    with pytest.raises(TypeError, match="logits has dtype"):
        softhead.cross_entropy(x, 0)
    with pytest.raises(TypeError, match="targets has dtype"):
        softhead.cross_entropy(np.zeros(len(x)), x)
    with pytest.raises(TypeError, match="weight has dtype"):
        softhead.cross_entropy(np.zeros(len(x)), 0, weight=x)


@each_dtype
def test_empty(dtype):
    for shape, axis in [((0,), -1), ((0, 3), -1), ((3, 0), -1), ((3, 0), 0), ((2, 0, 4), (0, 2)), ((0, 0), None)]:
        x = np.zeros(shape, dtype)
        assert softhead.softmax(x, axis=axis).shape == shape
        assert softhead.log_softmax(x, axis=axis).shape == shape
    np.testing.assert_array_equal(softhead.logsumexp(np.zeros((3, 0), dtype)).astype(float), [-INF] * 3)
    assert softhead.logsumexp(np.zeros((0, 3), dtype)).shape == (0,)
    assert softhead.logsumexp(np.zeros((0, 3), dtype), axis=None, keepdims=True).shape == (1, 1)


@pytest.mark.parametrize(("reduction", "expected"), [("mean", NAN), ("sum", 0.0), ("none", [])])
def test_zero_rows(reduction, expected):
    for targets in (np.zeros(0, int), np.zeros((0, 3))):
        value, gradient = value_and_grad(np.zeros((0, 3)), targets, reduction=reduction)
        np.testing.assert_array_equal(value, expected)
        assert gradient.shape == (0, 3)


def test_zero_classes():
    with pytest.raises(IndexError, match=r"targets\[0\] is 0; labels lie in \[0, 0\)"):
        softhead.cross_entropy(np.zeros((2, 0)), [0, 0])
    value, gradient = value_and_grad(np.zeros((2, 0)), [-100, -100], reduction="sum")
    assert value == 0.0
    assert gradient.shape == (2, 0)
    assert value_and_grad(np.zeros((2, 0)), np.zeros((2, 0)))[0] == 0.0


@each_dtype
def test_one_class(dtype):
    x = np.array([[3.0], [-4.0]], dtype)
    np.testing.assert_array_equal(softhead.softmax(x).astype(float), 1.0)
    np.testing.assert_array_equal(softhead.log_softmax(x).astype(float), 0.0)
    np.testing.assert_array_equal(softhead.logsumexp(x).astype(float), [3.0, -4.0])
    value, gradient = value_and_grad(x, [0, 0])
    assert value == 0.0
    np.testing.assert_array_equal(gradient, [[0.0], [0.0]])


def test_huge_gaps_have_exact_answers():
    largest = np.finfo(np.float64).max
    np.testing.assert_array_equal(softhead.softmax([largest, -largest]), [1.0, 0.0])
    np.testing.assert_array_equal(softhead.log_softmax([largest / 2, -largest / 2]), [0.0, -largest])
    np.testing.assert_array_equal(softhead.log_softmax([largest, -largest]), [0.0, -INF])
    np.testing.assert_array_equal(softhead.log_softmax([largest, -largest], temperature=4.0), [0.0, -largest / 2])
    assert softhead.cross_entropy([1e4, 0.0], 1) == 1e4
    assert softhead.cross_entropy([1e4, 0.0], 0) == 0.0


def test_inputs_are_never_written():
    x = np.random.default_rng(0).standard_normal((4, 3))
    labels, q, weight = np.array([0, 1, 2, -100]), np.full((4, 3), 0.25), np.ones(3)
    mask = x > -1
    originals = [array.copy() for array in (x, labels, q, weight, mask)]
    for array in (x, labels, q, weight, mask):
        array.flags.writeable = False
    softhead.softmax(x, where=mask, axis=0)
    softhead.log_softmax(x)
    softhead.logsumexp(x)
    softhead.cross_entropy_value_and_grad(x, labels, weight=weight, label_smoothing=0.1)
    softhead.cross_entropy_value_and_grad(x, q, weight=weight, label_smoothing=0.1)
    softhead.linear_cross_entropy_value_and_grad(x, x, labels, weight=np.ones(4), linear_bias=np.ones(4))
    for array, original in zip((x, labels, q, weight, mask), originals, strict=True):
        np.testing.assert_array_equal(array, original)
