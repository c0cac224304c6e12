"""Bits of a result depend on its own row alone: not on threads, batch, layout in memory, process or time."""

import multiprocessing
import os
import subprocess
import sys
import threading
import warnings

import ml_dtypes
import numpy as np
import pytest
from exact import Exact
from hypothesis import given, settings
from hypothesis import strategies as st

import softhead

DTYPES = [np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)]
OPTIONS = {"label_smoothing": 0.1, "temperature": 1.7, "z_loss": 0.01}
NONE = {"reduction": "none"}


def norms(x, y, q):
    return tuple(softhead.normalize(x, norm=norm) for norm in ("l1", "l2", "max", "zscore"))


# Every function that maps rows to rows or numbers, of logits x (n, C), labels y (n,) and distributions q (n, C).
FUNCTIONS = {
    "softmax": lambda x, y, q: softhead.softmax(x),
    "softmax, temperature": lambda x, y, q: softhead.softmax(x, temperature=0.7),
    "log_softmax": lambda x, y, q: softhead.log_softmax(x),
    "log_softmax, temperature": lambda x, y, q: softhead.log_softmax(x, temperature=0.7),
    "logsumexp": lambda x, y, q: softhead.logsumexp(x),
    "hardmax": lambda x, y, q: softhead.hardmax(x),
    "normalize": norms,
    "softmax_jacobian": lambda x, y, q: softhead.softmax_jacobian(q[:, :5]),
    "softmax_vjp": lambda x, y, q: softhead.softmax_vjp(q, x),
    "softmax_jvp": lambda x, y, q: softhead.softmax_jvp(q, x, temperature=0.7),
    "log_softmax_vjp": lambda x, y, q: softhead.log_softmax_vjp(q, x),
    "entropy": lambda x, y, q: softhead.entropy(x),
    "kl_divergence": lambda x, y, q: softhead.kl_divergence(x, q, **NONE),
    "distillation_loss": lambda x, y, q: softhead.distillation_loss(x, q, temperature=2.0, **NONE),
    "nll_loss": lambda x, y, q: softhead.nll_loss(x, y, **NONE),
    "binary": lambda x, y, q: softhead.binary_cross_entropy_with_logits(x, q, **NONE),
    "cross_entropy": lambda x, y, q: softhead.cross_entropy(x, y, **NONE),
    "value_and_grad": lambda x, y, q: softhead.cross_entropy_value_and_grad(x, y, **NONE),
    "value_and_grad, options": lambda x, y, q: softhead.cross_entropy_value_and_grad(x, y, **NONE, **OPTIONS),
    "value_and_grad, soft": lambda x, y, q: softhead.cross_entropy_value_and_grad(x, q, **NONE),
    "hvp": lambda x, y, q: softhead.cross_entropy_hvp(x, y, q, **NONE, **OPTIONS),
}

each_function = pytest.mark.parametrize("name", FUNCTIONS)


def problem(n, n_classes, dtype, seed=0):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((n, n_classes)) * 4).astype(dtype)
    y = rng.integers(0, n_classes, n)
    y[::7] = -100
    return x, y, rng.dirichlet(np.ones(n_classes), n).astype(dtype)


def bits(result):
    """Return results as bytes: a NaN equals itself, and 0 does not equal -0."""
    parts = result if isinstance(result, tuple) else (result,)
    return [(part.dtype, part.shape, np.ascontiguousarray(part).tobytes()) for part in map(np.asarray, parts)]


@each_function
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_neither_threads_nor_time_can_be_seen(name, dtype):
    arguments = problem(1000, 150, dtype)  # some chunks
    with softhead.num_threads(1):
        expected = bits(FUNCTIONS[name](*arguments))
        assert bits(FUNCTIONS[name](*arguments)) == expected
    for n in (2, 8):
        with softhead.num_threads(n):
            assert bits(FUNCTIONS[name](*arguments)) == expected


@each_function
@pytest.mark.parametrize("n_classes", [10, 150])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_alone_is_the_row_in_any_batch(name, n_classes, dtype):
    x, y, q = problem(70, n_classes, dtype)
    whole = FUNCTIONS[name](x, y, q)
    whole = whole if isinstance(whole, tuple) else (whole,)
    for rows in (slice(0, 1), slice(7, 8), slice(33, 34), slice(69, 70), slice(20, 61), slice(None, None, 3)):
        assert bits(FUNCTIONS[name](x[rows], y[rows], q[rows])) == bits(tuple(part[rows] for part in whole))


