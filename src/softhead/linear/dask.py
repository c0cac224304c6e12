"""Rows in the chunks of dask collections: an objective whose sums are made where the chunks are.

A pass is one graph. The coefficients are a node of it, every chunk gives its part of the sums, and parts are added in
a tree that depends on the number of chunks alone. All tasks are pure, so that the scheduler repeats what is lost with a
worker, and the result is the same to the last bit.
"""

import itertools
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.delayed import Delayed, delayed

from softhead.kernels.processors import processors
from softhead.linear import chunks
from softhead.linear.chunks import Chunk, Survey
from softhead.linear.objective import LinearSoftmaxObjective
from softhead.linear.summed import PartSums, SummedObjective, Sums

_BRANCHES = 8  # sums that a task adds
_SAMPLE_BYTES = 2**27  # of rows that the client holds for its metric
_CHUNK_BYTES = 2**26  # of rows in memory that are given to workers
_RESUME = "a fit with a checkpoint goes on from there"
_LOOK = 2.0  # seconds between two looks at whether workers are left
_NO_WORKERS = 60.0  # seconds without one, before a fit gives up: time to restart them


class ClusterError(ConnectionError):
    """No worker, no scheduler, or a chunk that cannot be made again."""


class Runner:
    """Runs tasks where dask would: on the cluster of the current client, else on a pool of this process."""

    def __init__(self) -> None:
        # Which scheduler holds is settled once: chunks live with it.
        owner = getattr(dask.base.get_scheduler(), "__self__", None)
        self._client = owner if hasattr(owner, "scheduler_info") else None
        self._run = uuid.uuid4().hex[:12]
        self._count = itertools.count()

    def task(self, function: Callable[..., Any], *arguments: Any, name: str = "", **options: Any) -> Delayed:
        """Return a task, whose key no other task has."""
        key = f"{name or function.__name__}-{self._run}-{next(self._count)}"
        return delayed(function, pure=False, traverse=False)(*arguments, dask_key_name=key, **options)

    def value(self, value: Any, *, name: str) -> Delayed:
        """Return a task that gives a value: many tasks may have it, and it is sent once."""
        return delayed(value, name=f"{name}-{self._run}-{next(self._count)}", traverse=False)

    def folded(self, tasks: Sequence[Delayed], add: Callable[..., Any]) -> Delayed:
        """Return a task that adds the results of others in their order, a few at a time."""
        while len(tasks) > 1:
            groups = [list(tasks[k : k + _BRANCHES]) for k in range(0, len(tasks), _BRANCHES)]
            tasks = [self.task(add, group) if len(group) > 1 else group[0] for group in groups]
        return tasks[0]

    def persist(self, tasks: Sequence[Delayed]) -> list[Delayed]:
        """Start tasks and return them as ones whose results are kept, and made again where they are lost."""
        if self._client is not None:
            return list(self._client.persist(list(tasks), optimize_graph=False))
        return list(dask.persist(*tasks, optimize_graph=False))

    def result(self, task: Delayed) -> Any:
        """Return the result of a task.

        Raises
        ------
        ClusterError
            Where no worker has been there for a minute (``softhead.no-workers-timeout`` of dask's configuration, in
            seconds), or the scheduler has given up.
        """
        if self._client is None:
            return task.compute(optimize_graph=False)
        # That coefficients travel in the graph is meant, however large they are.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"}):
            future = self._client.compute(task, optimize_graph=False)
        return self._watched(future)

    def _watched(self, future: Any) -> Any:
        from asyncio import run_coroutine_threadsafe
        from concurrent.futures import Future

        from distributed import CancelledError, wait
        from distributed.scheduler import KilledWorker, NoWorkerError

        client: Any = self._client
        patience = float(dask.config.get("softhead.no-workers-timeout", _NO_WORKERS))
        alone_since: float | None = None
        fetched: Future[Any] | None = None
        look = min(_LOOK, patience)
        try:
            while True:
                try:
                    if fetched is None:
                        wait(future, timeout=look)
                        # It is fetched under the same watch: its worker may go when it has just been made.
                        to_fetch = client.gather(future, asynchronous=True)
                        fetched = run_coroutine_threadsafe(to_fetch, client.loop.asyncio_loop)
                    return fetched.result(timeout=look)
                except TimeoutError:
                    if fetched is not None and fetched.done():
                        raise  # a task's own
                    if client.nthreads():
                        alone_since = None
                    elif alone_since is None:
                        alone_since = time.monotonic()
                    elif time.monotonic() - alone_since >= patience:
                        raise ClusterError(f"dask: no worker has been there for {patience:g} s; {_RESUME}") from None
        except (CancelledError, KilledWorker, NoWorkerError, OSError) as error:
            if isinstance(error, ClusterError):
                raise
            if isinstance(error, OSError) and future.status == "error":  # a task's: a file that cannot be read
                raise
            raise ClusterError(
                f"dask: the cluster gave up a task: {error or type(error).__name__}; {_RESUME}"
            ) from error
        finally:
            if fetched is not None:
                fetched.cancel()
            future.release()


