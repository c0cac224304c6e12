"""The formulas for any array library: equal to the public functions for NumPy arrays, within stated bounds."""

import numpy as np
import pytest

import softhead
from softhead import generic
from softhead.generic import fused

strict = pytest.importorskip("array_api_strict")

# The dtype, the device, and how many units in the last place of the NumPy function's result are allowed: computed wider
# than the input, both round nearly the same number; in the input's own precision, both err by a few.
PLACES = {
    "float32 in float64": (np.float32, "device1", 1),
    "float32 alone": (np.float32, "no_float64", 8),
    "float64": (np.float64, "CPU_DEVICE", 8),
}
OPTIONS = {"label_smoothing": 0.2, "temperature": 0.7, "z_loss": 0.1, "weight": np.array([0.5, 1.0, 0.0, 2.5, 1.5])}
AXES = [-1, 0, 1, (0, 2), (2, -3), None]
LABELS = np.array([[0, 3, -100, 1], [1, 2, 4, -100], [4, 0, 1, 1]])


@pytest.fixture(autouse=True)
def _standard():
    """Nothing but the oldest edition of the standard that the formulas ask for."""
    with strict.ArrayAPIStrictFlags(api_version="2024.12"):
        yield


@pytest.fixture(params=PLACES)
def place(request):
    return PLACES[request.param]


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((3, 4, 5)) * 4


@pytest.fixture
def q():
    q = np.random.default_rng(1).dirichlet(np.ones(5), (3, 4))
    q[0, :2, 1] = 0.0
    return q


def on(device):
    """Return how to bring NumPy's arrays to a device of array-api-strict; all else stays as it is."""

    def bring(value):
        if not isinstance(value, np.ndarray):
            return value
        narrow = device == "no_float64" and value.dtype == np.float64
        return strict.asarray(value.astype(np.float32) if narrow else value, device=strict.Device(device))

    return bring


def parts(result):
    """Return the arrays of a result, however it is nested."""
    return [part for piece in result for part in parts(piece)] if isinstance(result, tuple) else [result]


def to_numpy(array):
    return np.asarray(array.to_device(strict.Device("CPU_DEVICE")))


def assert_equal_to_numpy(name, place, *arguments, scale=0.0, **options):
    """Hold a function against its NumPy namesake; scale is the size of the terms whose rounding errors count, too."""
    dtype, device, ulp = place
    arguments = [a.astype(dtype) if a.dtype == np.float64 else a for a in arguments]
    expected = parts(getattr(softhead, name)(*arguments, **options))
    bring = on(device)
    options = {key: bring(value) for key, value in options.items()}
    result = parts(getattr(generic, name)(*map(bring, arguments), **options))
    for ours, theirs in zip(result, expected, strict=True):
        if theirs is None:
            assert ours is None
            continue
        assert isinstance(ours, type(bring(np.zeros(1))))
        assert ours.device == strict.Device(device)
        assert ours.shape == theirs.shape
        ours = to_numpy(ours)
        assert ours.dtype == theirs.dtype == dtype
        finite = np.isfinite(theirs)
        np.testing.assert_array_equal(ours[~finite], theirs[~finite])
        error = np.abs(ours[finite].astype(float) - theirs[finite])
        # Where exponentials are subnormal, each may err by its own spacing.
        size = np.minimum(np.abs(theirs[finite]), np.finfo(dtype).max / 4)
        allowed = ulp * np.spacing(size).astype(float) + scale * ulp * np.finfo(dtype).eps
        assert (error <= allowed + 8 * np.finfo(dtype).smallest_subnormal).all()


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("masked", [False, True])
def test_maps(x, place, axis, masked):
    where = np.random.default_rng(2).random((4, 1)) < 0.7 if masked else None
    for temperature in (1.0, 0.7, 1e-3, 1e3):
        assert_equal_to_numpy("softmax", place, x, axis=axis, temperature=temperature, where=where)
        assert_equal_to_numpy("log_softmax", place, x, axis=axis, temperature=temperature, where=where)
    assert_equal_to_numpy("logsumexp", place, x, axis=axis, where=where, scale=10.0)
    assert_equal_to_numpy("logsumexp", place, x, axis=axis, where=where, scale=10.0, keepdims=True)


