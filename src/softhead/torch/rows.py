"""The class losses of rows of logits (n, C): by the compiled loops for CPU tensors, by `generic` for all others.

Both kinds of targets offer the same few methods, so that a loop over blocks of rows is written once. Nothing here is
differentiable: `losses` and `linear` give PyTorch the derivatives.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch

from softhead import _checks
from softhead.generic import losses as formulas
from softhead.generic.targets import Targets, checked_ignore_index, class_weight
from softhead.generic.targets import class_targets as generic_targets
from softhead.generic.tiles import exponentiate
from softhead.kernels import primitives
from softhead.losses import (
    loss_denominator,
    reduce_losses,
    row_hessian_products,
    row_losses,
    row_losses_and_gradients,
)
from softhead.torch.device import has_kernels, kernels_for, on_host, side_by_side
from softhead.torch.host import numpy_dtype, tensor, torch_threads, view
from softhead.torch.namespace import namespace


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a class loss, but for the weights; they are checked where the targets are."""

    ignore_index: int = -100
    label_smoothing: float = 0.0
    temperature: float = 1.0
    z_loss: float = 0.0
    reduction: str = "mean"

    def numbers(self) -> dict[str, Any]:
        """Return what `softhead._checks` checks, by its names."""
        return {
            "label_smoothing": self.label_smoothing,
            "temperature": self.temperature,
            "z_loss": self.z_loss,
            "reduction": self.reduction,
        }


