"""The fused linear loss beside its three matrix products and beside PyTorch: value and gradients.

Run it as a script, with PyTorch installed or without:

    python benchmarks/fused.py [--shapes 2048x512x32000 8192x768x50257] [--repeats 3]

Times are the least of the repeats, in which the contestants take turns. "products" are NumPy's three float32 products
at full size, the floor for anything that goes through BLAS; "unfused" is F.linear and F.cross_entropy, forward and
backward; "chunked" is PyTorch's own F.linear_cross_entropy with options, where the installed version has it. Extra
memory is the peak that NumPy allocated beyond inputs and results, in a call of its own.
"""

import argparse
import importlib.util
import platform
import time
import tracemalloc

import numpy as np

import softhead


def least(calls, repeats):
    """Return the least time of every call; they take turns."""
    times = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name] = min(times[name], time.perf_counter() - start)
    return times


def torch_calls(x, weight, y):
    """Return PyTorch's ways, by name."""
    import torch
    from torch.nn import functional

    tensors = [torch.from_numpy(array).requires_grad_() for array in (x, weight)]
    labels = torch.from_numpy(y)

    def run(loss):
        for tensor in tensors:
            tensor.grad = None
        loss().backward()

    calls = {"unfused": lambda: run(lambda: functional.cross_entropy(functional.linear(*tensors), labels))}
    if hasattr(functional, "linear_cross_entropy"):
        options = functional.LinearCrossEntropyOptions() if hasattr(functional, "LinearCrossEntropyOptions") else None
        calls["chunked"] = lambda: run(lambda: functional.linear_cross_entropy(*tensors, labels, options=options))
    return calls


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shapes", nargs="+", default=["2048x512x32000", "8192x768x50257"], help="rows x features x classes"
    )
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"{platform.platform()}, Python {platform.python_version()}, NumPy {np.__version__}")
    print("| rows x features x classes | softhead | products / ours | unfused / ours | chunked / ours | extra memory |")
    print("|---|---|---|---|---|---|")
    for shape in options.shapes:
        n, d, c = map(int, shape.split("x"))
        rng = np.random.default_rng(0)
        x = rng.standard_normal((n, d), dtype=np.float32)
        weight = rng.standard_normal((c, d), dtype=np.float32) / np.float32(d**0.5)
        y = rng.integers(0, c, n)

        def products(x=x, weight=weight):
            logits = x @ weight.T
            return logits @ weight, logits.T @ x

        def ours(x=x, weight=weight, y=y):
            return softhead.linear_cross_entropy_value_and_grad(x, weight, y)

        ours()
        tracemalloc.start()
        ours()
        extra = (tracemalloc.get_traced_memory()[1] - x.nbytes - weight.nbytes) / 1e6
        tracemalloc.stop()
        calls = {"ours": ours, "products": products}
        if importlib.util.find_spec("torch"):
            calls |= torch_calls(x, weight, y)
        times = least(calls, options.repeats)
        ratios = [
            f"{times[name] / times['ours']:.2f}" if name in times else "" for name in ("products", "unfused", "chunked")
        ]
        print(f"| {shape} | {times['ours']:.3g} s | {' | '.join(ratios)} | {extra:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
