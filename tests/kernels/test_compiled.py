"""The compiled loops: which rows they take, and that what is around a row or runs beside it cannot be seen."""

import _thread
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import softhead
from softhead.kernels import compiled, elementary, loops, narrow, reference, threads


def everything(x, labels):
    """Return what every compiled loop gives."""
    value, gradient = softhead.cross_entropy_value_and_grad(x, labels, reduction="none")
    return [
        softhead.softmax(x),
        softhead.log_softmax(x),
        softhead.logsumexp(x),
        softhead.cross_entropy(x, labels, reduction="none"),
        value,
        gradient,
    ]


def problem(n, n_classes, dtype, seed=0):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((n, n_classes)) * 10).astype(dtype)
    return x, rng.integers(0, n_classes, n)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "n_classes"), [(40_003, 10), (5003, 150), (23, 70_001)])
def test_the_number_of_threads_cannot_be_seen(n, n_classes, dtype):
    x, labels = problem(n, n_classes, dtype)
    with softhead.num_threads(1):
        alone = everything(x, labels)
    for n_threads in (2, 8):
        with softhead.num_threads(n_threads):
            for first, second in zip(alone, everything(x, labels), strict=True):
                np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [1, 2, 10, 24, 25, 33, 1000, 1025, 3000])
def test_a_row_alone_is_the_row_in_a_batch(n_classes, dtype):
    x, labels = problem(67, n_classes, dtype)
    together = everything(x, labels)
    for i in (0, 1, 30, 63, 64, 66):
        for whole, alone in zip(together, everything(x[i : i + 1], labels[i : i + 1]), strict=True):
            np.testing.assert_array_equal(whole[i], alone[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [2, 10, 24])
def test_both_kinds_of_loops_agree(n_classes, dtype):
    x, labels = problem(500, n_classes, dtype)
    x[:50] *= 20  # confident rows
    x[50:60, 0] = -np.inf
    for name in ("softmax", "log_softmax"):
        first, second = np.empty_like(x), np.empty_like(x)
        getattr(narrow, name)(x, first)
        getattr(loops, name)(x, second)
        finite = np.isfinite(first)
        np.testing.assert_array_equal(first[~finite], second[~finite])
        np.testing.assert_array_max_ulp(first[finite], second[finite], 4 if dtype == np.float64 else 2)
    results = []
    for module in (narrow, loops):
        losses, gradient = np.empty(500), np.empty_like(x)
        module.cross_entropy_gradient(x, labels, np.ones(n_classes), 3.0, losses, gradient)
        results.append((losses, gradient))
    rtol = 2e-15 if dtype == np.float64 else 4e-7
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=rtol)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=rtol)


def test_what_is_compiled():
    x = np.zeros((2, 3), np.float32)
    assert compiled.takes(x, x)
    assert compiled.takes(x.astype(float), x.astype(float))
    assert not compiled.takes(x, x.astype(np.float16))
    assert not compiled.takes(x, x, 2.0)
    ones = np.ones(3)
    assert compiled.takes_loss(x, x, ones, 0.0, 1.0, 0.0, 2.0)
    assert compiled.takes_loss(x, x, np.array([0.0, 1.0, 2.0]), 0.0, 1.0, 0.0, 2.0)
    assert not compiled.takes_loss(x, x, ones, 0.1, 1.0, 0.0, 2.0)
    assert not compiled.takes_loss(x, x, ones, 0.0, 1.0, 0.1, 2.0)
    assert not compiled.takes_loss(x, x, ones * 1e40, 0.0, 1.0, 0.0, 1.0)
    for denominator in (0.0, np.inf, np.nan, 1e-40):
        assert not compiled.takes_loss(x, x, ones, 0.0, 1.0, 0.0, denominator)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [10, 200])
def test_in_place_transposed_and_read_only(n_classes, dtype):
    x, _ = problem(3000, n_classes, dtype)
    expected = softhead.softmax(x), softhead.log_softmax(x)
    x.flags.writeable = False
    for function, result in zip((softhead.softmax, softhead.log_softmax), expected, strict=True):
        np.testing.assert_array_equal(function(x), result)
        np.testing.assert_array_equal(function(x.T, axis=0), result.T)
        np.testing.assert_array_equal(function(np.asfortranarray(x)), result)
        in_place = x.copy()
        function(in_place, out=in_place)
        np.testing.assert_array_equal(in_place, result)


