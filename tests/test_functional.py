"""softmax, log_softmax and logsumexp: their laws, axes, masks, outputs and dtypes."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special

import softhead
from softhead.kernels import reference

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64)]


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((3, 4, 5)) * 3


def test_laws(x):
    p = softhead.softmax(x)
    np.testing.assert_allclose(p.sum(axis=-1), 1.0, rtol=1e-15)
    np.testing.assert_allclose(softhead.softmax(x + 7.0), p, rtol=1e-14)
    np.testing.assert_allclose(np.exp(softhead.log_softmax(x)), p, rtol=1e-14)
    np.testing.assert_allclose(softhead.softmax(np.log(p) + 5.0), p, rtol=1e-14)
    np.testing.assert_allclose(softhead.log_softmax(x), x - softhead.logsumexp(x, keepdims=True), rtol=1e-13)
    order = np.argsort(x, axis=-1)
    assert (np.diff(np.take_along_axis(p, order, axis=-1)) >= 0).all()
    np.testing.assert_allclose(
        softhead.softmax(np.take_along_axis(x, order, axis=-1)), np.take_along_axis(p, order, -1), rtol=1e-15
    )


def test_temperature(x):
    np.testing.assert_allclose(softhead.softmax(x, temperature=2.5), softhead.softmax(x / 2.5), rtol=1e-14)
    np.testing.assert_allclose(softhead.log_softmax(x, temperature=2.5), softhead.log_softmax(x / 2.5), rtol=1e-14)
    np.testing.assert_array_equal(softhead.softmax(x, temperature=1e300), np.full_like(x, 0.2))
    np.testing.assert_array_equal(softhead.softmax(x, temperature=1e-300), np.eye(5)[x.argmax(axis=-1)])
    np.testing.assert_array_equal(softhead.softmax(x, temperature=np.float32(2)), softhead.softmax(x, temperature=2))


@pytest.mark.parametrize("axis", [0, 1, -1, -3, (0, 1), (2, 0), (0, 1, 2), None, ()])
def test_axes_agree_with_scipy(x, axis):
    np.testing.assert_allclose(softhead.softmax(x, axis=axis), special.softmax(x, axis=axis), rtol=1e-13)
    np.testing.assert_allclose(
        softhead.log_softmax(x, axis=axis), special.log_softmax(x, axis=axis), rtol=1e-13, atol=1e-15
    )
    for keepdims in (False, True):
        ours = softhead.logsumexp(x, axis=axis, keepdims=keepdims)
        theirs = special.logsumexp(x, axis=axis, keepdims=keepdims)
        assert np.shape(ours) == np.shape(theirs)
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)


def test_axis_is_moveaxis(x):
    for function in (softhead.softmax, softhead.log_softmax):
        moved = function(np.ascontiguousarray(np.moveaxis(x, 1, -1)))
        np.testing.assert_array_equal(function(x, axis=1), np.moveaxis(moved, -1, 1))


def test_results_are_contiguous_in_any_axis(x):
    for axis in (0, 1, (0, 2)):
        assert softhead.softmax(x, axis=axis).flags.c_contiguous


def test_integers_booleans_lists_and_single_numbers():
    assert softhead.softmax([1, 2, 3]).dtype == np.float64
    np.testing.assert_array_equal(softhead.softmax(np.array([1, 2, 3], np.int8)), softhead.softmax([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(softhead.softmax([True, False]), softhead.softmax([1.0, 0.0]))
    assert softhead.softmax(3.0) == 1.0
    assert softhead.log_softmax(3.0, axis=None) == 0.0
    assert softhead.logsumexp(3.0, axis=0) == 3.0
    assert isinstance(softhead.softmax(3.0), np.float64)
    assert isinstance(softhead.logsumexp([1.0, 2.0]), np.float64)
    assert isinstance(softhead.logsumexp(np.float32([1.0, 2.0])), np.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_dtypes_are_kept(x, dtype):
    x = x.astype(dtype)
    wide = x.astype(np.float64)
    for function in (softhead.softmax, softhead.log_softmax, softhead.logsumexp):
        result = function(x)
        assert result.dtype == dtype
        expected = function(wide).astype(dtype)
        if dtype == np.float32:  # computed as such, not rounded from a wider result
            np.testing.assert_array_max_ulp(result, expected, 2)
        else:
            np.testing.assert_array_equal(result, expected)
        if dtype != BFLOAT16:
            swapped = function(x.astype(dtype.newbyteorder()))
            assert swapped.dtype == dtype
            assert swapped.dtype.isnative
            np.testing.assert_array_equal(swapped, result)


def test_where(x):
    mask = np.random.default_rng(1).random(x.shape) < 0.6
    mask[..., 0] = True
    mask[0, 0] = False
    spoiled = np.where(mask, x, np.nan)
    p = softhead.softmax(spoiled, where=mask)
    log_p = softhead.log_softmax(spoiled, where=mask)
    lse = softhead.logsumexp(spoiled, where=mask)
    for index in np.ndindex(3, 4):
        kept = mask[index]
        np.testing.assert_array_equal(p[index][~kept], 0.0)
        np.testing.assert_array_equal(log_p[index][~kept], -np.inf)
        if kept.any():
            np.testing.assert_allclose(p[index][kept], softhead.softmax(x[index][kept]), rtol=1e-15)
            np.testing.assert_allclose(log_p[index][kept], softhead.log_softmax(x[index][kept]), rtol=1e-14)
            np.testing.assert_allclose(lse[index], softhead.logsumexp(x[index][kept]), rtol=1e-15)
    assert lse[0, 0] == -np.inf
    broadcast = mask[1, :, :1]
    np.testing.assert_array_equal(
        softhead.softmax(x, where=broadcast, axis=1),
        softhead.softmax(x, where=np.broadcast_to(broadcast, x.shape), axis=1),
    )


def test_where_does_not_write_to_the_input(x):
    before = x.copy()
    softhead.softmax(x, where=x > 0)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("axis", [-1, 0, (0, 2)])
def test_out(x, axis):
    for function in (softhead.softmax, softhead.log_softmax):
        expected = function(x, axis=axis)
        for out in (np.empty_like(x), np.empty(x.shape, order="F"), np.empty((6, 4, 5))[::2]):
            assert function(x, axis=axis, out=out) is out
            np.testing.assert_array_equal(out, expected)
        in_place = x.copy()
        assert function(in_place, axis=axis, out=in_place) is in_place
        np.testing.assert_array_equal(in_place, expected)
        masked = x.copy()
        function(masked, axis=axis, where=x > -2, out=masked)
        np.testing.assert_array_equal(masked, function(x, axis=axis, where=x > -2))


def test_out_that_overlaps_the_input():
    base = np.random.default_rng(2).standard_normal(4001 * 40)
    x, out = base[:-40].reshape(4000, 40), base[40:].reshape(4000, 40)
    expected = softhead.softmax(x.copy())
    softhead.softmax(x, out=out)
    np.testing.assert_array_equal(out, expected)
    square = np.random.default_rng(3).standard_normal((300, 300))
    expected = softhead.softmax(square.T.copy())
    softhead.softmax(square.T, out=square)
    np.testing.assert_array_equal(square, expected)


def test_out_must_fit(x):
    with pytest.raises(ValueError, match=r"out has shape \(5,\) and dtype float64; the result has shape \(3, 4, 5\)"):
        softhead.softmax(x, out=np.empty(5))
    with pytest.raises(ValueError, match=r"dtype float32; the result has .* dtype float64"):
        softhead.softmax(x, out=np.empty(x.shape, np.float32))
    with pytest.raises(TypeError, match="out is a list; it must be a numpy array"):
        softhead.softmax(x, out=[])
    read_only = np.empty_like(x)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        softhead.softmax(x, out=read_only)


def test_wrong_arguments_write_nothing(x):
    out = np.full_like(x, 7.0)
    for wrong in ({"axis": 3}, {"temperature": 0.0}, {"where": [1, 0]}, {"where": np.ones(4, bool)}):
        with pytest.raises((ValueError, TypeError)):
            softhead.softmax(x, out=out, **wrong)
        np.testing.assert_array_equal(out, 7.0)


def test_wrong_axis(x):
    with pytest.raises(np.exceptions.AxisError, match="axis 3 is out of bounds"):
        softhead.softmax(x, axis=3)
    with pytest.raises(np.exceptions.AxisError):
        softhead.logsumexp(x, axis=(0, -4))
    with pytest.raises(ValueError, match="names the same axis twice"):
        softhead.softmax(x, axis=(0, -3))
    with pytest.raises(TypeError):
        softhead.softmax(x, axis=1.0)


def test_hardmax(x):
    np.testing.assert_array_equal(softhead.hardmax(x), np.eye(5)[x.argmax(axis=-1)])
    np.testing.assert_array_equal(softhead.hardmax(x), softhead.softmax(x, temperature=1e-300))
    np.testing.assert_array_equal(
        softhead.hardmax(x, axis=0), np.moveaxis(softhead.hardmax(np.moveaxis(x, 0, -1)), -1, 0)
    )
    assert softhead.hardmax(x, axis=None).sum() == 1.0
    np.testing.assert_array_equal(softhead.hardmax([[3, 3, 1], [0, 3, 3]]), [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(softhead.hardmax([-np.inf, -np.inf]), [1, 0])
    np.testing.assert_array_equal(softhead.hardmax([[1, np.inf], [np.nan, 2], [5, 4]])[[0, 2]], [[0, 1], [1, 0]])
    assert np.isnan(softhead.hardmax([1.0, np.nan])).all()
    for dtype in DTYPES:
        assert softhead.hardmax(x.astype(dtype)).dtype == dtype
    assert softhead.hardmax(np.zeros((2, 0))).shape == (2, 0)
    assert softhead.hardmax(4.0) == 1.0


def test_normalize(x):
    expected = {
        "l1": x / np.abs(x).sum(axis=-1, keepdims=True),
        "l2": x / np.linalg.norm(x, axis=-1, keepdims=True),
        "max": x / np.abs(x).max(axis=-1, keepdims=True),
        "zscore": (x - x.mean(axis=-1, keepdims=True)) / x.std(axis=-1, keepdims=True),
    }
    for norm, result in expected.items():
        np.testing.assert_allclose(softhead.normalize(x, norm=norm), result, rtol=1e-12)
        columns = softhead.normalize(np.moveaxis(x, -1, 0).copy(), norm=norm, axis=0)
        np.testing.assert_allclose(columns, np.moveaxis(result, -1, 0), rtol=1e-12)
        for dtype in DTYPES:
            narrow = x.astype(dtype)
            wide = softhead.normalize(narrow.astype(float), norm=norm)
            np.testing.assert_array_equal(softhead.normalize(narrow, norm=norm), wide.astype(dtype))
        np.testing.assert_array_equal(softhead.normalize(np.zeros((2, 3)), norm=norm), 0.0)
        assert softhead.normalize(np.zeros((2, 0)), norm=norm).shape == (2, 0)
        assert np.isnan(softhead.normalize([1.0, np.nan], norm=norm)).all()
        # No intermediate overflows or underflows.
        for scale in (1e-320, 1e-300, 1e308):
            big = np.array([1.0, -0.5, 0.25]) * scale
            np.testing.assert_allclose(
                softhead.normalize(big, norm=norm), softhead.normalize(big / scale, norm=norm), rtol=1e-3
            )


def test_normalize_keeps_what_it_says():
    x = np.array([-3.0, -1.0, -2.0])
    np.testing.assert_allclose(softhead.normalize(x, norm="max"), [-1, -1 / 3, -2 / 3], rtol=1e-15)  # sign and order
    np.testing.assert_array_equal(softhead.normalize(np.full(7, 0.3), norm="zscore"), 0.0)
    np.testing.assert_array_equal(softhead.normalize([3, -4], norm="l2"), [0.6, -0.8])
    with pytest.raises(ValueError, match="norm='l3'; it must be one of 'l1', 'l2', 'max', 'zscore'"):
        softhead.normalize(x, norm="l3")


finite = st.floats(-300, 300, width=16)


@st.composite
def arrays(draw):
    """Arrays of any shape, dtype, byte order and strides, with an axis."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=6))
    array = draw(hnp.arrays(np.float64, shape, elements=finite))
    dtype = draw(st.sampled_from([*DTYPES, np.dtype(">f4"), np.dtype(">f8"), np.dtype(">f2"), np.dtype(np.int16)]))
    array = array.astype(dtype)
    layout = draw(st.sampled_from(["C", "F", "every other", "reversed", "transposed"]))
    if layout == "F":
        array = np.asfortranarray(array)
    elif layout == "every other":
        array = np.repeat(array, 2, axis=-1)[..., ::2]
    elif layout == "reversed":
        array = array[::-1]
    elif layout == "transposed":
        array = array.T
    array.flags.writeable = False
    return array, draw(st.integers(-array.ndim, array.ndim - 1))


