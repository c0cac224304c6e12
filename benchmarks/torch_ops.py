"""The losses for PyTorch beside its own: forward and backward of cross_entropy and of linear_cross_entropy, on the CPU.

    python benchmarks/torch_ops.py [--threads 1 2] [--repeats 5] [--compiled] [--losses cross_entropy linear]

Figures are PyTorch's time over ours, from one run in which the contestants take turns; each time is the least of the
repeats. "eager" is F.cross_entropy, with F.linear before it for the fused loss; "chunked" is F.linear_cross_entropy
with options; "compiled" is the eager form through torch.compile, which needs a C++ compiler. With one thread, pin the
process to one core: taskset -c 1. "extra memory" is how much the resident set of the process rises above inputs and
gradients, in a process of its own.
"""

import argparse
import functools
import gc
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
from torch.nn import functional

import softhead.torch

SHAPES = [(60_000, 10), (100_000, 100), (16_384, 1000), (4096, 4096), (512, 50_000), (128, 128_000)]
LINEAR_SHAPES = [(2048, 512, 32_000), (8192, 768, 50_257)]


def least(calls, repeats):
    """Return the least time of every call; they take turns."""
    times = dict.fromkeys(calls, float("inf"))
    for name in calls:
        calls[name]()
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name] = min(times[name], time.perf_counter() - start)
    return times


def unfused(x, weight, y):
    return functional.cross_entropy(functional.linear(x, weight), y)


def chunked(x, weight, y):
    return functional.linear_cross_entropy(x, weight, y, options=torch.nn.LinearCrossEntropyOptions())


def trained(loss, *tensors):
    """Return a call of a loss and its backward pass."""

    def call():
        for tensor in tensors:
            tensor.grad = None
        loss(*tensors).backward()

    return call


def report(name, contestants, tensors, repeats):
    """Print a line: how many times as long as ours the others take."""
    times = least({key: trained(loss, *tensors) for key, loss in contestants.items()}, repeats)
    ours = times.pop("ours")
    ratios = ", ".join(f"{key} {seconds / ours:.2f}" for key, seconds in times.items())
    print(f"{name}: {ours * 1e3:.4g} ms; {ratios}", flush=True)


def tensors_for(n, d, c):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator)
    weight = torch.randn(c, d, generator=generator) / d**0.5
    return x.requires_grad_(), weight.requires_grad_(), torch.randint(c, (n,), generator=generator)


def resident():
    """Return the memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def extra_memory(n, d, c, loss):
    """Return by how many bytes a call's memory exceeds that of inputs and gradients."""
    x, weight, y = tensors_for(n, d, c)
    trained(
        loss, *(one.detach()[:64].requires_grad_() for one in (x, weight)), y[:64] % 64
    )()  # libraries, compiled loops
    gc.collect()
    gradients = 4 * (x.numel() + weight.numel())
    before, peak, done = resident(), 0, threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    trained(loss, x, weight, y)()
    done.set()
    watcher.join()
    return max(peak, resident()) - before - gradients


LOSSES = {"ours": softhead.torch.linear_cross_entropy, "eager": unfused, "chunked": chunked}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compiled", action="store_true", help="also beside torch.compile")
    parser.add_argument("--losses", nargs="+", default=["cross_entropy", "linear"])
    parser.add_argument("--shapes", nargs="+", help="n x C, or n x features x C for linear")
    parser.add_argument("--memory", help="only print the extra memory, in MB, of one of: " + ", ".join(LOSSES))
    options = parser.parse_args()
    if options.memory:
        shape = tuple(map(int, options.shapes[0].split("x")))
        print(f"{extra_memory(*shape, LOSSES[options.memory]) / 1e6:.0f}")
        return
    print(f"{platform.platform()}, Python {platform.python_version()}, PyTorch {torch.__version__}")
    given = [tuple(map(int, shape.split("x"))) for shape in options.shapes or ()]
    for threads in options.threads:
        torch.set_num_threads(threads)
        if "cross_entropy" in options.losses:
            for n, c in given or SHAPES:
                x, y = torch.randn(n, c).requires_grad_(), torch.randint(c, (n,))
                contestants = {"ours": softhead.torch.cross_entropy, "eager": functional.cross_entropy}
                if options.compiled:
                    contestants["compiled"] = torch.compile(functional.cross_entropy)
                name = f"cross_entropy {n} x {c}, {threads} threads"
                report(name, contestants, (x, y), options.repeats)
        if "linear" in options.losses:
            for shape in given or LINEAR_SHAPES:
                contestants = dict(LOSSES)
                if options.compiled:
                    contestants["compiled"] = torch.compile(unfused)
                name = f"linear_cross_entropy {' x '.join(map(str, shape))}, {threads} threads"
                report(name, contestants, tensors_for(*shape), options.repeats)
    for shape in (given or LINEAR_SHAPES) if "linear" in options.losses else ():
        command = [sys.executable, __file__, "--shapes", "x".join(map(str, shape)), "--memory"]
        run = functools.partial(subprocess.run, capture_output=True, text=True, check=True)
        memory = {name: run([*command, name]).stdout.strip() for name in LOSSES}
        print(f"extra memory {' x '.join(map(str, shape))}: {memory} MB", flush=True)


if __name__ == "__main__":
    main()