class RowTargets(Protocol):
    """The checked targets of rows, and the options of their loss."""

    @property
    def ignored(self) -> torch.Tensor | None:
        """Which rows are not read (n, 1); None where all are."""

    def block(self, rows: slice) -> "RowTargets":
        """Return the targets of some of the rows."""

    def denominator(self) -> Any:
        """Return what the reduction divides a row's loss by."""

    def losses(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the loss of every row, in the wide dtype."""

    def gradients(self, logits: torch.Tensor, denominator: Any, out: torch.Tensor) -> torch.Tensor:
        """Write the gradients of the losses / denominator into out, which may be the logits; return the losses."""

    def products(self, logits: torch.Tensor, tangents: torch.Tensor, out: torch.Tensor) -> None:
        """Write the Hessian of every row's loss times its tangent into out, which may be the tangents."""


class HostTargets:
    """Targets in the memory of the CPU: labels (n,), -1 where ignored, or probabilities (n, C), of NumPy."""

    def __init__(self, aims: np.ndarray, options: _checks.LossOptions) -> None:
        self._aims, self._options = aims, options
        self.ignored: torch.Tensor | None = None
        if aims.ndim == 1 and (aims < 0).any():
            self.ignored = tensor(aims < 0).unsqueeze(1)

    def block(self, rows: slice) -> "HostTargets":
        """Return the targets of some of the rows."""
        return HostTargets(self._aims[rows], self._options)

    def denominator(self) -> float:
        """Return what the reduction divides a row's loss by."""
        return loss_denominator(self._aims, self._options)

    def losses(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the loss of every row, in float64."""
        with torch_threads():
            return tensor(row_losses(view(logits), self._aims, self._options))

    def gradients(self, logits: torch.Tensor, denominator: float, out: torch.Tensor) -> torch.Tensor:
        """Write the gradients of the losses / denominator into out; return the losses."""
        with torch_threads():
            return tensor(row_losses_and_gradients(view(logits), self._aims, self._options, denominator, view(out)))

    def products(self, logits: torch.Tensor, tangents: torch.Tensor, out: torch.Tensor) -> None:
        """Write the Hessian of every row's loss times its tangent into out."""
        with torch_threads():
            row_hessian_products(view(logits), self._aims, view(tangents), self._options, 1.0, view(out))


class DeviceTargets:
    """Targets on another device; on the CPU they give the same, slower, which is how they are tested."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets

    @property
    def ignored(self) -> torch.Tensor | None:
        """Which rows are not read (n, 1); None where all are."""
        return (self._targets.values < 0).unsqueeze(1) if self._targets.values.ndim == 1 else None

    def block(self, rows: slice) -> "DeviceTargets":
        """Return the targets of some of the rows."""
        return DeviceTargets(self._targets.block(rows))

    def denominator(self) -> Any:
        """Return what the reduction divides a row's loss by: a number, or a tensor of no axis."""
        return self._targets.denominator()

    def losses(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the loss of every row, in the wide dtype."""
        return formulas.row_losses(self._targets, self._tile(logits)).squeeze(1)

    def gradients(self, logits: torch.Tensor, denominator: Any, out: torch.Tensor) -> torch.Tensor:
        """Write the gradients of the losses / denominator into out; return the losses."""
        tile = self._tile(logits)
        losses = formulas.row_losses(self._targets, tile).squeeze(1)
        out.copy_(formulas.row_gradients(self._targets, tile, denominator))
        return losses

    def products(self, logits: torch.Tensor, tangents: torch.Tensor, out: torch.Tensor) -> None:
        """Write the Hessian of every row's loss times its tangent into out."""
        out.copy_(formulas.row_hessian_products(self._targets, self._tile(logits), tangents, 1.0))

    def _tile(self, logits: torch.Tensor) -> Any:
        """Return rows, shifted and exponentiated; those that are not read are zero."""
        ns = self._targets.ns
        return exponentiate(ns, self._targets.cleared(logits), self._targets.options.temperature)


class CudaTargets(DeviceTargets):
    """Labels of rows that kernels take; a row's loss and gradient cost one read of it, and one write.

    Their values are not looked at, for which the host would have to wait for the device. A label that is no class gives
    NaN, as the loss of its row and as its gradient.
    """

    def __init__(self, labels: torch.Tensor, n_classes: int, weight: torch.Tensor | None, options: Options) -> None:
        self.labels, self.n_classes, self.weight, self.options = labels, n_classes, weight, options

    @cached_property
    def _targets(self) -> Targets:  # type: ignore[override]
        """The same for the formulas, which serve where no kernel does."""
        ns, shape = namespace(self.labels)._replace(readable=False), (len(self.labels), self.n_classes)
        numbers = self.options.numbers() | {"ignore_index": self.options.ignore_index}
        return generic_targets(ns, self.labels, shape, 1, weight=self.weight, **numbers)

    @property
    def ignored(self) -> torch.Tensor | None:
        """Which rows are not read (n, 1)."""
        return (self.labels == self.options.ignore_index).unsqueeze(1)

    def denominator(self) -> Any:
        """Return what the reduction divides a row's loss by: a number, or a tensor of no axis."""
        if self.options.reduction != "mean":
            return 1.0
        read = self.labels != self.options.ignore_index
        if self.weight is None or not self.n_classes:
            return read.sum(dtype=torch.float64)
        weights = self.weight[self.labels.long().clamp(0, self.n_classes - 1)]
        return torch.where(read, weights, 0.0).sum(dtype=torch.float64)

    def losses(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the loss of every row, in float64."""
        return self._run(logits, 1.0, None)

    def gradients(self, logits: torch.Tensor, denominator: Any, out: torch.Tensor) -> torch.Tensor:
        """Write the gradients of the losses / denominator into out; return the losses."""
        return self._run(logits, denominator, out)

    def block(self, rows: slice) -> "CudaTargets":
        """Return the targets of some of the rows."""
        return CudaTargets(self.labels[rows], self.n_classes, self.weight, self.options)

    def _run(self, logits: torch.Tensor, denominator: Any, out: torch.Tensor | None) -> torch.Tensor:
        """Write the gradients / denominator, where that is not 0, and return the losses."""
        kernels = kernels_for(logits)
        if kernels is None:
            return super().losses(logits) if out is None else super().gradients(logits, denominator, out)
        options = self.options
        losses = torch.empty(len(logits), dtype=torch.float64, device=logits.device)
        kernels.cross_entropy(
            side_by_side(logits),
            self.labels,
            losses,
            out,
            scale=torch.as_tensor(denominator, dtype=torch.float64, device=logits.device).reciprocal(),
            weight=self.weight,
            ignore_index=options.ignore_index,
            label_smoothing=options.label_smoothing,
            temperature=options.temperature,
            z_loss=options.z_loss,
        )
        return losses


def row_targets(
    target: torch.Tensor, shape: tuple[int, int], weight: torch.Tensor | None, options: Options, device: torch.device
) -> RowTargets:
    """Check the targets of logits of a shape (n, C), which lie on a device."""
    if not on_host(device):
        return device_targets(target, shape, weight, options)
    checked = _checks.loss_options(shape[1], weight=None if weight is None else view(weight), **options.numbers())
    return HostTargets(_checks.targets(view(target), shape, 1, options.ignore_index), checked)


def differentiable(
    rows: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, options: Options
) -> torch.Tensor:
    """Return the reduced loss of rows, all of it in PyTorch's operations, which know their derivatives.

    For where neither an autograd.Function nor a custom operator serves: forward mode within forward mode, in which the
    former's tangents come out as 0 (as of PyTorch 2.13), and torch.func in compiled programs.
    """
    ns, ignore_index = namespace(rows), options.ignore_index
    shape = (rows.shape[0], rows.shape[1])
    targets = generic_targets(ns, target, shape, 1, weight=weight, ignore_index=ignore_index, **options.numbers())
    tile = exponentiate(ns, targets.cleared(rows), targets.options.temperature)
    losses = formulas.row_losses(targets, tile).squeeze(1)
    return (losses if options.reduction == "none" else losses.sum() / targets.denominator()).to(rows.dtype)


def device_targets(
    target: torch.Tensor, shape: tuple[int, int], weight: torch.Tensor | None, options: Options
) -> DeviceTargets:
    """Check the targets of logits of a shape (n, C), which lie on the device of the targets."""
    ns, target = namespace(target), target.detach()
    if target.shape == shape[:1] and has_kernels(target.device):
        checked = _checks.loss_options(shape[1], weight=None, **options.numbers())
        ignore_index = checked_ignore_index(ns, target, options.ignore_index)
        weights = class_weight(ns._replace(readable=False), weight, shape[1])
        temperature = ns.temperature(checked.temperature)
        options = Options(ignore_index, checked.label_smoothing, temperature, checked.z_loss, checked.reduction)
        return CudaTargets(target.contiguous(), shape[1], weights, options)
    numbers = options.numbers() | {"ignore_index": options.ignore_index}
    return DeviceTargets(generic_targets(ns, target, shape, 1, weight=weight, **numbers))


def reduced(losses: torch.Tensor, denominator: Any, reduction: str, dtype: torch.dtype) -> torch.Tensor:
    """Return the losses of rows, reduced, or all of them, rounded once to a dtype."""
    if losses.device.type == "cpu":
        return tensor(
            primitives.rounded(reduce_losses(view(losses), float(denominator), reduction), numpy_dtype(dtype))
        )
    return (losses if reduction == "none" else losses.sum() / denominator).to(dtype)