def test_two_python_threads_at_once():
    arguments = problem(800, 150, np.float32)
    expected = {name: bits(function(*arguments)) for name, function in FUNCTIONS.items()}
    different = []

    def run():
        with softhead.num_threads(2):
            for name, function in FUNCTIONS.items():
                if bits(function(*arguments)) != expected[name]:
                    different.append(name)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not different


def in_child(arguments, queue):
    """Compute everything in another process."""
    with softhead.num_threads(3):
        queue.put({name: bits(function(*arguments)) for name, function in FUNCTIONS.items()})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_while_the_pool_exists():
    arguments = problem(800, 150, np.float32)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    with softhead.num_threads(3), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that other threads run is the point
        expected = {name: bits(function(*arguments)) for name, function in FUNCTIONS.items()}
        child = context.Process(target=in_child, args=(arguments, queue))
        child.start()
    assert queue.get() == expected
    child.join()
    assert child.exitcode == 0


def test_worker_processes_of_joblib():
    code = """
import numpy as np, softhead
from joblib import Parallel, delayed

def work(x):
    return softhead.softmax(x), softhead.cross_entropy_value_and_grad(x, np.zeros(len(x), int))[1]

if __name__ == "__main__":
    x = np.random.default_rng(0).standard_normal((1000, 150)).astype(np.float32)
    here = work(x)
    for there in Parallel(n_jobs=2, backend="loky")(delayed(work)(x) for _ in range(2)):
        assert all(np.array_equal(a, b) for a, b in zip(here, there, strict=True))
    print("same")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "same\n"


@st.composite
def layouts(draw):
    """Return a function that lays an array out in memory in some way, keeping its values."""
    names = ["copy", "fortran", "steps", "reversed", "swapped bytes", "unaligned", "within", "read only"]
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))

    def lay_out(array):
        for name in chosen:
            array = LAYOUTS[name](array)
        return array

    return lay_out


def within(array):
    """Put an array into a larger one."""
    larger = np.zeros([size + 3 for size in array.shape], array.dtype)
    view = larger[tuple(slice(1, 1 + size) for size in array.shape)]
    view[...] = array
    return view


def unaligned(array):
    memory = np.zeros(array.nbytes + 1, np.uint8)
    view = np.ndarray(array.shape, array.dtype, memory.data, offset=1)
    view[...] = array
    return view


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = {
    "copy": np.copy,
    "fortran": np.asfortranarray,
    "steps": lambda a: np.repeat(np.repeat(a, 3, axis=-1), 2, axis=0)[::2, ..., 1::3],
    "reversed": lambda a: a[::-1, ..., ::-1].copy()[::-1, ..., ::-1],
    "swapped bytes": lambda a: a if a.dtype.kind == "V" else a.astype(a.dtype.newbyteorder()),
    "unaligned": unaligned,
    "within": within,
    "read only": read_only,
}


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(FUNCTIONS)),
    layouts(),
    layouts(),
    st.sampled_from([*DTYPES, np.dtype(np.int8), np.dtype(np.uint32), np.dtype(bool)]),
    st.integers(1, 40),
    st.integers(1, 60),
    st.integers(0, 2**32),
)
def test_the_layout_in_memory_cannot_be_seen(name, first, second, dtype, n, n_classes, seed):
    x, y, q = problem(n, n_classes, np.dtype(np.float64) if dtype.kind in "iub" else dtype, seed)
    if dtype.kind in "iub":
        x = np.abs(x).astype(dtype)
    assert bits(FUNCTIONS[name](first(x), y, second(q))) == bits(FUNCTIONS[name](x, y, q))


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(FUNCTIONS)), st.sampled_from(DTYPES), st.integers(1, 70), st.integers(1, 60))
def test_broadcast_logits_are_as_their_copies(name, dtype, n, n_classes):
    x, y, q = problem(n, n_classes, dtype)
    for base in (x[:1], x[:, :1], x[:1, :1]):
        repeated = np.broadcast_to(base, x.shape)
        assert bits(FUNCTIONS[name](repeated, y, q)) == bits(FUNCTIONS[name](repeated.copy(), y, q))


# In units in the last place: softmax; log_softmax and losses; gradients.
BOUNDS = {"float16": (1, 1, 1), "bfloat16": (1, 1, 1), "float32": (2, 4, 4), "float64": (2, 8, 8)}


def assert_within(computed, exact, bound):
    """Hold results to a bound in units in the last place of their dtype."""
    info = ml_dtypes.finfo(computed.dtype)
    smallest = np.longdouble(float(info.smallest_normal))
    exponent = np.floor(np.log2(np.maximum(np.abs(exact), smallest)))
    unit = np.exp2(exponent) * np.longdouble(float(info.eps))
    own = 0.05 if np.finfo(np.longdouble).nmant > 60 else 20.0  # of the reference itself
    assert (np.abs(computed.astype(np.longdouble) - exact) <= (bound + own) * unit).all()


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(DTYPES),
    layouts(),
    st.integers(1, 12),
    st.sampled_from([2, 3, 10, 24, 25, 33, 100, 1500]),
    st.sampled_from([0.01, 1.0, 4.0, 12.0]),
    st.sampled_from([0.0, 100.0, -1e3]),
    st.sampled_from([1.0, 0.37, 5.0]),
    st.integers(0, 2),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_any_rows_keep_the_bounds(dtype, lay_out, n, n_classes, scale, offset, temperature, axis, masked, seed):
    rng = np.random.default_rng(seed)
    rows = (rng.standard_normal((n, n_classes)) * scale + offset).astype(dtype)
    labels = rng.integers(0, n_classes, n)
    mask = rng.random(rows.shape) < 0.7
    mask[np.arange(n), labels] = True
    exact = Exact(np.where(mask, rows, dtype.type(-np.inf)) if masked else rows, labels, temperature)
    with np.errstate(divide="ignore"):
        small = exact.softmax > float(ml_dtypes.finfo(dtype).smallest_normal)
    first, second, third = BOUNDS[dtype.name]
    # The classes along any axis of three.
    x = np.moveaxis(lay_out(rows)[np.newaxis], 2, axis)
    options = {"axis": axis, "temperature": temperature}
    where = {"where": np.moveaxis(mask[np.newaxis], 2, axis)} if masked else {}
    p = np.moveaxis(softhead.softmax(x, **options, **where), axis, 2)[0]
    assert_within(p[small], exact.softmax[small], first)
    assert (p[~small].astype(float) <= float(ml_dtypes.finfo(dtype).smallest_normal) * 1.01).all()
    log_p = np.moveaxis(softhead.log_softmax(x, **options, **where), axis, 2)[0]
    some = np.abs(exact.log_softmax) < float(ml_dtypes.finfo(dtype).max) / 2
    assert_within(log_p[some], exact.log_softmax[some], second)
    out = np.empty_like(p)
    assert softhead.softmax(rows, temperature=temperature, out=out, **({"where": mask} if masked else {})) is out
    assert bits(out) == bits(p)
    if not masked:
        value, gradient = softhead.cross_entropy_value_and_grad(
            x, np.expand_dims(labels, 0), **options, reduction="none"
        )
        assert_within(value[0], exact.loss, second)
        gradient = np.moveaxis(gradient, axis, 2)[0]
        own = np.abs(exact.gradient) > float(ml_dtypes.finfo(dtype).smallest_normal)
        assert_within(gradient[own], exact.gradient[own], third)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([softhead.softmax, softhead.log_softmax]),
    st.sampled_from(DTYPES),
    st.sampled_from([5, 24, 25, 200]),
    st.integers(-3, 3),
    st.sampled_from([1.0, 2.0]),
)
def test_out_that_overlaps_the_input_in_any_way(function, dtype, n_classes, shift, temperature):
    n = 9
    memory = np.random.default_rng(0).standard_normal(n * n_classes + 6).astype(dtype)
    x = memory[3 : 3 + n * n_classes].reshape(n, n_classes)
    out = memory[3 + shift : 3 + shift + n * n_classes].reshape(n, n_classes)
    expected = bits(function(x.copy(), temperature=temperature))
    function(x, temperature=temperature, out=out)
    assert bits(out) == expected
    x = np.random.default_rng(0).standard_normal((n, n)).astype(dtype)
    expected = bits(function(x.copy(), temperature=temperature))
    function(x, temperature=temperature, out=x.T)
    assert bits(x.T) == expected
