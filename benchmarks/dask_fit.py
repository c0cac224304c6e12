"""Fits over Dask workers beside the fit in memory: the same optimum, the same bits, workers killed, seconds a pass.

    python benchmarks/dask_fit.py {optimum,kills,lost,passes} [--data FOLDER] [--only NAME ...] [--workers 3] [--most N]
        [--chunks 1 2 7 uneven]

``optimum``: the objective reached on 1, 2 and 7 chunks a worker, and on uneven ones, relative to that in memory, both
certified to 5e-7; and whether a second fit gives the same bits. Without --only, then a smaller set in float64 at
tol=1e-10: how far its coefficients are from those in memory. ``kills``: a worker gets SIGKILL at a random moment of a
fit, five times; are the coefficients those of the undisturbed fit, to the last bit? ``lost``: all workers go, and none
comes back: the error, and the fit that resumes from its checkpoint on new workers. ``passes``: seconds of a pass over
a synthetic set on 1, 2 and 4 workers, and of one over next to no rows, which is what the tasks themselves cost.

The rows lie in files that the workers read, so that a chunk can be made again. Without --data, only digits are fitted.
"""

import argparse
import logging
import os
import platform
import signal
import tempfile
import threading
import time
from pathlib import Path

import dask
import dask.array as da
import data_sets
import distributed
import numpy as np
from data_sets import gaussian_classes
from distributed import Client, LocalCluster

import softhead
from softhead._lazy import LazyRows

TOL = 5e-7
DIVISIONS = ("1", "2", "7", "uneven")  # chunks a worker


def rows_of(path, start, stop):
    return np.load(path, mmap_mode="r")[start:stop]


def stored(folder, name, array, sizes):
    """Return a dask array whose chunks are read from a file in a folder."""
    path = folder / f"{name}.npy"
    if not path.exists():
        np.save(path, array)
    ends = np.cumsum(sizes)
    parts = [
        da.from_delayed(dask.delayed(rows_of)(str(path), int(end - n), int(end)), (n, *array.shape[1:]), array.dtype)
        for n, end in zip(sizes, ends, strict=True)
    ]
    return da.concatenate(parts)


def even(n_rows, n_chunks):
    return [len(part) for part in np.array_split(np.arange(n_rows), n_chunks)]


def uneven(n_rows, n_chunks):
    """Sizes in the proportions 1, 4, 9, ..."""
    ends = np.linspace(0.0, 1.0, n_chunks + 1) ** 3 * n_rows
    return np.diff(np.round(ends).astype(int)).tolist()


def cluster(n_workers, **options):
    return LocalCluster(
        n_workers=n_workers, threads_per_worker=1, processes=True, dashboard_address=":0",
        silence_logs=logging.CRITICAL, **options
    )  # fmt: skip


def same(a, b):
    return np.array_equal(a.coef_, b.coef_) and np.array_equal(a.intercept_, b.intercept_)