@settings(max_examples=150, deadline=None)
@given(arrays(), st.sampled_from([1.0, 0.3, 20.0]), st.data())
def test_any_array_agrees_with_the_definitions(case, temperature, data):
    x, axis = case
    # The bounds proper are tested elsewhere: here the definitions themselves may be in float64, with errors of 1e-13.
    u = {2: 2.0**-7, 4: 2.0**-22}.get(x.dtype.itemsize, 1e-12) if x.dtype.kind in "fV" else 1e-12
    mask = data.draw(st.none() | hnp.arrays(np.bool_, x.shape))
    rows = np.moveaxis(x, axis, -1).astype(np.longdouble)
    if mask is not None:
        rows = np.where(np.moveaxis(mask, axis, -1), rows, -np.inf)
    shape = rows.shape
    rows = rows.reshape(-1, shape[-1])
    some = np.isfinite(rows).any(axis=1)
    p = np.zeros_like(rows)
    p[some] = reference.softmax(rows[some], temperature)
    with np.errstate(divide="ignore"):
        log_p, lse = np.log(p), np.full((len(rows), 1), -np.inf, np.longdouble)
    lse[some] = reference.logsumexp(rows[some])
    possible = p > 0
    log_p[some] = np.where(possible[some], reference.log_softmax(rows[some], temperature), -np.inf)
    expected = [np.moveaxis(rows.reshape(shape), -1, axis) for rows in (p, log_p)]
    ours = softhead.softmax(x, axis=axis, temperature=temperature, where=mask)
    np.testing.assert_allclose(ours.astype(float), expected[0].astype(float), rtol=u, atol=1e-7 if u > 1e-4 else 1e-37)
    ours = softhead.log_softmax(x, axis=axis, temperature=temperature, where=mask)
    finite = np.isfinite(expected[1].astype(float)) & (np.abs(expected[1].astype(float)) < 6e4)
    np.testing.assert_allclose(ours.astype(float)[finite], expected[1].astype(float)[finite], rtol=u, atol=u / 10)
    ours = softhead.logsumexp(x, axis=axis, where=mask)
    np.testing.assert_allclose(ours.astype(float), lse.reshape(ours.shape).astype(float), rtol=u, atol=u * 300)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_normalize_keeps_the_digits_of_subnormal_shares(norm):
    shares = np.array([1.0, 5 * 2.0**-1074, -3 * 2.0**-1074])
    for power in (0, 1000, 2**10 - 1):
        assert softhead.normalize(np.ldexp(shares, power), norm=norm).tolist() == shares.tolist()


