"""Reads ahead: the next blocks are made by a thread while the present one is worked on."""

import contextvars
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any, TypeVar

T = TypeVar("T")

_END = object()


def prefetched(items: Callable[[], Iterable[T]], depth: int = 1) -> Iterator[T]:
    """Yield what `items` returns, at most `depth` of them ahead of the caller; its errors are raised at their place.

    The thread ends when the iterator is closed or collected, between two items. Where none can be had, as at exit, the
    items are made when they are asked for.
    """
    ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Any, error: BaseException | None = None) -> bool:
        while not stopped.is_set():
            try:
                ready.put((item, error), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def produce() -> None:
        try:
            iterator = iter(items())
            try:
                for item in iterator:
                    if not put(item):
                        return
            finally:
                if hasattr(iterator, "close"):
                    iterator.close()
        except BaseException as error:
            put(_END, error)
        else:
            put(_END)

    run = contextvars.copy_context().run  # so that a limit on threads holds for it too
    reader = threading.Thread(target=run, args=(produce,), name="softhead-reader", daemon=True)
    try:
        reader.start()
    except RuntimeError:
        yield from items()
        return
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
        reader.join()


def prefetching(items: Callable[[], Iterable[T]], depth: int = 1) -> "closing[Any]":
    """Return `prefetched` for a ``with`` block, at whose end the thread has ended."""
    return closing(prefetched(items, depth))