@pytest.mark.parametrize("axis", AXES)
def test_maps_without_options(x, place, axis):
    x[0, 0, 0], x[1] = x.max(), 0.0
    assert_equal_to_numpy("hardmax", place, x, axis=axis)
    assert_equal_to_numpy("entropy", place, x, axis=axis)
    for norm in ("l1", "l2", "max", "zscore"):
        assert_equal_to_numpy("normalize", place, x, axis=axis, norm=norm, scale=1.0)


@pytest.mark.parametrize("norm", ["l1", "l2", "max", "zscore"])
def test_normalizing_neither_overflows_nor_underflows(place, norm):
    limits = np.finfo(place[0])
    rows = np.array([[3.0, -4.0, 0.0, 1.0]]) * np.array([[limits.max / 4], [limits.smallest_normal], [1.0]])
    constant = np.array([[0.1, 0.1, 0.1, 0.1], [1e4, 1e4 + 1, 1e4 - 1, 1e4]])
    spoiled = np.array([[np.nan, 1.0, 2.0, 3.0], [np.inf, 1.0, 2.0, 3.0]])
    assert_equal_to_numpy("normalize", place, np.concatenate([rows, constant, spoiled]), norm=norm, scale=1.0)


def hazards(dtype):
    """Rows that go wrong in plain formulas."""
    largest, nan, inf = float(np.finfo(dtype).max), np.nan, np.inf
    return np.array(
        [
            [nan, 1.0, 2.0, 3.0],
            [1.0, 2.0, 3.0, nan],
            [inf, 1.0, 2.0, 3.0],
            [inf, inf, -inf, 0.0],
            [-inf, -inf, -inf, -inf],
            [-inf, 1.0, -inf, 1.0],
            [0.0, -inf, -inf, -inf],
            [largest, -largest, 0.0, largest / 2],
            [-largest, -largest, -largest, -largest],
            [1e4, 0.0, -1e4, 1e4 - 8],
            [40.0, 0.0, 1.0, -1.0],
            [80.0, 0.0, 0.0, -10.0],
            [700.0, 0.0, -40.0, 1.0],
            [1e8, 1e8 + 8, 1e8 - 16, 1e8],
            [0.1, -5.3, -11.7, -17.9],
            [2.0, 2.0, 2.0, 2.0],
        ]
    )


def test_hazards(place):
    rows = hazards(place[0])
    for temperature in (1.0, 0.3, 1e3, 1e30):
        assert_equal_to_numpy("softmax", place, rows, temperature=temperature)
        assert_equal_to_numpy("log_softmax", place, rows, temperature=temperature)
    for name in ("logsumexp", "hardmax", "entropy"):
        assert_equal_to_numpy(name, place, rows)
    for label in range(4):
        labels = np.full(len(rows), label)
        assert_equal_to_numpy("cross_entropy_value_and_grad", place, rows, labels, reduction="none")
        one_hot = np.eye(4)[labels]
        assert_equal_to_numpy("cross_entropy_value_and_grad", place, rows, one_hot, reduction="none")
        assert_equal_to_numpy("kl_divergence", place, rows, one_hot, reduction="none")
        assert_equal_to_numpy("nll_loss", place, rows, labels, reduction="none")
    np.testing.assert_array_equal(
        to_numpy(generic.softmax(on(place[1])(rows.astype(place[0])), where=on(place[1])(np.zeros(4, bool)))), 0.0
    )


@pytest.mark.parametrize("gap", [17.0, 40.0, 80.0])
def test_confident_rows_have_exact_tiny_losses_and_gradients(place, gap):
    dtype, device, _ = place
    value, gradient = generic.cross_entropy_value_and_grad(on(device)(np.array([gap, 0.0], dtype)), 0)
    np.testing.assert_allclose(to_numpy(value), np.exp(-gap), rtol=np.exp(-gap) + 2 * np.finfo(dtype).eps)
    np.testing.assert_allclose(
        to_numpy(gradient), np.array([-1, 1]) * np.exp(-gap), rtol=np.exp(-gap) + 2 * np.finfo(dtype).eps
    )