def test_probabilities_that_underflow():
    """Also at the edge where an exponential counts as zero."""
    x = -np.arange(0, 160, dtype=np.float32)[np.newaxis]
    p = softhead.softmax(x)
    exact = reference.softmax(x)
    assert (np.abs(p - exact) <= 2 * np.spacing(np.maximum(p, np.finfo(np.float32).smallest_normal))).all()
    assert p[0, 103] > 0
    assert p[0, 120] == 0
    p = softhead.softmax(np.array([[0.0, -744.0, -746.0, -2000.0]]))
    np.testing.assert_array_equal(p, [[1.0, 1e-323, 0.0, 0.0]])


def test_two_threads_at_once_and_a_helper_that_is_busy():
    x, labels = problem(20_000, 100, np.float32)
    expected = everything(x, labels)
    failures = []

    def run():
        with softhead.num_threads(3):
            for _ in range(5):
                for first, second in zip(expected, everything(x, labels), strict=True):
                    if not np.array_equal(first, second):
                        failures.append("different")

    callers = [threading.Thread(target=run) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failures


def test_num_threads_belongs_to_the_thread_that_sets_it():
    seen = []
    with softhead.num_threads(3):
        other = threading.Thread(target=lambda: seen.append(threads._available()))
        other.start()
        other.join()
        assert threads._available() == 3
        with softhead.num_threads(np.int64(1)):
            assert threads._available() == 1
        assert threads._available() == 3
    inherited = getattr(sys.flags, "thread_inherit_context", False)  # as Python's free-threaded build does
    assert seen == [3 if inherited else threads._available()]


@pytest.mark.parametrize(("n", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)])
def test_num_threads_must_be_a_positive_integer(n, error):
    with pytest.raises(error, match="at least 1"), softhead.num_threads(n):
        pass


def test_the_environment_sets_the_number_of_threads(monkeypatch):
    monkeypatch.setenv("SOFTHEAD_NUM_THREADS", "5")
    assert threads._available() == 5
    for wrong in ("0", "two", "-1", ""):
        monkeypatch.setenv("SOFTHEAD_NUM_THREADS", wrong)
        with pytest.raises(ValueError, match=f"SOFTHEAD_NUM_THREADS is '{wrong}'; it must be an integer, at least 1"):
            softhead.softmax(np.zeros((10_000, 100)))


def test_an_error_in_a_thread_is_raised():
    def fail(rows):
        raise RuntimeError(f"at {rows.start}")

    with softhead.num_threads(2), pytest.raises(RuntimeError, match="at "):
        threads.over_rows(fail, np.zeros((10_000, 100)))


def test_ctrl_c_is_answered_soon_and_leaves_no_thread_at_work():
    started = threading.Event()
    done = []

    def run(rows):
        started.set()
        time.sleep(0.002)
        done.append(rows)

    def interrupt():
        started.wait()
        time.sleep(0.05)
        done.append(time.monotonic())
        _thread.interrupt_main()

    threading.Thread(target=interrupt).start()
    with softhead.num_threads(2), pytest.raises(KeyboardInterrupt):
        threads.over_rows(run, np.broadcast_to(0.0, (2**20, 2**18)))
    answered = time.monotonic()
    (sent,) = (entry for entry in done if isinstance(entry, float))
    assert answered - sent < 0.2
    count = len(done)
    time.sleep(0.02)
    assert len(done) == count


def test_without_a_writable_place_loops_are_compiled_without_a_cache(monkeypatch):
    def njit(*, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return original(**options)

    original = elementary.njit
    monkeypatch.setattr(elementary, "njit", njit)

    def twice(x):
        return 2 * x

    assert elementary.row_loop(twice)(21) == 42


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_fork_the_pool_is_made_anew():
    code = """
import os, numpy as np, softhead
x = np.ones((20000, 100))
with softhead.num_threads(2):
    softhead.softmax(x)
    if (child := os.fork()) == 0:
        os._exit(0 if (softhead.softmax(x) == 0.01).all() else 1)
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)
