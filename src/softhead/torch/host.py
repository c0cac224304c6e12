"""Tensors in the memory of the CPU as NumPy arrays that share it, and the threads that work on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from softhead.kernels.threads import at_most


def view(tensor: torch.Tensor) -> np.ndarray:
    """Return a NumPy array that shares the memory of a CPU tensor, which may require gradients."""
    tensor = tensor.detach().resolve_neg()
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    return tensor.view(torch.uint16).numpy().view(_bfloat16())


def tensor(array: Any) -> torch.Tensor:
    """Return a CPU tensor that shares the memory of a NumPy array, or holds a NumPy scalar."""
    array = np.asarray(array)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return a new tensor; on the CPU in NumPy's memory, for which it asks the system for large pages.

    To fill 64 MB for the first time then takes 4 ms where PyTorch's own memory takes 27.
    """
    if device.type != "cpu" or torch.compiler.is_compiling():  # compilers know no memory but PyTorch's
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.empty(shape, f"u{dtype.itemsize}")).view(dtype)


def numpy_dtype(dtype: torch.dtype) -> np.dtype:
    """Return NumPy's name of a floating dtype."""
    return view(torch.empty(0, dtype=dtype)).dtype


@contextmanager
def torch_threads() -> Iterator[None]:
    """Compute on no more threads than torch does: who sets the one expects it of the other."""
    with at_most(torch.get_num_threads()):
        yield


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which products and sums of a floating dtype are taken."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _bfloat16() -> np.dtype:
    """Return NumPy's bfloat16, which comes from ml_dtypes."""
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError("bfloat16 on the CPU needs ml_dtypes: pip install 'softhead[torch]'") from None
    return np.dtype(ml_dtypes.bfloat16)