class DaskRows:
    """Chunks of rows, kept where the scheduler has put them.

    Attributes
    ----------
    rows : list of int
        Of each chunk; chunks without rows are left out.
    """

    def __init__(self, runner: Runner, tasks: Sequence[Delayed], rows: Sequence[int], n_features: int) -> None:
        self.runner, self.n_features = runner, n_features
        self.tasks = [task for task, n in zip(tasks, rows, strict=True) if n]
        self.rows = [n for n in rows if n]
        self.n_rows = sum(self.rows)

    @classmethod
    def read(cls, X: Any, y: Any, sample_weight: Any = None) -> tuple["DaskRows", Survey]:
        """Read and check all chunks, and return them with what a fit must know of them.

        Parameters
        ----------
        X : dask array (dense or sparse chunks) or dataframe
        y, sample_weight : dask array or series, or array-like where the chunk sizes of `X` are known

        Raises
        ------
        ValueError
            With the number of the chunk, and of the row in it, on what is not a matrix of finite numbers with labels.
        """
        runner = Runner()
        features = blocks(X)
        sizes = X.chunks[0] if hasattr(X, "chunks") else None
        labels = _beside(y, "y", len(features), sizes)
        weights: Sequence[Any] = [None] * len(features)
        if sample_weight is not None:
            weights = _beside(sample_weight, "sample_weight", len(features), sizes)
        tasks = [
            runner.task(chunks.read, index, *parts)
            for index, parts in enumerate(zip(features, labels, weights, strict=True))
        ]
        tasks = runner.persist(tasks)
        survey: Survey = runner.result(
            runner.folded([runner.task(chunks.survey, task) for task in tasks], chunks.merge)
        )
        if not sum(survey.rows):
            raise ValueError("X: no chunk has a row")
        width = survey.columns[0]
        if wrong := [index for index, columns in enumerate(survey.columns) if columns != width]:
            raise ValueError(
                f"X: chunk {wrong[0]} has {survey.columns[wrong[0]]} columns, from its row 0 on; chunk 0 has {width}"
            )
        return cls(runner, tasks, survey.rows, width), survey

    def encoded(self, survey: Survey, factors: np.ndarray) -> "DaskRows":
        """Return the chunks with codes of classes for labels, and weights times the factors of their classes."""
        labels, by_class = (self.runner.value(array, name="classes") for array in (survey.labels, factors))
        tasks = [self.runner.task(chunks.encode, task, labels, by_class, survey.dtype.str) for task in self.tasks]
        return self._with(tasks, self.rows)

    def fold(self, k: int, n_folds: int) -> tuple["DaskRows", "DaskRows"]:
        """Return the rows of a fold of a cross-validation: those to fit, and every `n_folds`-th row, from k on."""
        starts = [(k - start) % n_folds for start in self._starts()]
        held = [len(range(first, n, n_folds)) for first, n in zip(starts, self.rows, strict=True)]
        kept = [n - part for n, part in zip(self.rows, held, strict=True)]
        both = []
        for others, rows in ((True, kept), (False, held)):
            tasks = [
                self.runner.task(chunks.select, task, first, n_folds, others=others)
                for task, first in zip(self.tasks, starts, strict=True)
            ]
            both.append(self._with(tasks, rows))
        return both[0], both[1]

    def sample(self) -> Chunk:
        """Return rows at a fixed stride, as many as the client can hold."""
        sizes = self.runner.result(self.runner.folded([self.runner.task(chunks.nbytes, t) for t in self.tasks], sum))
        stride = max(1, -(-sizes // _SAMPLE_BYTES))
        tasks = [
            self.runner.task(chunks.select, task, -start % stride, stride)
            for task, start in zip(self.tasks, self._starts(), strict=True)
        ]
        whole: Chunk = self.runner.result(self.runner.folded(tasks, chunks.concatenate))
        return whole

    def total(self, part_sums: PartSums, sums: Sums, coef: np.ndarray | None) -> tuple[Any, ...]:
        """Return the sum of what all chunks add, in their order."""
        function = self.runner.value(part_sums, name="terms")
        at = None if coef is None else self.runner.value(coef, name="coef")
        tasks = [self.runner.task(chunks.part_sums, task, function, sums, at, name=sums) for task in self.tasks]
        result: tuple[Any, ...] = self.runner.result(self.runner.folded(tasks, chunks.add_all))
        return result

    def weights_of_classes(self, n_classes: int) -> np.ndarray:
        """Return the sum of the weights of each class's rows."""
        tasks = [self.runner.task(chunks.weights_of_classes, task, n_classes) for task in self.tasks]
        weights: np.ndarray = self.runner.result(self.runner.folded(tasks, chunks.add_all))[0]
        return weights

    def score(self, model: Any, *, accuracy: bool) -> float:
        """Return the weighted mean over the rows of the log-probability of the true class, or the accuracy."""
        known = self.runner.value(model, name="model")
        tasks = [self.runner.task(chunks.score, task, known, accuracy) for task in self.tasks]
        total, weight = self.runner.result(self.runner.folded(tasks, chunks.add_all))
        if not weight > 0.0:
            raise ValueError(f"the {self.n_rows} rows to score have weights of the sum 0; a positive sum is needed")
        return float(total / weight)

    def _starts(self) -> list[int]:
        """Return the number of the first row of each chunk."""
        return [0, *itertools.accumulate(self.rows[:-1])]

    def _with(self, tasks: Sequence[Delayed], rows: Sequence[int]) -> "DaskRows":
        return DaskRows(self.runner, self.runner.persist(tasks), rows, self.n_features)


class DaskObjective(SummedObjective):
    """The objective over chunks on a cluster.

    Parameters
    ----------
    rows : DaskRows
        Encoded.
    sample : LinearSoftmaxObjective
        Some of the rows, in memory, without the penalty.
    total_weight : float
        The sum of the weights of all rows.
    l2 : float
    """

    def __init__(self, rows: DaskRows, sample: LinearSoftmaxObjective, *, total_weight: float, l2: float) -> None:
        super().__init__(sample, n_rows=rows.n_rows, total_weight=total_weight, l2=l2)
        self.rows = rows

    def sum_over_parts(self, sums: Sums, coef: np.ndarray | None = None) -> tuple[Any, ...]:
        """Return the sums over all chunks: one task a chunk, and a tree of additions."""
        return self.rows.total(self.part_sums, sums, coef)


def blocks(X: Any) -> list[Delayed]:
    """Return the chunks of a dask collection, whole rows each."""
    if hasattr(X, "chunks"):
        if X.ndim > 1 and len(X.chunks[1]) > 1:
            X = X.rechunk({1: -1})
        return list(X.to_delayed().ravel())
    return list(X.to_delayed())


@contextmanager
def workers(address: str | None = None) -> Iterator[Callable[[Any, np.ndarray], tuple[Any, Any]]]:
    """Work on the cluster at an address, or on a local one of a process for each processor, inside a ``with`` block.

    What is yielded divides rows in memory, and their labels, into chunks for the workers.
    """
    from distributed import Client, LocalCluster

    with ExitStack() as stack:
        # The rows travel in the graph, from which a chunk can be made again; that is meant as well.
        stack.enter_context(dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"}))
        if address is None:
            options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": logging.CRITICAL}
            address = stack.enter_context(LocalCluster(n_workers=processors(), **options)).scheduler_address
        client = stack.enter_context(Client(address))
        yield partial(_divided, n_threads=max(1, sum(client.nthreads().values())))


def _divided(X: Any, y: np.ndarray, *, n_threads: int) -> tuple[Any, Any]:
    """Return rows and labels in memory as dask arrays, of at least two chunks a thread."""
    n_bytes = X.nbytes if isinstance(X, np.ndarray) else X.data.nbytes + X.indices.nbytes
    n_chunks = min(X.shape[0], max(2 * n_threads, -(-n_bytes // _CHUNK_BYTES)))
    ends = [len(y) * k // n_chunks for k in range(n_chunks + 1)]
    both = []
    for name, array in (("X", X), ("y", y)):
        parts = [
            da.from_delayed(
                delayed(array[start:end], name=f"{name}-{uuid.uuid4().hex}", traverse=False),
                (end - start, *array.shape[1:]),
                meta=np.empty((0,) * array.ndim, array.dtype),
            )
            for start, end in pairwise(ends)
        ]
        both.append(da.concatenate(parts))
    return both[0], both[1]


def over_rows(X: Any, model: Any, method: str, width: int | None, dtype: np.dtype) -> Any:
    """Return a dask array of what a method of a model says of the rows, `width` numbers each or one."""
    known = delayed(model, traverse=False)
    meta = np.empty((0,) if width is None else (0, width), dtype)
    if not hasattr(X, "chunks"):
        return X.map_partitions(chunks.predict, known, method, meta=meta)
    X = X.rechunk({1: -1})
    if width is None:
        return X.map_blocks(chunks.predict, known, method, dtype=dtype, drop_axis=1, meta=meta)
    return X.map_blocks(chunks.predict, known, method, dtype=dtype, chunks=(X.chunks[0], (width,)), meta=meta)


def _beside(values: Any, name: str, n_chunks: int, sizes: tuple[float, ...] | None) -> list[Any]:
    """Return the chunks of labels or weights that belong to those of the rows."""
    known = sizes is not None and not np.isnan(sizes).any()
    if not dask.is_dask_collection(values):
        values = np.asarray(values)
        if not values.ndim:
            raise ValueError(f"{name}: the single value {values}; one for each row is needed")
        if not known:
            raise ValueError(
                f"{name}: a {type(values).__name__} beside chunks of unknown sizes; a dask array or series with the "
                "same chunks is needed, or X.compute_chunk_sizes()"
            )
        if len(values) != sum(sizes or ()):
            raise ValueError(f"{name}: {len(values)} rows; X has {int(sum(sizes or ()))}")
        values = da.from_array(values, chunks=(sizes, *((n,) for n in values.shape[1:])))
    elif known and hasattr(values, "chunks") and not np.isnan(values.chunks[0]).any():
        if sum(values.chunks[0]) != sum(sizes or ()):
            raise ValueError(f"{name}: {sum(values.chunks[0])} rows; X has {sum(sizes or ())}")
        values = values.rechunk({0: sizes})
    found = blocks(values)
    if len(found) != n_chunks:
        raise ValueError(f"{name}: {len(found)} chunks; X has {n_chunks}, and both must be divided alike")
    return found
