"""softmax and log-softmax of tensors, differentiable as often as asked for."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from softhead import _checks
from softhead.generic.tiles import Tile, exponentiate
from softhead.kernels import rows as kernels
from softhead.torch.device import kernels_for, side_by_side
from softhead.torch.host import empty, torch_threads, view
from softhead.torch.modes import needs_operations, plain, values_only
from softhead.torch.namespace import namespace


def softmax(
    input: Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
    *,
    temperature: float = 1.0,
) -> Tensor:
    r"""Map logits to probabilities that sum to 1 along a dimension: `torch.nn.functional.softmax`, more exact.

    .. math:: p_i = \frac{e^{x_i / T}}{\sum_j e^{x_j / T}}

    Parameters
    ----------
    input : Tensor
        Logits, of a floating dtype.
    dim : int
        The dimension of the classes; None as in PyTorch, 0 for tensors of 0, 1 or 3 dimensions and 1 for others.
    dtype : torch.dtype, optional
        The dtype to which the logits are converted first.
    temperature : float, default 1.0
        T, a finite number above 0.

    Returns
    -------
    Tensor of the shape of `input`
        Probabilities: within 2 units in the last place in float32 and float64, and 1 in the half types.

    Raises
    ------
    TypeError
        If the dtype is not floating.
    ValueError
        If the temperature is not a finite number above 0.
    IndexError
        If there is no such dimension.

    References
    ----------
    P. Blanchard, D. J. Higham and N. J. Higham, "Accurately computing the log-sum-exp and softmax functions", IMA
    Journal of Numerical Analysis 41, 2021.

    Examples
    --------
    >>> import torch, softhead.torch
    >>> softhead.torch.softmax(torch.tensor([1.0, 2.0, 3.0]), dim=0)
    tensor([0.0900, 0.2447, 0.6652])
    """
    return _along(Tile.probabilities, _softmax, Softmax, input, dim, dtype, temperature)


def log_softmax(
    input: Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
    *,
    temperature: float = 1.0,
) -> Tensor:
    r"""Map logits to logarithms of probabilities: `torch.nn.functional.log_softmax`, more exact.

    .. math:: \log p_i = \frac{x_i}{T} - \log \sum_j e^{x_j / T}

    Parameters
    ----------
    input, dim, dtype, temperature
        As in `softmax`.

    Returns
    -------
    Tensor of the shape of `input`
        Logarithms of probabilities: within 4 units in the last place in float32, 8 in float64 and 1 in the half types,
        also where the probability rounds to 1.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `softmax` raises them.

    References
    ----------
    P. Blanchard, D. J. Higham and N. J. Higham, "Accurately computing the log-sum-exp and softmax functions", IMA
    Journal of Numerical Analysis 41, 2021.

    Examples
    --------
    >>> import torch, softhead.torch
    >>> softhead.torch.log_softmax(torch.tensor([0.0, 40.0]), dim=0)
    tensor([-4.0000e+01, -4.2484e-18])
    """
    return _along(Tile.log_probabilities, _log_softmax, LogSoftmax, input, dim, dtype, temperature)


def class_dimension(name: str, input: Tensor, dim: int | None) -> int:
    """Return the dimension of the classes, counted from 0; None chooses it as PyTorch does."""
    if dim is None:
        dim = 0 if input.dim() in (0, 1, 3) else 1
    available = max(input.dim(), 1)
    if not -available <= dim < available:
        raise IndexError(
            f"dim={dim}; {name} has {input.dim()} dimensions, so it must lie in [{-available}, {available})"
        )
    return dim % available


def floating(name: str, value: Tensor) -> Tensor:
    """Return a tensor that must be of one of the dtypes that are computed with."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; it must be a torch.Tensor")
    if value.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise TypeError(f"{name} has dtype {value.dtype}; accepted are float16, bfloat16, float32 and float64")
    return value


def beside(logits: Tensor, **others: Tensor | None) -> None:
    """Check that what comes with logits, if it does, are tensors on their device."""
    for name, value in others.items():
        if value is None:
            continue
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is a {type(value).__name__}; it must be a torch.Tensor")
        if value.device != logits.device:
            raise ValueError(
                f"{name} is on {value.device}, and the logits are on {logits.device}; it must be there too"
            )


