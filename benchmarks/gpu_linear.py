"""The fused loss of `gpu.py`: its time beside its three matrix products and beside other libraries, and its memory."""

import gc

import torch
from torch.nn import functional

import softhead.torch

FEATURES, CLASSES = 4096, 128_256
ROWS = [2048, 8192, 4096, 16_384, 1024]


def products(x, weight):
    """Return a call of the three matrix products alone, with all logits in memory."""
    logits = torch.randn(len(x), len(weight), dtype=x.dtype, device=x.device)
    into, by_x, by_weight = torch.empty_like(logits), torch.empty_like(x), torch.empty_like(weight)

    def call():
        torch.mm(x, weight.mT, out=into)
        torch.mm(logits, weight, out=by_x)
        torch.mm(logits.mT, x, out=by_weight)

    return call


def contestants(session):
    """Return losses of (x, weight, y) by name."""

    def eager(x, weight, y):
        return functional.cross_entropy(functional.linear(x, weight), y)

    found = {"ours": softhead.torch.linear_cross_entropy, "eager": eager}
    if not session.tiny:
        found["compiled"] = torch.compile(eager)
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        options = torch.nn.LinearCrossEntropyOptions()
        found["chunked"] = lambda x, w, y: functional.linear_cross_entropy(x, w, y, options=options)
    try:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        found["liger"] = liger_fused_linear_cross_entropy
    except ImportError:
        pass
    try:
        from quack.linear_cross_entropy import chunked_linear_cross_entropy

        found["quack"] = lambda x, w, y: chunked_linear_cross_entropy(x, w, y, chunk_size=4096)
    except Exception:  # its own needs may be missing
        pass
    try:
        from cut_cross_entropy import linear_cross_entropy

        found["cut"] = linear_cross_entropy
    except Exception:  # its own needs may be missing
        pass
    return found


def trained(loss, x, weight, y):
    """Return a call of a loss and its backward pass."""

    def call():
        x.grad = weight.grad = None
        loss(x, weight, y).backward()

    return call


def extra_memory(call, x, weight):
    """Return by how many bytes a call's memory exceeds that of inputs and gradients."""
    gc.collect()
    x.grad = weight.grad = None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    gradients = sum(one.grad.numel() * one.grad.element_size() for one in (x, weight))
    return torch.cuda.max_memory_allocated() - before - gradients


def run(session):
    """Record, for each number of rows, medians, the products' share, and memory."""
    shape = (16, 300) if session.tiny else (FEATURES, CLASSES)
    for n in (40,) if session.tiny else ROWS:
        if session.expired():
            return
        measure(session, n, *shape)
        if session.on_gpu:
            torch.cuda.empty_cache()


def measure(session, n, d, c):
    """Record the figures of n rows, d features and c classes."""
    torch._dynamo.reset()
    x = torch.randn(n, d, device=session.device).bfloat16().requires_grad_()
    weight = (torch.randn(c, d, device=session.device) / d**0.5).bfloat16().requires_grad_()
    y = torch.randint(c, (n,), device=session.device)
    calls = {name: trained(loss, x, weight, y) for name, loss in contestants(session).items()}
    memory = {}
    for name, call in list(calls.items()) if session.on_gpu else ():
        try:
            call()
            memory[name] = extra_memory(call, x, weight)
        except Exception as error:
            session.record(rows=n, failed=name, why=f"{type(error).__name__}: {str(error)[:200]}")
            del calls[name]
    x.grad = weight.grad = None
    calls["products"] = products(x.detach(), weight.detach())
    medians, errors = session.medians(calls, spend=2.0)
    ours = medians.pop("ours", float("nan"))
    session.record(
        rows=n,
        features=d,
        classes=c,
        ms=1e3 * ours,
        of_products=ours / medians["products"],
        tflops=6 * n * d * c / ours / 1e12,
        times_ours=", ".join(f"{name} {seconds / ours:.2f}" for name, seconds in medians.items()),
        extra_gb=", ".join(f"{name} {size / 1e9:.2f}" for name, size in memory.items()),
        missing=", ".join(f"{name}: {error}" for name, error in errors.items()),
    )