def test_a_small_largest_probability_does_not_cancel_in_the_gradient(place):
    rows = np.random.default_rng(8).standard_normal((2, 20_000)) / 100
    assert_equal_to_numpy("cross_entropy_value_and_grad", place, rows, np.array([0, 1]), reduction="none")


def test_a_common_offset_changes_nothing(place):
    rows = on(place[1])(np.array([[8.0, -16.0, 0.0, 40.0]], place[0]))
    np.testing.assert_array_equal(to_numpy(generic.softmax(rows + 1e8)), to_numpy(generic.softmax(rows)))


@pytest.mark.parametrize("axis", AXES)
def test_products_with_the_jacobian(x, place, axis):
    p, vectors = softhead.softmax(x, axis=axis), np.random.default_rng(3).standard_normal(x.shape)
    for name in ("softmax_vjp", "softmax_jvp", "log_softmax_vjp"):
        assert_equal_to_numpy(name, place, p, vectors, axis=axis, temperature=0.7, scale=20.0)
    if isinstance(axis, int):
        assert_equal_to_numpy("softmax_jacobian", place, p, axis=axis, temperature=0.7)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}, {"weight": OPTIONS["weight"]}, OPTIONS])
def test_cross_entropy(x, q, place, reduction, options):
    x[0, 2], x[1, 3, 1] = np.nan, -np.inf  # two ignored rows
    tangent = np.random.default_rng(4).standard_normal(x.shape)
    clean = np.where(np.isfinite(x), x, 0.0)
    scale = 0.0 if not options else 40.0
    soft = q * np.random.default_rng(5).uniform(0.5, 2.0, (3, 4, 1))
    options = options | {"reduction": reduction}
    assert_equal_to_numpy("cross_entropy", place, x, LABELS, **options, scale=scale)
    assert_equal_to_numpy("cross_entropy", place, clean, soft, **options, scale=scale)
    assert_equal_to_numpy("cross_entropy_value_and_grad", place, x, LABELS, **options, scale=scale)
    assert_equal_to_numpy("cross_entropy_value_and_grad", place, clean, soft, **options, scale=scale + 2.0)
    assert_equal_to_numpy("cross_entropy_hvp", place, x, LABELS, tangent, **options, scale=scale + 10.0)
    assert_equal_to_numpy("cross_entropy_hvp", place, clean, soft, tangent, **options, scale=scale + 10.0)