def as_rows(value: Tensor, dim: int) -> Tensor:
    """Return a tensor as rows along a dimension: a view where its strides allow it."""
    others = value.shape[:dim] + value.shape[dim + 1 :]
    return value.movedim(dim, -1).reshape(math.prod(others), value.shape[dim])


def from_rows(rows: Tensor, like: Tensor, dim: int) -> Tensor:
    """Return rows in the shape of the tensor that they were taken from by `as_rows`."""
    shape = [size for i, size in enumerate(like.shape) if i != dim]
    return rows.reshape(*shape, like.shape[dim]).movedim(-1, dim)


def merged(info: Any, dims: tuple[int | None, ...], *tensors: Tensor) -> list[Tensor]:
    """Return tensors of rows, some of which are mapped over, with the mapped dimension merged into that of the rows."""
    size = info.batch_size
    moved = [
        one.unsqueeze(0).expand(size, *one.shape) if dim is None else one.movedim(dim, 0)
        for one, dim in zip(tensors, dims, strict=True)
    ]
    return [one.reshape(size * one.shape[1], *one.shape[2:]) for one in moved]


class Softmax(torch.autograd.Function):
    """The softmax of rows (n, C) at a temperature."""

    @staticmethod
    def forward(rows: Tensor, temperature: float) -> Tensor:
        """Return it."""
        return _map(kernels.softmax, Tile.probabilities, rows, temperature)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        """Keep what the derivatives are made of."""
        ctx.temperature = inputs[1]
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        """Return the gradient."""
        (p,) = ctx.saved_tensors
        return _softmax_product(p, cotangent, ctx.temperature), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        """Return the same product with a tangent: the Jacobian is symmetric."""
        (p,) = ctx.saved_tensors
        return _softmax_product(p, tangent, ctx.temperature)

    @staticmethod
    def vmap(info: Any, in_dims: Any, rows: Tensor, temperature: float) -> Any:
        """Map over rows, which are independent."""
        (all_rows,) = merged(info, in_dims[:1], rows)
        return Softmax.apply(all_rows, temperature).unflatten(0, (info.batch_size, -1)), 0


class LogSoftmax(torch.autograd.Function):
    """The logarithm of the softmax of rows (n, C) at a temperature."""

    @staticmethod
    def forward(rows: Tensor, temperature: float) -> Tensor:
        """Return it."""
        return _map(kernels.log_softmax, Tile.log_probabilities, rows, temperature)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        """Keep what the derivatives are made of."""
        rows, ctx.temperature = inputs
        ctx.save_for_backward(rows)
        ctx.save_for_forward(rows)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        """Return the gradient."""
        (rows,) = ctx.saved_tensors
        fast = kernels_for(rows) if values_only(rows, cotangent) and rows.dtype == cotangent.dtype else None
        if fast is not None:
            out = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
            fast.log_softmax_vjp(side_by_side(rows), side_by_side(cotangent), out, temperature=ctx.temperature)
            return out, None
        p = Softmax.apply(rows, ctx.temperature)
        if not plain(p, cotangent):
            return (cotangent - p * cotangent.sum(1, keepdim=True)) / ctx.temperature, None
        with torch_threads():
            kernels.log_softmax_vjp(view(p), view(cotangent), ctx.temperature, view(p))
        return p, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        """Return how the logarithms move."""
        (rows,) = ctx.saved_tensors
        p = Softmax.apply(rows, ctx.temperature)
        return (tangent - (p * tangent).sum(1, keepdim=True)) / ctx.temperature

    @staticmethod
    def vmap(info: Any, in_dims: Any, rows: Tensor, temperature: float) -> Any:
        """Map over rows, which are independent."""
        (all_rows,) = merged(info, in_dims[:1], rows)
        return LogSoftmax.apply(all_rows, temperature).unflatten(0, (info.batch_size, -1)), 0


