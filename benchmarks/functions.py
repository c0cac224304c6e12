"""The softmax family beside PyTorch and SciPy: how many times as fast, and what fraction of the speed of a copy.

    python benchmarks/functions.py [--threads 1 all] [--dtypes float32 float64] [--repeats 15] [--quick]

Every figure is a ratio of two times from this run: the contestants take turns, and each time is the least of the
repeats. "new" returns a new array, as a user calls it; "out" writes into one that is there already, so that what the
operating system takes for fresh memory does not count. "copy" is the time of numpy.copyto of the logits over ours (of
two copies where a gradient is written beside a loss, it counts as one). With one thread, pin the process to one core:
taskset -c 1. PyTorch and SciPy are left out where they are not installed.

`FUNCTIONS` is the one table of what is measured; the tests hold every row of it to its definition.
"""

import argparse
import functools
import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import softhead
from softhead.kernels import reference

SHAPES = [(60_000, 10), (100_000, 100), (16_384, 1000), (4096, 4096), (512, 50_000), (128, 128_000)]


class Function(NamedTuple):
    """A function of logits (n, C) and labels (n,), its definition, and what others call it."""

    name: str
    ours: Callable[..., Any]
    definition: Callable[..., Any]
    bounds: dict[str, int]  # in units in the last place, by dtype
    torch: Callable[..., Any]
    scipy: Callable[..., Any] | None = None
    writes: bool = False  # takes out=
    terms: Callable[..., Any] | None = None  # of what the result is the sum: the bound is in units of theirs


def _one_hot(x, y):
    q = np.zeros(x.shape, np.longdouble)
    q[np.arange(len(y)), y] = 1
    return q


def _torch_value_and_grad(torch, x, y):
    x.grad = None
    torch.nn.functional.cross_entropy(x.requires_grad_(), y, reduction="sum").backward()
    return x.grad


@functools.lru_cache(1)
def _probabilities(n, c, dtype):
    """Return targets that are probabilities, always the same."""
    return np.random.default_rng(1).dirichlet(np.ones(c), n).astype(dtype)


def _with_options(name, temperature=1.0, smoothing=0.0, soft=False):
    """Return the line of a value and gradient with options, beside PyTorch's forward and backward."""

    def wanted(x, y):
        return reference.smooth(_probabilities(*x.shape, x.dtype.name) if soft else _one_hot(x, y), smoothing)

    def by_torch(torch, x, y):
        x.grad = None
        logits = x.requires_grad_() if temperature == 1.0 else x.requires_grad_() / temperature
        targets = torch.from_numpy(_probabilities(*x.shape, str(x.dtype).removeprefix("torch."))) if soft else y
        loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
        loss.backward()
        return x.grad

    return Function(
        f"cross_entropy_value_and_grad, {name}",
        lambda x, y: softhead.cross_entropy_value_and_grad(
            x,
            _probabilities(*x.shape, x.dtype.name) if soft else y,
            temperature=temperature,
            label_smoothing=smoothing,
            reduction="sum",
        )[1],
        lambda x, y: reference.cross_entropy_gradient(x, wanted(x, y), temperature),
        {"float32": 4, "float64": 8},
        by_torch,
        terms=lambda x, y: (reference.softmax(x, temperature) + wanted(x, y)) / temperature,
    )


