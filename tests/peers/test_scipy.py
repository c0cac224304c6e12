"""SciPy's own tests of logsumexp, softmax and log_softmax, for NumPy arrays, with ours in their place."""

import functools
import inspect

import numpy as np
import pytest

import softhead

pytest.importorskip("scipy", minversion="1.17")
peer = pytest.importorskip("scipy.special.tests.test_logsumexp", reason="this SciPy comes without its tests")

# Tests of what our logsumexp does not offer, with the words in which it refuses: factors of the exponentials (their
# logarithms can be added to the logits), hence signs of sums, and complex numbers, for which a softmax has no use.
FACTORS = "unexpected keyword argument 'b'"
SIGN = "unexpected keyword argument 'return_sign'"
COMPLEX = "x has dtype complex(64|128)"
NOT_OFFERED = {
    "test_dtypes_ab": FACTORS,
    "test_gh22903": FACTORS,
    "test_gh23548": FACTORS,
    "test_logsumexp_b": FACTORS,
    "test_logsumexp_b_shape": FACTORS,
    "test_logsumexp_b_zero": FACTORS,
    "test_logsumexp_shape": FACTORS,
    "test_logsumexp_sign": FACTORS,
    "test_logsumexp_sign_shape": FACTORS,
    "test_logsumexp_sign_zero": FACTORS,
    "test_no_writeback": FACTORS,
    "test_device": f"{FACTORS}|{COMPLEX}",
    "test_logsumexp_complex_sign": SIGN,
    "test_gh21610": COMPLEX,
    "test_gh21709_small_imaginary": COMPLEX,
}
# The same, of tests that we pass where no parameter is complex.
NOT_OFFERED_IF_COMPLEX = {"test_dtypes_a": COMPLEX, "test_gh22601_infinite_elements": COMPLEX}


def over_all_axes(function):
    """Return a function of ours with SciPy's default axis."""
    return lambda x, axis=None, **options: function(x, axis=axis, **options)


def is_complex(parameter):
    """Return whether the parameter of a test is a complex number or the name of a complex dtype."""
    return isinstance(parameter, complex) or parameter in ("complex64", "complex128")


def refused(name, words, only_if_complex=False):
    """Return a test of logsumexp that demands a TypeError in these words instead of a result."""
    test = getattr(peer.TestLogSumExp, name)

    @functools.wraps(test)
    def judge(*args, **parameters):
        if only_if_complex and not any(map(is_complex, parameters.values())):
            return test(*args, **parameters)
        with pytest.raises(TypeError, match=words):
            test(*args, **parameters)

    # pytest wants the sets of parameters in a list, where SciPy passes an iterator.
    judge.pytestmark = [
        pytest.mark.parametrize(mark.args[0], list(mark.args[1])).mark if mark.name == "parametrize" else mark
        for mark in getattr(test, "pytestmark", [])
    ]
    return judge


TestLogSumExp = type(
    "TestLogSumExp",
    (peer.TestLogSumExp,),
    {name: refused(name, words) for name, words in NOT_OFFERED.items()}
    | {name: refused(name, words, only_if_complex=True) for name, words in NOT_OFFERED_IF_COMPLEX.items()},
)


class TestSoftmax(peer.TestSoftmax):
    pass


class TestLogSoftmax(peer.TestLogSoftmax):
    pass


@pytest.fixture(autouse=True)
def _ours(monkeypatch):
    for name in ("logsumexp", "softmax", "log_softmax"):
        monkeypatch.setattr(peer, name, over_all_axes(getattr(softhead, name)))


@pytest.fixture
def xp():
    return np


@pytest.fixture
def devices():
    return ["cpu", None]


def test_no_test_of_scipys_is_left_out():
    classes = {name for name, _ in inspect.getmembers(peer, inspect.isclass) if name.startswith("Test")}
    assert classes == {"TestLogSumExp", "TestSoftmax", "TestLogSoftmax"}
    # The one test outside the classes is of a function of SciPy's own.
    functions = {name for name, _ in inspect.getmembers(peer, inspect.isfunction) if name.startswith("test")}
    assert functions == {"test_wrap_radians"}
