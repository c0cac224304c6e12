"""Cross-entropy and its relatives, with derivatives, for any array library."""

import math
from typing import Any, NamedTuple

import numpy as np

from softhead import _checks
from softhead.generic.namespace import Namespace, namespace
from softhead.generic.targets import Targets, class_targets
from softhead.generic.tiles import Tile, exponentiate


class LossRows(NamedTuple):
    """The checked arguments of a class loss."""

    ns: Namespace
    array: Any
    axis: int
    rows: Any  # of the array, and in its dtype; zero where they are not read
    targets: Targets

    def tile(self) -> Tile:
        """Return the rows, shifted and exponentiated."""
        return exponentiate(self.ns, self.rows, self.targets.options.temperature)

    def value(self, losses: Any, denominator: Any) -> Any:
        """Return the reduced losses as the caller sees them."""
        return answer(self.ns, losses, self.targets.options.reduction, denominator, self.array, self.axis)

    def like_logits(self, rows: Any) -> Any:
        """Return rows in the dtype and shape of the logits."""
        return self.ns.from_rows(self.ns.xp.astype(rows, self.array.dtype), self.array.shape, (self.axis,))


@np.errstate(all="ignore")
def cross_entropy(logits: Any, targets: Any, /, *, axis: int = -1, **options: Any) -> Any:
    """Return -sum of w q log p + z_loss lse^2, reduced over the rows; `class_targets` names the options."""
    problem = loss_rows("logits", logits, targets, axis, **options)
    return problem.value(row_losses(problem.targets, problem.tile()), problem.targets.denominator())


@np.errstate(all="ignore")
def cross_entropy_value_and_grad(logits: Any, targets: Any, /, *, axis: int = -1, **options: Any) -> tuple[Any, Any]:
    """Return the cross-entropy and its gradient with respect to the logits."""
    problem = loss_rows("logits", logits, targets, axis, **options)
    tile, denominator = problem.tile(), problem.targets.denominator()
    gradient = problem.like_logits(row_gradients(problem.targets, tile, denominator))
    return problem.value(row_losses(problem.targets, tile), denominator), gradient


@np.errstate(all="ignore")
def cross_entropy_hvp(logits: Any, targets: Any, tangent: Any, /, *, axis: int = -1, **options: Any) -> Any:
    """Return the Hessian of the cross-entropy with respect to the logits, times a tangent."""
    problem = loss_rows("logits", logits, targets, axis, **options)
    ns = problem.ns
    direction = ns.same_shape("tangent", tangent, "logits", problem.array.shape)
    direction = ns.widened(ns.to_rows(direction, (problem.axis,)))
    product = row_hessian_products(problem.targets, problem.tile(), direction, problem.targets.denominator())
    return problem.like_logits(product)