FUNCTIONS = [
    Function(
        "softmax",
        lambda x, y, **out: softhead.softmax(x, **out),
        lambda x, y: reference.softmax(x),
        {"float32": 2, "float64": 2},
        lambda torch, x, y, **out: torch.softmax(x.detach(), -1, **out),
        lambda special, x, y: special.softmax(x, axis=-1),
        writes=True,
    ),
    Function(
        "log_softmax",
        lambda x, y, **out: softhead.log_softmax(x, **out),
        lambda x, y: reference.log_softmax(x),
        {"float32": 4, "float64": 8},
        lambda torch, x, y, **out: torch.log_softmax(x.detach(), -1, **out),
        lambda special, x, y: special.log_softmax(x, axis=-1),
        writes=True,
    ),
    Function(
        "logsumexp",
        lambda x, y: softhead.logsumexp(x),
        lambda x, y: reference.logsumexp(x)[:, 0],
        {"float32": 4, "float64": 8},
        lambda torch, x, y: torch.logsumexp(x.detach(), -1),
        lambda special, x, y: special.logsumexp(x, axis=-1),
    ),
    Function(
        "cross_entropy",
        lambda x, y: softhead.cross_entropy(x, y, reduction="none"),
        lambda x, y: reference.cross_entropy(x, _one_hot(x, y)),
        {"float32": 4, "float64": 8},
        lambda torch, x, y: torch.nn.functional.cross_entropy(x.detach(), y, reduction="none"),
    ),
    Function(
        "cross_entropy_value_and_grad",
        lambda x, y: softhead.cross_entropy_value_and_grad(x, y, reduction="sum")[1],
        lambda x, y: reference.cross_entropy_gradient(x, _one_hot(x, y)),
        {"float32": 4, "float64": 8},
        _torch_value_and_grad,
    ),
    Function(
        "softmax, temperature",
        lambda x, y, **out: softhead.softmax(x, temperature=0.7, **out),
        lambda x, y: reference.softmax(x, 0.7),
        {"float32": 2, "float64": 2},
        lambda torch, x, y, **out: torch.softmax(x.detach() / 0.7, -1, **out),
        writes=True,
    ),
    _with_options("temperature", temperature=0.7),
    _with_options("label smoothing", smoothing=0.1),
    _with_options("probabilities", soft=True),
]


def measure(contestants, repeats):
    """Return the least time of every contestant; they take turns."""
    least = [float("inf")] * len(contestants)
    for _ in range(repeats):
        for i, call in enumerate(contestants):
            start = time.perf_counter()
            call()
            least[i] = min(least[i], time.perf_counter() - start)
    return least


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", nargs="+", default=["1", "all"], choices=["1", "all"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"], choices=["float32", "float64"])
    parser.add_argument("--functions", nargs="+", default=[one.name for one in FUNCTIONS])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--scipy", action="store_true", help="also beside SciPy, which takes long")
    options = parser.parse_args()
    torch = special = None
    if importlib.util.find_spec("torch"):
        import torch
    if options.scipy and importlib.util.find_spec("scipy"):
        from scipy import special

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{platform.processor() or platform.machine()}, {platform.platform()}, Python {platform.python_version()}")
    versions = [f"{module.__name__} {module.__version__}" for module in (softhead, np, torch) if module]
    print(f"{', '.join(versions)}; {cores} cores\n")
    header = ["function", "dtype", "threads", *(f"{n}x{c}" for n, c in SHAPES), "geometric mean"]
    print(f"| {' | '.join(header)} |")
    print("|---" * len(header) + "|")
    for threads in options.threads:
        n_threads = 1 if threads == "1" else cores
        if torch:
            torch.set_num_threads(n_threads)
        for dtype in options.dtypes:
            for function in FUNCTIONS:
                if function.name in options.functions:
                    with softhead.num_threads(n_threads):
                        report(function, dtype, n_threads, options.repeats, torch, special)


def report(function, dtype, n_threads, repeats, torch, special):
    """Print a line for each comparison of one function."""
    lines = {}
    for n, c in SHAPES:
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((n, c)).astype(dtype), rng.integers(0, c, n)
        target = np.empty_like(x)
        calls = {"ours": lambda: function.ours(x, y), "copy": lambda: np.copyto(target, x)}  # noqa: B023
        if torch:
            x_torch, y_torch = torch.from_numpy(x.copy()), torch.from_numpy(y)
            calls["torch, new"] = lambda: function.torch(torch, x_torch, y_torch)  # noqa: B023
        if function.writes:
            calls["ours, out"] = lambda: function.ours(x, y, out=target)  # noqa: B023
            if torch:
                target_torch = torch.empty_like(x_torch)
                calls["torch, out"] = lambda: function.torch(torch, x_torch, y_torch, out=target_torch)  # noqa: B023
        if special and function.scipy:
            calls["scipy"] = lambda: function.scipy(special, x, y)  # noqa: B023
        for call in calls.values():
            call()
        times = dict(zip(calls, measure(list(calls.values()), repeats), strict=True))
        for name, seconds in times.items():
            if name not in ("ours", "ours, out"):
                own = times["ours, out" if name == "torch, out" or (name == "copy" and function.writes) else "ours"]
                lines.setdefault(name, []).append(seconds / own)
    for name, ratios in lines.items():
        cells = [f"{ratio:.2f}" for ratio in (*ratios, statistics.geometric_mean(ratios))]
        print(f"| {function.name} / {name} | {dtype} | {n_threads} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