def problems(arguments, only=None):
    """Yield the data sets, or some rows of each at a fixed stride."""
    for name, X, y, penalties in data_sets.problems(arguments.data, only or arguments.only):
        stride = 1 if arguments.most is None else -(-len(X) // arguments.most)
        yield name, X[::stride], y[::stride], penalties


class After:
    """A callback that does something once a fit has made so many passes."""

    def __init__(self, n_passes, action):
        self.n_passes, self.action, self.done = n_passes, action, False

    def setup(self, estimator, context):
        """Do nothing yet."""

    teardown = on_fit_task_begin = setup

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        """Look at the passes so far."""
        if not self.done and fitted_estimator.n_passes_ >= self.n_passes:
            self.done = True
            self.action()


def fit(X, y, callback=None, **options):
    start = time.perf_counter()
    model = softhead.SoftmaxClassifier(max_iter=5000, **options)
    if callback is not None:
        model.set_callbacks(callback)
    model.fit(X, y)
    return time.perf_counter() - start, model


def optimum(arguments, folder):
    with cluster(arguments.workers) as local, Client(local):
        columns = ("data", "C", "chunks", "in memory", f"{arguments.workers} workers", "F / F in memory - 1", "gap / F")
        print(f"| {' | '.join(columns)} | bits again |")
        print("|---|---|---|---|---|---|---|---|")
        for name, X, y, penalties in problems(arguments):
            for C in penalties:
                alone, expected = fit(X, y, C=C, tol=TOL)
                for label, sizes in divisions(len(X), arguments):
                    parts = stored(folder, name, X, sizes), stored(folder, f"{name}-y", y, sizes)
                    took, model = fit(*parts, C=C, tol=TOL)
                    again = fit(*parts, C=C, tol=TOL)[1]
                    print(
                        f"| {name} | {C:.3g} | {label} | {alone:.1f} s | {took:.1f} s "
                        f"| {model.objective_ / expected.objective_ - 1:.1e} | {model.gap_ / model.objective_:.1e} "
                        f"| {'yes' if same(model, again) else 'NO'} |",
                        flush=True,
                    )
        for name, X, y in smaller(arguments) if not arguments.only else ():
            expected = fit(X, y, tol=1e-10)[1]
            for label, sizes in divisions(len(X), arguments):
                model = fit(stored(folder, f"{name}-64", X, sizes), stored(folder, f"{name}-64-y", y, sizes), tol=1e-10)
                difference = np.abs(model[1].coef_ - expected.coef_).max()
                print(f"{name}, float64, tol=1e-10, {label}: coefficients within {difference:.1e}", flush=True)


def divisions(n_rows, arguments):
    for name in arguments.chunks:
        if name == "uneven":
            yield name, uneven(n_rows, 2 * arguments.workers + 1)
        else:
            yield f"{name} a worker", even(n_rows, int(name) * arguments.workers)


def smaller(arguments):
    for name, X, y, _ in problems(arguments, ["digits"] if arguments.data is None else ["mnist", "clinc150"]):
        yield name, X[:6000].astype(np.float64), y[:6000]


def kills(arguments, folder):
    rng = np.random.default_rng(0)
    print("| data | kill after pass | undisturbed | seconds | the same bits |\n|---|---|---|---|---|")
    for name, X, y, penalties in problems(arguments):
        sizes = even(len(X), 3 * arguments.workers)
        parts = stored(folder, name, X, sizes), stored(folder, f"{name}-y", y, sizes)
        options = {"C": penalties[-1], "tol": TOL}
        with cluster(arguments.workers) as local, Client(local):
            fit(*parts, **options)
            usual, expected = fit(*parts, **options)
        for _ in range(5):
            with cluster(arguments.workers) as local, Client(local) as client:
                victim = int(rng.choice(list(client.run(os.getpid).values())))
                at = expected.n_passes_ * rng.uniform(0.05, 0.9)
                delay = rng.uniform() * usual / expected.n_passes_
                killer = After(at, threading.Timer(delay, os.kill, (victim, signal.SIGKILL)).start)
                took, model = fit(*parts, callback=killer, **options)
                assert killer.done
                print(f"| {name} | {at:.1f} of {expected.n_passes_} | {usual:.2f} s | {took:.2f} s ", end="")
                print(f"| {'yes' if same(model, expected) else 'NO'} |", flush=True)


def lost(arguments, folder):
    for name, X, y, penalties in problems(arguments):
        checkpoint = folder / f"{name}.checkpoint"
        sizes = even(len(X), 2 * arguments.workers)
        parts = stored(folder, name, X, sizes), stored(folder, f"{name}-y", y, sizes)
        options = {"C": penalties[-1], "tol": TOL}
        with cluster(arguments.workers) as local, Client(local):
            fit(*parts, **options)
            usual, expected = fit(*parts, **options)
        with (
            cluster(arguments.workers) as local,
            Client(local),
            dask.config.set({"softhead.no-workers-timeout": 2.0}),
        ):
            ending = After(expected.n_passes_ / 2, lambda: local.scale(0))
            try:
                fit(*parts, callback=ending, checkpoint=checkpoint, **options)
                print(f"{name}: NO error")
            except ConnectionError as error:
                print(f"{name}: {error}")
        with cluster(arguments.workers) as local, Client(local):
            took, model = fit(*parts, checkpoint=checkpoint, **options)
        print(
            f"{name}: resumed in {took:.2f} s, undisturbed {usual:.2f} s, the same bits: "
            f"{'yes' if same(model, expected) else 'NO'}",
            flush=True,
        )


def passes(arguments, folder):
    n_rows, n_features, n_classes = arguments.rows, 256, 50
    X, y = gaussian_classes(n_rows, n_features, n_classes)
    print(f"{n_rows} x {n_features} float32, {n_classes} classes; the sums of a chunk are {8 * n_classes * 257} bytes")
    print("| workers | chunks | a pass | GFLOP/s | of next to no rows | ms a chunk | bytes of sums |")
    print("|---|---|---|---|---|---|---|")
    for n_workers in (1, 2, 4):
        with cluster(n_workers) as local, Client(local):
            for each in (1, 4, 16):
                sizes = even(n_rows, each * n_workers)
                full = pass_seconds(stored(folder, "passes", X, sizes), stored(folder, "passes-y", y, sizes))
                few = [50] * len(sizes)
                empty = pass_seconds(
                    stored(folder, f"few-{len(few)}", X[: sum(few)], few),
                    stored(folder, f"few-{len(few)}-y", np.arange(sum(few)) % n_classes, few),
                )
                rate = 4e-9 * n_rows * n_features * n_classes / full
                print(
                    f"| {n_workers} | {len(sizes)} | {full:.3f} s | {rate:.0f} "
                    f"| {empty:.3f} s | {1e3 * empty / len(sizes):.1f} | {len(sizes) * 8 * n_classes * 257:.2g} |",
                    flush=True,
                )


def pass_seconds(X, y):
    """Return the least seconds of a pass."""
    model = softhead.SoftmaxClassifier()
    objective = LazyRows.read(model, X, y, None).objective(C=1.0, fit_intercept=True)
    coef = 1e-3 * np.random.default_rng(0).standard_normal(objective.shape)
    objective.loss_gradient(coef)
    times = []
    for _ in range(9):
        start = time.perf_counter()
        objective.loss_gradient(coef)
        times.append(time.perf_counter() - start)
    return min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["optimum", "kills", "lost", "passes"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--chunks", nargs="+", default=DIVISIONS, choices=DIVISIONS, help="of `optimum`")
    parser.add_argument("--most", type=int, help="rows of each data set, at a fixed stride")
    parser.add_argument("--rows", type=int, default=400_000, help="of the synthetic set of passes")
    arguments = parser.parse_args()
    print(
        f"softhead {softhead.__version__}, distributed {distributed.__version__}, {os.cpu_count()} processors, "
        f"{platform.machine()}"
    )
    with tempfile.TemporaryDirectory() as folder:
        globals()[arguments.what](arguments, Path(folder))


if __name__ == "__main__":
    main()
