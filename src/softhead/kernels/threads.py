"""Splits rows over a pool of threads: nothing else starts threads for kernels.

A kernel is serial and releases the GIL; a row's result does not depend on the rows around it, so that neither the
number of threads nor the division of the rows can be seen in a result. The calling thread takes part. It returns to the
interpreter after every chunk, where it notices Ctrl-C.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock

import numpy as np

_CHUNK = 2**18  # elements: about 0.1 ms of work, which hides what a chunk costs
SMALL = 2**16  # elements: below it, starting a thread takes longer than the work

_requested: ContextVar[int | None] = ContextVar("num_threads", default=None)
_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_lock = Lock()


@contextmanager
def num_threads(n: int, /) -> Iterator[None]:
    """Compute on at most n threads inside a ``with`` block.

    Results do not depend on it, to the last bit. Without it, the environment variable ``SOFTHEAD_NUM_THREADS`` holds,
    and without that, all processors that this process may run on are used. Matrix products have threads of their own,
    those of NumPy's BLAS.

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


def over_rows(run: Callable[[slice], None], x: np.ndarray) -> None:
    """Call a function with slices that cover the rows of x, on several threads if there is much to do."""
    n_rows = len(x)
    if x.size <= SMALL:
        if x.size:
            run(slice(0, n_rows))
        return
    size = max(1, _CHUNK // x.shape[1])
    starts = iter(range(0, n_rows, size))  # threads draw from it; a draw is atomic
    stopped = False

    def work() -> None:
        for start in starts:
            if stopped:
                return
            run(slice(start, min(start + size, n_rows)))

    helpers = _start(work, min(_available(), -(-n_rows // size)) - 1)
    try:
        work()
    finally:  # also after Ctrl-C: no thread may write to an array that its owner has taken back
        stopped = True
        wait([helper for helper in helpers if not helper.cancel()])
    for helper in helpers:
        if not helper.cancelled():
            helper.result()


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
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(work: Callable[[], None], n: int) -> list[Future[None]]:
    """Run work on n threads of the pool, which grows as needed."""
    global _pool, _pool_size
    if n <= 0:
        return []
    with _lock:
        if _pool is None or _pool_size < n:
            if _pool is not None:
                _pool.shutdown(wait=False)  # what others have submitted is still done
            _pool, _pool_size = ThreadPoolExecutor(n, thread_name_prefix="softhead"), n
        return [_pool.submit(work) for _ in range(n)]


def _forget() -> None:
    """In a child process the pool's threads do not exist, and the lock may be held by one of them."""
    global _pool, _pool_size, _lock
    _pool, _pool_size, _lock = None, 0, Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
