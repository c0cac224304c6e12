"""Numbers of warps and sizes of tiles for the kernels of `gpu.py`: which are the quickest on this device."""

import contextlib
import itertools

import gpu_linear
import gpu_rows
import torch

import softhead.torch

WIDTHS = [4096, 131_072, 32_768, 1000, 262_144, 16_384]
WHOLE = [{"WARP_BYTES": size} for size in (1024, 2048, 4096)]
CLUSTERS = [{"MOST_CTAS": ctas, "LARGEST_TILE": size} for ctas in (8, 16) for size in (32_768, 65_536)]
BLOCKS = [
    {"BLOCK": block, "BLOCK_WARPS": warps, "LARGEST_TILE": 32_768}
    for block, warps in itertools.product((4096, 8192, 16_384), (4, 8, 16, 32))
    if 128 <= block // warps <= 2048
]


@contextlib.contextmanager
def patched(module, **values):
    """Give a module's names other values for a while."""
    before = {name: getattr(module, name) for name in values}
    try:
        for name, value in values.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def run(session):
    """Record every choice's time, as a share of the copy bandwidth, and whether its results are right."""
    if not session.on_gpu:
        session.record(tune="needs a CUDA device")
        return
    tune_linear(session)
    for n_columns, dtype in itertools.product(WIDTHS, (torch.bfloat16, torch.float32)):
        x = torch.randn(gpu_rows.ENTRIES // n_columns, n_columns, device=session.device).to(dtype)
        y = torch.randint(n_columns, (len(x),), device=session.device)
        for function in ("cross_entropy", "softmax"):
            tune(session, function, x, y)


def tune(session, function, x, y):
    """Record the choices for a function of rows."""
    from softhead.kernels import triton as kernels

    n_bytes = x.shape[1] * x.element_size()
    out, losses = torch.empty_like(x), torch.empty(len(x), dtype=torch.float64, device=x.device)
    scale = torch.ones((), dtype=torch.float64, device=x.device)

    def call():
        if function == "softmax":
            kernels.softmax(x, out)
        else:
            kernels.cross_entropy(x, y, losses, out, scale=scale)

    call()
    expected = out[:64].clone()
    choices = (WHOLE if n_bytes <= 65_536 else CLUSTERS) + (BLOCKS if n_bytes > 32_768 else [])
    for values in choices:
        if session.expired():
            return
        with patched(kernels, **values):
            out.fill_(float("nan"))
            medians, errors = session.medians({"call": call}, spend=0.05)
            right = torch.allclose(out[:64], expected, rtol=2**-7 if x.element_size() == 2 else 1e-6, atol=1e-30)
        if not errors:
            rate = 2 * x.numel() * x.element_size() / medians["call"] / session.ceilings.get("copy", float("nan"))
        session.record(
            function=function,
            dtype=str(x.dtype).removeprefix("torch."),
            columns=x.shape[1],
            choice=" ".join(f"{name}={value}" for name, value in values.items()),
            of_copy=float("nan") if errors else rate,
            right=not errors and right,
            error=errors.get("call", ""),
        )


def tune_linear(session):
    """Record how long the fused loss takes by the size of its tiles."""
    from softhead.torch import linear_tiles

    for n in (2048, 8192):
        x = torch.randn(n, gpu_linear.FEATURES, device=session.device).bfloat16().requires_grad_()
        weight = torch.randn(gpu_linear.CLASSES, gpu_linear.FEATURES, device=session.device) / 64.0
        weight = weight.bfloat16().requires_grad_()
        y = torch.randint(gpu_linear.CLASSES, (n,), device=session.device)
        call = gpu_linear.trained(softhead.torch.linear_cross_entropy, x, weight, y)
        for size, most in ((2**24, 8192), (2**25, 8192), (2**26, 8192), (2**27, 16_384), (2**29, 65_536)):
            with patched(linear_tiles, _TILE_BYTES=size, _MOST_CLASSES=most):
                medians, errors = session.medians({"call": call}, spend=0.5)
            session.record(rows=n, tile_mb=size / 2**20, ms=1e3 * medians.get("call", float("nan")), error=str(errors))
        del x, weight, y, call
        torch.cuda.empty_cache()
