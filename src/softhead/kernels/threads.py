"""Splits rows over a pool of threads: nothing else starts threads for kernels.

A kernel is serial and releases the GIL; a row's result does not depend on the rows around it, so that neither the
number of threads nor the division of the rows can be seen in a result. The calling thread takes part. It returns to the
interpreter after every chunk, where it notices Ctrl-C.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, wait
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock

import numpy as np

from softhead.kernels.processors import processors

_CHUNK = 2**18  # elements: about 0.1 ms of work, which hides what a chunk costs
# Rows that are columns in memory are taken together, for they share cache lines: 1,250 of 200,000 float32 take 1.4 s
# where they took 2.7. But no more than this many elements, lest Ctrl-C wait.
_COLUMNS, _MANY = 16, 2**22
SMALL = 2**16  # elements: below it, starting a thread takes longer than the work

_requested: ContextVar[int | None] = ContextVar("num_threads", default=None)
_pool: Executor | None = None
_pool_size = 0
_lock = Lock()


@contextmanager
def num_threads(n: int, /) -> Iterator[None]:
    """Compute on at most n threads inside a ``with`` block.

    Results do not depend on it, to the last bit. Without it, the environment variable ``SOFTHEAD_NUM_THREADS`` holds,
    and without that, all processors that this process may run on are used, as far as its control group (the quota of a
    container) grants their time. Matrix products have threads of their own, those of NumPy's BLAS.

    Parameters
    ----------
    n : int
        Number of threads, at least 1.

    Raises
    ------
    TypeError
        If n is not an integer.
    ValueError
        If n is below 1.

    Examples
    --------
    >>> import numpy as np, softhead
    >>> x = np.random.default_rng(0).standard_normal((1000, 100))
    >>> with softhead.num_threads(1):
    ...     p = softhead.softmax(x)
    >>> bool((p == softhead.softmax(x)).all())
    True
    """
    if not isinstance(n, int | np.integer) or isinstance(n, bool):
        raise TypeError(f"n is a {type(n).__name__}; it must be an integer, at least 1")
    if n < 1:
        raise ValueError(f"n is {n}; it must be at least 1")
    token = _requested.set(int(n))
    try:
        yield
    finally:
        _requested.reset(token)


@contextmanager
def at_most(n: int) -> Iterator[None]:
    """Compute on at most n threads, and on fewer where fewer are asked for: for a caller with a limit of its own."""
    token = _requested.set(min(n, _available()))
    try:
        yield
    finally:
        _requested.reset(token)


def over_rows(run: Callable[[slice], None], x: np.ndarray) -> None:
    """Call a function with slices that cover the rows of x, on several threads if there is much to do."""
    n_rows = len(x)
    if x.size <= SMALL:
        if x.size:
            run(slice(0, n_rows))
        return
    size = max(1, _CHUNK // x.shape[1])
    if abs(x.strides[0]) < abs(x.strides[1]):
        size = max(size, min(_COLUMNS, _MANY // x.shape[1]))
    in_parallel(lambda k: run(slice(k * size, min((k + 1) * size, n_rows))), -(-n_rows // size))


def in_parallel(run: Callable[[int], None], n_tasks: int) -> None:
    """Call a function with 0, 1, ..., n_tasks - 1, on several threads. It returns, or raises, when none is at work."""
    if n_tasks == 1:
        return run(0)
    n_helpers = max(0, min(_available(), n_tasks) - 1)
    tasks = deque(range(n_tasks))  # threads draw from it; a draw is atomic
    at_work = [False] * n_helpers
    failures: list[BaseException] = []

    def draw() -> None:
        while tasks:
            try:
                task = tasks.popleft()
            except IndexError:  # another thread has drawn the last
                return
            run(task)

    def help_out(k: int) -> None:
        at_work[k] = True  # first of all: who sees no thread at work has left none a task
        try:
            draw()
        except BaseException as failure:
            tasks.clear()
            failures.append(failure)
        finally:
            at_work[k] = False

    helpers: list[Future[None]] = []
    try:
        _start(help_out, n_helpers, helpers)
        draw()
        wait([helper for helper in helpers if not helper.cancel()])
    finally:  # also after Ctrl-C: no thread may write to an array that its owner has taken back
        tasks.clear()
        _wait_until(lambda: not any(at_work))
    if failures:
        raise failures[0]


def _wait_until(condition: Callable[[], bool]) -> None:
    """Wait for less than a task takes; not even another Ctrl-C ends it."""
    while True:
        try:
            while not condition():
                time.sleep(1e-4)
            return
        except KeyboardInterrupt:
            continue


def _available() -> int:
    """Return the number of threads to use."""
    requested = _requested.get()
    if requested is not None:
        return requested
    text = os.environ.get("SOFTHEAD_NUM_THREADS")
    if text is not None:
        if not (text.isdecimal() and int(text) > 0):
            raise ValueError(f"SOFTHEAD_NUM_THREADS is {text!r}; it must be an integer, at least 1")
        return int(text)
    return processors()


def several() -> bool:
    """Return whether more than one thread may be used."""
    return _available() > 1


def _start(work: Callable[[int], None], n: int, started: list[Future[None]]) -> None:
    """Run work(0), ..., work(n - 1) in the pool, which grows as needed; add what is started to the list.

    Where no thread can be had, fewer are started or none: the calling thread is left with the tasks. So it is once the
    main thread has ended, for other threads and for what runs at exit, and where the system grants no more.
    """
    global _pool, _pool_size
    if n == 0:
        return
    with _lock:
        try:
            if _pool is None or _pool_size < n:
                from concurrent.futures import ThreadPoolExecutor  # at exit, not even this can be imported

                if _pool is not None:
                    _pool.shutdown(wait=False)  # what others have submitted is still done
                _pool, _pool_size = ThreadPoolExecutor(n, thread_name_prefix="softhead"), n
            for k in range(n):
                started.append(_pool.submit(work, k))
        except RuntimeError:
            return


def _forget() -> None:
    """In a child process the pool's threads do not exist, and the lock may be held by one of them."""
    global _pool, _pool_size, _lock
    _pool, _pool_size, _lock = None, 0, Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