@np.errstate(all="ignore")
def nll_loss(
    log_probs: Any,
    targets: Any,
    /,
    *,
    axis: int = -1,
    weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Any:
    """Return -sum of w q log p for log-probabilities, reduced over the rows."""
    options = {"weight": weight, "ignore_index": ignore_index, "label_smoothing": label_smoothing}
    problem = loss_rows("log_probs", log_probs, targets, axis, reduction=reduction, **options)
    aims, xp = problem.targets, problem.ns.xp
    surprise = -problem.ns.widened(problem.rows)
    if aims.values.ndim == 1 and not label_smoothing:  # only the label's entry is read
        surprise = xp.where(aims.hit(), surprise, 0.0)
    losses = xp.sum(_weighted(xp, aims.wanted(), surprise), axis=-1, keepdims=True)
    return problem.value(aims.settled(losses), aims.denominator())


@np.errstate(all="ignore")
def binary_cross_entropy_with_logits(
    logits: Any, targets: Any, /, *, pos_weight: Any = None, reduction: str = "mean"
) -> Any:
    """Return -w y log sigma(x) - (1 - y) log(1 - sigma(x)) of every logit x, reduced over all."""
    ns = namespace(logits)
    xp = ns.xp
    array = ns.real("logits", logits)
    wanted = ns.same_shape("targets", targets, "logits", array.shape)
    ns.refuse("targets", wanted, ~((wanted >= 0) & (wanted <= 1)), "it must lie in [0, 1]")
    positive = ns.widened(wanted)
    negative = 1.0 - positive
    if pos_weight is not None:
        factor = ns.not_negative("pos_weight", ns.real("pos_weight", pos_weight))
        positive = ns.broadcast("pos_weight", factor, array.shape) * positive
    _checks.one_of("reduction", reduction, _checks.REDUCTIONS)
    x = ns.widened(array)
    # softplus(x) = max(x, 0) + log1p(exp(-|x|)): only the side that is wrong pays |x|. Written as a selection, |x| has
    # a derivative at 0, with which that of the loss comes out right.
    size = xp.where(x >= 0.0, x, -x)
    wrong = _weighted(xp, xp.where(x >= 0.0, negative, positive), size)
    losses = (positive + negative) * xp.log1p(xp.exp(-size)) + wrong
    if reduction != "none":
        losses = xp.sum(losses) / (float(math.prod(array.shape)) if reduction == "mean" else 1.0)
    return xp.astype(losses, array.dtype)


@np.errstate(all="ignore")
def entropy(logits: Any, /, *, axis: int | tuple[int, ...] | None = -1) -> Any:
    """Return -sum of p log p along the axes."""
    ns = namespace(logits)
    array = ns.real("logits", logits)
    axes = _checks.reduced_axes(axis, array.ndim)
    tile = exponentiate(ns, ns.to_rows(array, axes), 1.0)
    p = tile.probabilities()
    spread = p * ns.xp.where(p == 0.0, 0.0, -tile.d)
    result = ns.xp.astype(tile.log_sum()[:, 0] + ns.xp.sum(spread, axis=-1), array.dtype)
    return ns.xp.reshape(result, tuple(size for i, size in enumerate(array.shape) if i not in axes))


@np.errstate(all="ignore")
def kl_divergence(
    logits: Any, targets: Any, /, *, axis: int = -1, temperature: float = 1.0, reduction: str = "mean"
) -> Any:
    """Return the sum of q (log q - log p), reduced over the rows."""
    ns = namespace(logits)
    array = ns.real("logits", logits)
    axis = _checks.class_axis("logits", array, axis)
    wanted = ns.not_negative("targets", ns.same_shape("targets", targets, "logits", array.shape))
    temperature = ns.temperature(temperature)
    _checks.one_of("reduction", reduction, _checks.REDUCTIONS)
    q = ns.to_rows(wanted, (axis,))
    log_q = ns.xp.log(ns.xp.where(q == 0.0, 1.0, q))
    losses = divergence(ns.xp, exponentiate(ns, ns.to_rows(array, (axis,)), temperature), q, log_q)
    # Of a distribution, whose sum may carry the rounding of a half type, the divergence is not negative.
    mass = ns.xp.sum(q, axis=-1, keepdims=True)
    losses = ns.xp.where((losses < 0.0) & (ns.xp.abs(mass - 1.0) < 2.0**-6), 0.0, losses)
    return answer(ns, losses, reduction, float(q.shape[0]), array, axis)


@np.errstate(all="ignore")
def distillation_loss(
    student_logits: Any, teacher_logits: Any, /, *, temperature: float, axis: int = -1, reduction: str = "mean"
) -> Any:
    """Return T^2 times the divergence of the teacher's from the student's softmax, reduced over the rows."""
    ns = namespace(student_logits)
    student = ns.real("student_logits", student_logits)
    axis = _checks.class_axis("student_logits", student, axis)
    teacher = ns.same_shape("teacher_logits", teacher_logits, "student_logits", student.shape)
    temperature = ns.temperature(temperature)
    _checks.one_of("reduction", reduction, _checks.REDUCTIONS)
    source = exponentiate(ns, ns.to_rows(teacher, (axis,)), temperature)
    tile = exponentiate(ns, ns.to_rows(student, (axis,)), temperature)
    losses = divergence(ns.xp, tile, source.probabilities(), source.log_probabilities())
    losses = ns.xp.where(losses < 0.0, 0.0, losses) * temperature * temperature
    return answer(ns, losses, reduction, float(losses.shape[0]), student, axis)


def row_losses(targets: Targets, tile: Any) -> Any:
    """Return the loss of every row of a tile, or of what has its methods, (n, 1)."""
    xp, z_loss = tile.xp, targets.options.z_loss
    losses = xp.sum(_weighted(xp, targets.wanted(), -tile.log_probabilities()), axis=-1, keepdims=True)
    if z_loss:
        losses = losses + z_loss * xp.square(tile.log_sum_exp())
    return targets.settled(losses)


def row_gradients(targets: Targets, tile: Tile, denominator: Any) -> Any:
    """Return (p * (mass of the targets + 2 z_loss lse) - target) / temperature / denominator, (n, C)."""
    xp, z_loss = tile.xp, targets.options.z_loss
    wanted, p = targets.wanted(), tile.probabilities()
    mass = xp.sum(wanted, axis=-1, keepdims=True)
    # The largest p may be so close to 1 that p - target cancels: there, take (mass - target) - mass (1 - p).
    surplus = xp.sum(xp.where(tile.top, 0.0, wanted), axis=-1, keepdims=True)
    at_one = surplus - mass * (tile.rest / (1.0 + tile.rest))
    gradients = xp.where(tile.top & (p > 0.5), at_one, mass * p - wanted)
    if z_loss:
        gradients = gradients + 2.0 * z_loss * tile.log_sum_exp() * p
    return targets.settled(gradients / tile.temperature / denominator)


def row_hessian_products(targets: Targets, tile: Tile, tangents: Any, denominator: Any) -> Any:
    """Return the Hessian of every row's loss / denominator times its tangent, (n, C)."""
    xp, z_loss = tile.xp, targets.options.z_loss
    p = tile.probabilities()
    mass = xp.sum(targets.wanted(), axis=-1, keepdims=True)
    mean = xp.sum(p * tangents, axis=-1, keepdims=True)
    products = mass * (p * (tangents - mean))
    if z_loss:
        products = products + 2.0 * z_loss * p * (tile.log_sum_exp() * (tangents - mean) + mean)
    return targets.settled(products / tile.temperature / tile.temperature / denominator)


def loss_rows(name: str, logits: Any, targets: Any, axis: int, **options: Any) -> LossRows:
    """Check the arguments of a class loss."""
    ns = namespace(logits)
    array = ns.real(name, logits)
    axis = _checks.class_axis(name, array, axis)
    aims = class_targets(ns, targets, array.shape, axis, **options)
    return LossRows(ns, array, axis, aims.cleared(ns.to_rows(array, (axis,))), aims)


def answer(ns: Namespace, losses: Any, reduction: str, denominator: Any, like: Any, axis: int) -> Any:
    """Return the losses (n, 1) of the rows of an array, reduced or in its shape without the axis, in its dtype."""
    if reduction == "none":
        return ns.xp.reshape(ns.xp.astype(losses, like.dtype), like.shape[:axis] + like.shape[axis + 1 :])
    return ns.xp.astype(ns.xp.sum(losses) / (denominator if reduction == "mean" else 1.0), like.dtype)


def _weighted(xp: Any, weight: Any, loss: Any) -> Any:
    """Return weight * loss, where an infinite loss of weight zero counts nothing, also in derivatives."""
    return weight * xp.where((weight == 0.0) & xp.isinf(loss), 0.0, loss)


def divergence(xp: Any, tile: Any, q: Any, log_q: Any) -> Any:
    """Return the sum of q (log q - log p) of every row, where a q of zero counts nothing, also in derivatives."""
    return xp.sum(q * xp.where(q == 0.0, 0.0, log_q - tile.log_probabilities()), axis=-1, keepdims=True)