@torch.library.custom_op("softhead::softmax", mutates_args=())
def _softmax(rows: Tensor, temperature: float) -> Tensor:
    """Return the softmax of rows (n, C), in compiled programs."""
    return Softmax.forward(rows, temperature)


@torch.library.custom_op("softhead::log_softmax", mutates_args=())
def _log_softmax(rows: Tensor, temperature: float) -> Tensor:
    """Return the logarithm of the softmax of rows (n, C), in compiled programs."""
    return LogSoftmax.forward(rows, temperature)


def _compiled_softmax_backward(ctx: Any, cotangent: Tensor) -> Any:
    (p,) = ctx.saved_tensors
    return p * (cotangent - (p * cotangent).sum(1, keepdim=True)) / ctx.temperature, None


def _compiled_log_softmax_backward(ctx: Any, cotangent: Tensor) -> Any:
    (rows,) = ctx.saved_tensors
    p = _softmax(rows, ctx.temperature)
    return (cotangent - p * cotangent.sum(1, keepdim=True)) / ctx.temperature, None


def _keep_output(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.temperature = inputs[1]
    ctx.save_for_backward(output)


def _keep_input(ctx: Any, inputs: Any, output: Tensor) -> None:
    ctx.temperature = inputs[1]
    ctx.save_for_backward(inputs[0])


_softmax.register_autograd(_compiled_softmax_backward, setup_context=_keep_output)
_log_softmax.register_autograd(_compiled_log_softmax_backward, setup_context=_keep_input)
for _op, _function in ((_softmax, Softmax), (_log_softmax, LogSoftmax)):
    _op.register_fake(lambda rows, temperature: torch.empty(rows.shape, dtype=rows.dtype, device=rows.device))
    _op.register_vmap(_function.vmap)


def _along(
    formula: Callable[[Tile], Tensor],
    operator: Any,
    function: Any,
    logits: Tensor,
    dim: int | None,
    dtype: torch.dtype | None,
    temperature: float,
) -> Tensor:
    """Apply a map of rows along a dimension."""
    dim = class_dimension("input", logits, dim)
    value = floating("input", logits if dtype is None else logits.to(dtype))
    rows = as_rows(value if value.dim() else value.reshape(1), dim)
    if needs_operations():
        result = _by_formula(formula, rows, temperature)
    elif torch.compiler.is_compiling():
        result = operator(rows, float(temperature))
    else:
        result = function.apply(rows, temperature)
    return from_rows(result, value, dim) if value.dim() else result.reshape(())


def _map(kernel: Any, formula: Callable[[Tile], Tensor], rows: Tensor, temperature: float) -> Tensor:
    """Return a map of rows, by its kernel or by its formula."""
    temperature = _checks.positive("temperature", temperature)
    rows = rows.detach()
    fast = kernels_for(rows)
    if fast is None and rows.device.type != "cpu":
        return _by_formula(formula, rows, temperature)
    out = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
    if fast is not None:
        fast.softmax(side_by_side(rows), out, temperature=temperature, log=formula is Tile.log_probabilities)
        return out
    with torch_threads():
        kernel(view(rows), temperature, view(out))
    return out


def _by_formula(formula: Callable[[Tile], Tensor], rows: Tensor, temperature: float) -> Tensor:
    """Return a map of rows by PyTorch's operations."""
    ns = namespace(rows)
    return formula(exponentiate(ns, rows, ns.temperature(temperature))).to(rows.dtype)


def _softmax_product(p: Tensor, vectors: Tensor, temperature: float) -> Tensor:
    """Return p (v - sum of p v) / T, for values alone by the kernel."""
    if not plain(p, vectors):
        fast = kernels_for(p) if values_only(p, vectors) and p.dtype == vectors.dtype else None
        if fast is not None:
            out = torch.empty(p.shape, dtype=p.dtype, device=p.device)
            fast.softmax_vjp(side_by_side(p), side_by_side(vectors), out, temperature=temperature)
            return out
        return p * (vectors - (p * vectors).sum(1, keepdim=True)) / temperature
    out = empty(tuple(p.shape), p.dtype, p.device)
    with torch_threads():
        kernels.softmax_product(view(p), view(vectors), temperature, view(out))
    return out
