"""Keeps BLAS to one thread while the compiled passes have the processors."""

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


def one_thread() -> AbstractContextManager[Any]:
    """Let BLAS use one thread inside a ``with`` block.

    Its threads spin for some milliseconds after each call, in wait for the next, and take that time from the passes:
    with two of them, fits of 15,000 x 384 with 150 classes took 1.2 to 1.6 times as long as with one. The setting is
    the process's own; of Python threads that overlap, the first decides.
    """
    _at_first()
    return _controller().limit(limits=1, user_api="blas")


def all_threads() -> AbstractContextManager[Any]:
    """Let BLAS use the threads that it had at first, inside a ``with`` block: for products that outweigh a pass."""
    return _controller().limit(limits=_at_first())


@cache
def _controller() -> ThreadpoolController:
    """Return what sets the threads of the libraries loaded by now; to look for them takes a millisecond."""
    return ThreadpoolController()


@cache
def _at_first() -> dict[str, int]:
    """Return the number of threads of every BLAS library when the first run began."""
    return {info["filepath"]: info["num_threads"] for info in _controller().select(user_api="blas").info()}


def described() -> str:
    """Say which BLAS NumPy has, for which processor, and on how many threads: what the bits of its products hang on."""
    libraries = _controller().select(user_api="blas").info()
    own = [info for info in libraries if "numpy" in info["filepath"]] or libraries
    threads = _at_first()
    parts = (
        (info["internal_api"], info["version"], info.get("architecture"), f"threads: {threads.get(info['filepath'])}")
        for info in own
    )
    return "; ".join(" ".join(map(str, part)) for part in parts)