def test_axis_and_targets_of_any_kind(x, q, place):
    columns, soft = np.moveaxis(x, -1, 1).copy(), np.moveaxis(q, -1, 1).copy()
    for labels in (LABELS, LABELS.astype(np.int8), (LABELS > 0).astype(np.uint64), LABELS > 0):
        assert_equal_to_numpy("cross_entropy_value_and_grad", place, columns, labels, axis=1)
        labels = np.where(labels == -100, labels.dtype.type(1), labels)
        assert_equal_to_numpy("cross_entropy_value_and_grad", place, columns, labels, axis=1, ignore_index=1)
    assert_equal_to_numpy("cross_entropy_value_and_grad", place, columns, soft, axis=-2, scale=1.0)
    assert_equal_to_numpy("cross_entropy_value_and_grad", place, columns, soft > 0.3, axis=-2, scale=1.0)
    value = generic.cross_entropy(on(place[1])(columns[0].astype(place[0])), LABELS[0].tolist(), axis=0)
    np.testing.assert_allclose(to_numpy(value), softhead.cross_entropy(x[0], LABELS[0]), rtol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_negative_log_likelihoods(x, q, place, reduction):
    log_p = softhead.log_softmax(x)
    log_p[0, 0, 1], log_p[0, 2] = -np.inf, np.nan  # where the target probability is zero; an ignored row
    log_p[0, 0, 4] = np.nan
    options = {"reduction": reduction, "weight": OPTIONS["weight"]}
    assert_equal_to_numpy("nll_loss", place, log_p, LABELS, **options)
    assert_equal_to_numpy("nll_loss", place, log_p, LABELS, **options, label_smoothing=0.1)
    log_p[0, 0, 4] = log_p[0, 2] = -1.0
    assert_equal_to_numpy("nll_loss", place, log_p, q, **options, scale=1.0)
    logits = x.copy()
    logits[0, 0, :3], yes = (np.inf, -np.inf, 0.0), q.copy()
    yes[0, 0, :2] = 1.0, 0.0
    name, pos_weight = "binary_cross_entropy_with_logits", np.array([0.0, 1.0, 2.0, 0.5, 3.0])
    assert_equal_to_numpy(name, place, logits, yes, reduction=reduction)
    assert_equal_to_numpy(name, place, logits, yes > 0.5, pos_weight=pos_weight, reduction=reduction)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("axis", [-1, 1])
def test_divergences(x, q, place, reduction, axis):
    teacher = np.random.default_rng(6).standard_normal(x.shape) * 3
    x[0, 0, 1] = teacher[0, 0, 1] = -np.inf
    options = {"reduction": reduction, "axis": axis}
    q[0, :, 1] = 0.0
    assert_equal_to_numpy("kl_divergence", place, x, q, **options, temperature=1.5, scale=40.0)
    assert_equal_to_numpy("distillation_loss", place, x, teacher, **options, temperature=2.5, scale=40.0)
    bring = on(place[1])
    same = bring(np.zeros((3, 4), place[0]))
    assert not np.any(to_numpy(generic.kl_divergence(same, same + 0.25, reduction="none")))
    assert (to_numpy(generic.distillation_loss(bring(x.astype(place[0])), bring(x), temperature=1.0)) >= 0).all()


@pytest.mark.parametrize("options", [{}, OPTIONS | {"l2": 0.3}, {"reduction": "sum", "l2": 0.1}, {"reduction": "none"}])
@pytest.mark.parametrize("block_size", [2**22, 1])
def test_linear_cross_entropy(place, options, block_size, monkeypatch):
    """Within the rounding of the matrix products, whose order is the library's."""
    monkeypatch.setattr(fused, "_BLOCK_SIZE", block_size)  # 1: blocks of 16 rows
    rng = np.random.default_rng(7)
    features, linear_weight, linear_bias = rng.standard_normal((5, 8, 3)), rng.standard_normal((5, 3)), np.arange(5.0)
    labels, q = rng.integers(0, 5, (5, 8)), rng.dirichlet(np.ones(5), (5, 8))
    features[0, 1], labels[0, 1] = np.nan, -100
    labels[3] = -100
    for targets in (labels, q):
        rows = features if targets is labels else np.nan_to_num(features)
        for name in ("linear_cross_entropy", "linear_cross_entropy_value_and_grad"):
            for more in ({}, {"linear_bias": linear_bias.astype(place[0])}):
                arguments = (rows, linear_weight, targets)
                assert_equal_to_numpy(name, place, *arguments, **options, **more, scale=100.0)
                assert_equal_to_numpy(name, place, rows[0], linear_weight, targets[0], **options, **more, scale=100.0)


def test_linear_cross_entropy_promotes_dtypes_and_each_gradient_keeps_its_own():
    x, linear_weight = strict.ones((2, 3), dtype=strict.float32), strict.zeros((4, 3), dtype=strict.float64)
    value, (x_gradient, weight_gradient, bias_gradient) = generic.linear_cross_entropy_value_and_grad(
        x, linear_weight, [0, 1], linear_bias=strict.zeros(4, dtype=strict.int8)
    )
    assert value.dtype == weight_gradient.dtype == bias_gradient.dtype == strict.float64
    assert x_gradient.dtype == strict.float32
    np.testing.assert_allclose(to_numpy(value), np.log(4))


def test_nothing_and_single_numbers(place):
    """Rows of no class, no rows, and numbers without an axis."""
    for shape in ((3, 0), (0, 4), (0, 0), ()):
        rows = np.full(shape, 3.0)
        for name in ("softmax", "log_softmax", "logsumexp", "hardmax", "entropy"):
            assert_equal_to_numpy(name, place, rows)
        assert_equal_to_numpy("normalize", place, rows, norm="l2")
        assert_equal_to_numpy("softmax_vjp", place, rows, rows)
    for reduction in ("mean", "sum", "none"):
        none = {"reduction": reduction}
        for shape, labels in (((3, 0), np.full(3, -100)), ((0, 4), np.zeros(0, int)), ((3, 4), np.full(3, -100))):
            weight = np.ones(shape[1])
            options = none | {"weight": weight, "label_smoothing": 0.1, "z_loss": 0.1}
            assert_equal_to_numpy("cross_entropy_value_and_grad", place, np.ones(shape), labels, **none)
            assert_equal_to_numpy("cross_entropy_value_and_grad", place, np.ones(shape), labels, **options)
            assert_equal_to_numpy("kl_divergence", place, np.ones(shape), np.ones(shape), **none)
        shapes = np.ones((0, 3)), np.ones((4, 3)), np.zeros(0, int)
        assert_equal_to_numpy("linear_cross_entropy_value_and_grad", place, *shapes, **none)
        assert_equal_to_numpy("binary_cross_entropy_with_logits", place, np.ones(0), np.ones(0), **none)


def test_integers_and_booleans_are_computed_in_the_widest_dtype():
    for device, dtype in (("CPU_DEVICE", strict.float64), ("no_float64", strict.float32)):
        result = generic.softmax(on(device)(np.array([1, 2, 3])))
        assert result.dtype == dtype
        np.testing.assert_allclose(to_numpy(result), softhead.softmax([1, 2, 3]), rtol=1e-6)
        assert generic.hardmax(on(device)(np.array([True, False]))).dtype == dtype


X, Y = np.zeros((2, 3)), np.zeros(2, int)
REFUSED = [
    ("softmax", (X,), {"temperature": 0.0}, ValueError, r"temperature=0\.0; it must be a finite number above 0"),
    ("softmax", (X,), {"temperature": "1"}, TypeError, "temperature is a str; it must be a real number"),
    ("softmax", (X,), {"where": X}, TypeError, "where has dtype .*float64; it must be boolean"),
    ("softmax", (X,), {"where": np.ones(2, bool)}, ValueError, r"where has shape \(2,\); it must broadcast to .*"),
    ("softmax", (X,), {"axis": 2}, np.exceptions.AxisError, "out of bounds"),
    ("softmax", (X.astype(complex),), {}, TypeError, "x has dtype .*complex128; accepted are"),
    ("normalize", (X,), {"norm": "l3"}, ValueError, "norm='l3'; it must be one of"),
    ("softmax_vjp", (X, X[0]), {}, ValueError, r"cotangent has shape \(3,\); it must have the shape of p, \(2, 3\)"),
    ("softmax_jacobian", (X[0, 0],), {}, ValueError, "p is a single number"),
    ("cross_entropy", (X, Y + 3), {}, IndexError, r"targets\[0\] is 3; labels lie in \[0, 3\) or equal ignore_index"),
    ("cross_entropy", (X, -Y - 1), {}, IndexError, r"targets\[0\] is -1; labels lie in"),
    ("cross_entropy", (X, X[:, 0]), {}, TypeError, "labels must be integers"),
    ("cross_entropy", (X, X - 0.5), {}, ValueError, r"targets\[0, 0\] is -0.5; .* finite and not negative"),
    ("cross_entropy", (X, Y[:1]), {}, ValueError, r"targets has shape \(1,\); .* classes have shape \(2,\)"),
    ("cross_entropy", (X, Y), {"ignore_index": 1.0}, TypeError, "ignore_index is a float; it must be an integer"),
    ("cross_entropy", (X, Y), {"reduction": "all"}, ValueError, "reduction='all'; it must be one of"),
    ("cross_entropy", (X, Y), {"label_smoothing": 2.0}, ValueError, r"label_smoothing=2\.0; it must lie in \[0, 1\]"),
    ("cross_entropy", (X, Y), {"z_loss": -1.0}, ValueError, r"z_loss=-1\.0; it must be a finite number not below 0"),
    ("cross_entropy", (X, Y), {"weight": np.ones(2)}, ValueError, r"weight has shape \(2,\); with 3 classes"),
    ("cross_entropy", (X, Y), {"weight": np.zeros(3)}, ValueError, "weight is all zeros"),
    ("cross_entropy", (X, Y), {"weight": np.array([1.0, np.nan, 2])}, ValueError, r"weight\[1\] is nan; .* finite"),
    ("cross_entropy", (X[0, 0], Y), {}, ValueError, "logits is a single number"),
    ("cross_entropy_hvp", (X, Y, X[0]), {}, ValueError, r"tangent has shape \(3,\)"),
    ("nll_loss", (X, Y), {"temperature": 2.0}, TypeError, "unexpected keyword argument 'temperature'"),
    (
        "binary_cross_entropy_with_logits",
        (X, X + 2),
        {},
        ValueError,
        r"targets\[0, 0\] is 2.0; it must lie in \[0, 1\]",
    ),
    ("binary_cross_entropy_with_logits", (X, X), {"pos_weight": X - 1}, ValueError, r"pos_weight\[0, 0\] is -1.0; .*"),
    ("kl_divergence", (X, X[0]), {}, ValueError, r"targets has shape \(3,\)"),
    ("distillation_loss", (X, X[0]), {"temperature": 1.0}, ValueError, r"teacher_logits has shape \(3,\)"),
    ("linear_cross_entropy", (X, X[:, :2], Y), {}, ValueError, r"x has shape \(2, 3\); with linear_weight of shape"),
    ("linear_cross_entropy", (X, X, Y), {"l2": 1.0, "reduction": "none"}, ValueError, "the penalty is no row's"),
]


@pytest.mark.parametrize(("name", "arguments", "options", "error", "message"), REFUSED)
def test_what_is_refused_for_numpy_arrays_is_refused_here(name, arguments, options, error, message):
    bring = on("device1")
    with pytest.raises(error):
        getattr(softhead, name)(*arguments, **options)
    with pytest.raises(error, match=message):
        getattr(generic, name)(*map(bring, arguments), **{key: bring(value) for key, value in options.items()})


def test_out_is_for_numpy_arrays_only():
    x = strict.zeros(3)
    for function in (generic.softmax, generic.log_softmax):
        with pytest.raises(TypeError, match="out is a Array; out= is offered for NumPy arrays only"):
            function(x, out=x)


def test_arrays_are_not_moved_from_one_device_to_another():
    elsewhere = on("device2")
    with pytest.raises(ValueError, match="device"):
        generic.cross_entropy(on("device1")(X), elsewhere(Y))
    with pytest.raises(ValueError, match="device"):
        generic.softmax_vjp(on("device1")(X), elsewhere(X))


def test_where_values_cannot_be_read_impossible_labels_make_nan(x):
    """As in libraries that trace; an ignored row stays what it is."""
    with strict.ArrayAPIStrictFlags(boolean_indexing=False, data_dependent_shapes=False):
        logits, labels = strict.asarray(x[0]), strict.asarray([1, 7, -100, -1])
        for options in ({}, {"label_smoothing": 0.1}):
            value, gradient = generic.cross_entropy_value_and_grad(logits, labels, reduction="none", **options)
            nll = generic.nll_loss(logits, labels, reduction="none", **options)
            for losses in (to_numpy(value), to_numpy(nll)):
                np.testing.assert_array_equal(np.isnan(losses), [False, True, False, True])
                assert losses[2] == 0.0
            np.testing.assert_array_equal(np.isnan(to_numpy(gradient)).all(axis=1), [False, True, False, True])
            np.testing.assert_array_equal(to_numpy(gradient)[2], 0.0)
