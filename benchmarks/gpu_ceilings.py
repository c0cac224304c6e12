"""What a device can do at most, for `gpu.py`: how fast memory is copied and matrices multiplied by PyTorch."""

import torch


def ceilings(session):
    """Record how fast memory is copied and matrices of random numbers are multiplied."""
    copy(session, 2**20 if session.tiny else 2**29)
    side = 64 if session.tiny else 8192
    multiply(session, "bfloat16", torch.bfloat16, side)
    multiply(session, "tf32", torch.float32, side, tf32=True)
    multiply(session, "float32", torch.float32, side)
    multiply(session, "float64", torch.float64, side // 2)


def copy(session, size):
    """Record the rate at which float32 numbers are read and written."""
    source = torch.randn(size, device=session.device)
    target = torch.empty_like(source)
    (seconds,) = session.medians({"copy": lambda: target.copy_(source)})[0].values()
    session.ceilings["copy"] = 2 * source.numel() * source.element_size() / seconds
    session.record(ceiling="copy, read and written", rate=session.ceilings["copy"] / 1e12, unit="TB/s")


def multiply(session, name, dtype, side, tf32=False):
    """Record the rate of a product of square matrices."""
    a, b = (torch.randn(side, side, device=session.device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if tf32 else "ieee"
    try:
        (seconds,) = session.medians({name: lambda: torch.mm(a, b, out=out)})[0].values()
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    session.record(ceiling=f"product of {name}, {side}", rate=2 * side**3 / seconds / 1e12, unit="TFLOP/s")