def test_errors_name_the_argument():
    with pytest.raises(TypeError, match=r"^axis=1.0; it must be an integer, a tuple of integers or None$"):
        softhead.softmax(np.ones((2, 2)), axis=1.0)
    with pytest.raises(TypeError, match=r"^axis=None: .* as an integer; the classes lie along one axis$"):
        softhead.cross_entropy(np.ones((2, 2)), [0, 1], axis=None)
    with pytest.raises(ValueError, match=r"^temperature=array\(\[1., 2.\]\); it must be one number within float64$"):
        softhead.softmax(np.ones(2), temperature=np.ones(2) * [1, 2])
    with pytest.raises(ValueError, match=r"^temperature=1000.*; it must be one number within float64$"):
        softhead.softmax(np.ones(2), temperature=10**400)
    with pytest.raises(ValueError, match=r"^norm=\['l1'\]; it must be one of 'l1', 'l2', 'max', 'zscore'$"):
        softhead.normalize(np.ones(2), norm=["l1"])


@pytest.mark.parametrize("axis", [0, 1, (0, 1)])
def test_masks_of_many_rows_hide_what_minus_infinity_does(axis):
    rng = np.random.default_rng(0)
    x, where = rng.standard_normal((300, 1000)), rng.random((1, 1000)) < 0.6
    hidden = np.where(where, x, -np.inf)
    expected = np.where(where, softhead.softmax(hidden, axis=axis), 0.0) if axis != 0 else None
    if axis == 0:  # columns that are hidden altogether have no softmax of their own
        expected = np.zeros_like(x)
        expected[:, where[0]] = softhead.softmax(x[:, where[0]], axis=0)
    assert np.array_equal(softhead.softmax(x, axis=axis, where=where), expected)
    assert np.array_equal(softhead.logsumexp(x, axis=axis, where=where), softhead.logsumexp(hidden, axis=axis))
    np.testing.assert_array_equal(softhead.softmax(x, axis=axis, where=where, out=x), expected)
