"""The functions of rows of `gpu.py`: times beside PyTorch's and other kernels', and beside copying memory."""

import torch
import torch._functorch.config
from torch.nn import functional

import softhead.torch

WIDTHS = [4096, 32_768, 131_072, 1000, 262_144, 128_256, 16_384]
ENTRIES = 2**28
torch._functorch.config.donated_buffer = False  # or compiled functions refuse a second backward pass


def peers(function, session):
    """Return the contestants for a function of rows, by name: callables of (x, y), some of which may not be there."""
    ours = {"softmax": softhead.torch.softmax, "log_softmax": softhead.torch.log_softmax}
    if function != "cross_entropy":
        eager = getattr(functional, function)
        found = {
            "ours": lambda x, _: ours[function](x, 1),
            "eager": lambda x, _: eager(x, dim=1),
        }
        compiled = torch.compile(lambda x: eager(x, dim=1))
        found["compiled"] = lambda x, _: compiled(x)
    else:
        found = {"ours": softhead.torch.cross_entropy, "eager": functional.cross_entropy}
        found["compiled"] = torch.compile(functional.cross_entropy)
    if session.tiny:  # compiling takes longer than everything else
        del found["compiled"]
    return found | optional(function)


def optional(function):
    """Return the contestants of libraries that may be installed."""
    found = {}
    try:
        from liger_kernel.transformers import functional as liger

        if function == "softmax":
            found["liger"] = lambda x, _: liger.liger_softmax(x)
        elif function == "cross_entropy":
            found["liger"] = lambda x, y: liger.liger_cross_entropy(x, y)
    except ImportError:
        pass
    try:
        if function == "softmax":
            from quack.softmax import softmax

            found["quack"] = lambda x, _: softmax(x)
        elif function == "cross_entropy":
            from quack.cross_entropy import cross_entropy

            found["quack"] = lambda x, y: cross_entropy(x, y, reduction="mean")
    except Exception:  # its own needs may be missing
        pass
    return found


def with_gradient(loss, x, y):
    """Return a call of a loss and of its backward pass."""

    def call():
        x.grad = None
        loss(x, y).backward()

    return call


def gradient_alone(function, x, cotangent):
    """Return a call of the backward pass of a function, whose forward pass is made in the first one."""
    kept = []

    def call():
        if not kept:
            kept.append(function(x, None))
        torch.autograd.grad(kept[0], x, cotangent, retain_graph=True)

    return call


def run(session):
    """Record the figures of each width, dtype and function."""
    for n_columns in (1000,) if session.tiny else WIDTHS:
        n_rows = max(1, (2**15 if session.tiny else ENTRIES) // n_columns)
        for dtype in (torch.bfloat16, torch.float32):
            x = torch.randn(n_rows, n_columns, device=session.device).to(dtype)
            y = torch.randint(n_columns, (n_rows,), device=session.device)
            for function in ("cross_entropy", "softmax", "log_softmax", "softmax gradient", "log_softmax gradient"):
                if session.expired():
                    return
                torch._dynamo.reset()
                measure(session, function, x, y)


def measure(session, function, x, y):
    """Record the contestants' medians, and ours as a share of the copy bandwidth.

    One read and one write are counted; for a gradient alone two reads.
    """
    function, _, gradient = function.partition(" ")
    contestants = peers(function, session)
    if gradient:  # of what comes from above and a result that is kept
        leaf, cotangent = x.detach().requires_grad_(), torch.randn_like(x)
        calls = {name: gradient_alone(call, leaf, cotangent) for name, call in contestants.items()}
    elif function == "cross_entropy":
        leaf = x.detach().requires_grad_()
        calls = {name: with_gradient(loss, leaf, y) for name, loss in contestants.items()}
    else:
        calls = {name: lambda call=call: call(x, y) for name, call in contestants.items()}
    medians, errors = session.medians(calls, spend=0.4)
    ours = medians.pop("ours", float("nan"))
    ratios = {name: seconds / ours for name, seconds in medians.items()}
    copied = session.ceilings.get("copy", float("nan"))
    session.record(
        function=f"{function} {gradient}".strip(),
        dtype=str(x.dtype).removeprefix("torch."),
        rows=len(x),
        columns=x.shape[1],
        ms=1e3 * ours,
        of_copy=(3 if gradient else 2) * x.numel() * x.element_size() / ours / copied,
        times_ours=", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()),
        best_peer=min(ratios.values(), default=float("nan")),
        missing=", ".join(f"{name}: {error}" for name, error in errors.items()),
    )
