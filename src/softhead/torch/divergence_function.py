"""Divergences of rows, their values by compiled loops, and their derivatives by what cross-entropy has already."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from softhead import _checks
from softhead.kernels import row_losses as kernels
from softhead.torch.cross_entropy_function import Gradient
from softhead.torch.host import torch_threads, view, wide
from softhead.torch.maps import LogSoftmax, Softmax, merged
from softhead.torch.rows import Options


class Divergence(torch.autograd.Function):
    """KL(q || softmax(z / T)) of rows of logits z and probabilities q, (n,), in float64."""

    @staticmethod
    def forward(rows: Tensor, q: Tensor, temperature: float) -> Tensor:
        """Return it."""
        _checks.probabilities(view(q))
        return _losses(kernels.kl_divergence, rows, q, temperature)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        """Keep what the derivatives are made of."""
        _keep(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        """Return the gradients: by the logits, that of the cross-entropy."""
        rows, q = ctx.saved_tensors
        by_rows = by_q = None
        if ctx.needs_input_grad[0]:
            by_rows = Gradient.apply(rows, q, None, upstream, Options(temperature=ctx.temperature))
        if ctx.needs_input_grad[1]:
            by_q = (upstream.unsqueeze(1) * _by_targets(rows, q, ctx.temperature)).to(q.dtype)
        return by_rows, by_q, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, q_tangent: Tensor | None, _: None) -> Tensor:
        """Return how it moves."""
        rows, q = ctx.saved_tensors
        moved = torch.zeros(rows.shape[0], dtype=torch.float64, device=rows.device)
        if tangent is not None:
            one = Options(temperature=ctx.temperature)
            moved = moved + (Gradient.apply(rows, q, None, torch.ones_like(moved), one) * tangent).sum(1)
        if q_tangent is not None:
            moved = moved + (_by_targets(rows, q, ctx.temperature) * q_tangent).sum(1)
        return moved

    @staticmethod
    def vmap(info: Any, in_dims: Any, rows: Tensor, q: Tensor, temperature: float) -> Any:
        """Map over rows, which are independent."""
        losses = Divergence.apply(*merged(info, in_dims[:2], rows, q), temperature)
        return losses.unflatten(0, (info.batch_size, -1)), 0


class Distillation(torch.autograd.Function):
    """T^2 KL(softmax(t / T) || softmax(z / T)) of rows of a student's logits z and a teacher's t, (n,), in float64."""

    @staticmethod
    def forward(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return it."""
        return _losses(kernels.distillation, student, teacher, temperature)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        """Keep what the derivatives are made of."""
        _keep(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        """Return the gradients."""
        student, teacher = ctx.saved_tensors
        by_student = by_teacher = None
        if ctx.needs_input_grad[0]:
            by_student = _by_student(student, teacher, upstream, ctx.temperature)
        if ctx.needs_input_grad[1]:
            by_teacher = (upstream.unsqueeze(1) * _by_teacher(student, teacher, ctx.temperature)).to(teacher.dtype)
        return by_student, by_teacher, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, teacher_tangent: Tensor | None, _: None) -> Tensor:
        """Return how it moves."""
        student, teacher = ctx.saved_tensors
        moved = torch.zeros(student.shape[0], dtype=torch.float64, device=student.device)
        if tangent is not None:
            gradient = _by_student(student, teacher, torch.ones_like(moved), ctx.temperature)
            moved = moved + (gradient * tangent).sum(1)
        if teacher_tangent is not None:
            moved = moved + (_by_teacher(student, teacher, ctx.temperature) * teacher_tangent).sum(1)
        return moved

    @staticmethod
    def vmap(info: Any, in_dims: Any, student: Tensor, teacher: Tensor, temperature: float) -> Any:
        """Map over rows, which are independent."""
        losses = Distillation.apply(*merged(info, in_dims[:2], student, teacher), temperature)
        return losses.unflatten(0, (info.batch_size, -1)), 0


def _keep(ctx: Any, inputs: Any) -> None:
    first, second, ctx.temperature = inputs
    ctx.save_for_backward(first, second)
    ctx.save_for_forward(first, second)


def _losses(kernel: Callable[..., None], first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return what a kernel makes of two tensors of rows."""
    losses = torch.zeros(len(first), dtype=torch.float64)
    with torch_threads():
        kernel(view(first), view(second), _checks.positive("temperature", temperature), view(losses))
    return losses


def _by_targets(rows: Tensor, q: Tensor, temperature: float) -> Tensor:
    """Return log q + 1 - log p, the derivative by q; 0 where q is, for there it is infinite."""
    dtype = wide(rows.dtype)
    log_p = LogSoftmax.apply(rows.to(dtype), temperature)
    return torch.where(q == 0, 0.0, torch.where(q == 0, 1.0, q).to(dtype).log() + 1.0 - log_p)


def _by_student(student: Tensor, teacher: Tensor, factor: Tensor, temperature: float) -> Tensor:
    """Return T^2 times that of the cross-entropy with the teacher's probabilities, times a factor for each row."""
    q = Softmax.apply(teacher.to(wide(teacher.dtype)), temperature)
    return Gradient.apply(student, q, None, factor * temperature**2, Options(temperature=temperature))


def _by_teacher(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T q (d - mean of d) for d = log q - log p: the derivative by the teacher's logits."""
    teacher = teacher.to(wide(teacher.dtype))
    q, log_q = Softmax.apply(teacher, temperature), LogSoftmax.apply(teacher, temperature)
    d = log_q - LogSoftmax.apply(student.to(wide(student.dtype)), temperature)
    d = torch.where(q == 0, 0.0, d)
    return temperature * q * (d - (q * d).sum(1, keepdim=True))
