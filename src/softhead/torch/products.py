"""How float32 products are taken on a GPU, for the length of a pass: a setting of the process, put back after it."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

TF32_EPS = 2.0**-10  # the spacing of numbers with 10 bits after the first, to which TF32 rounds both factors


@contextmanager
def products(device: torch.device, *, tf32: bool) -> Iterator[None]:
    """Take products in the dtype of their factors inside a ``with`` block, those of float32 in TF32 or exactly.

    Kernels are launched on the device, which need not be the current one. The setting before, whichever it was, holds
    again afterwards, also after an exception. Neither autocast nor the recording of gradients reaches inside.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    current = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with current, torch.no_grad(), torch.autocast(device.type, enabled=False):
        matmul.fp32_precision = "tf32" if tf32 else "ieee"
        try:
            yield
        finally:
            matmul.fp32_precision = before
