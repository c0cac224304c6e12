"""Residuals of the linear model on a device: the formulas of `kernels/residuals.py`, in place, in few operations.

Labels in float32 on a GPU are taken by the kernel of cross-entropy where there is one, in one read and one write.
Nothing is added by atomic operations, nor in an order that could change.
"""

import torch
from torch import Tensor

from softhead.torch.device import kernels_for


def class_residuals(logits: Tensor, classes: Tensor) -> Tensor:
    """Overwrite `logits` (n, C) by softmax(logits) - one_hot(classes); return the losses (n,), float64."""
    kernels = kernels_for(logits)
    if kernels is not None:
        losses = torch.empty(len(logits), dtype=torch.float64, device=logits.device)
        one = torch.ones((), dtype=torch.float64, device=logits.device)
        kernels.cross_entropy(logits, classes, losses, logits, scale=one)
        return losses
    index = classes[:, None]
    top = logits.amax(1, keepdim=True)
    margin = top.double() - logits.gather(1, index).double()  # 0 where the true class is on top
    logits.sub_(top).exp_()
    true_exp = logits.gather(1, index)
    logits.scatter_(1, index, 0.0)
    rest = logits.sum(1, keepdim=True, dtype=torch.float64)
    total = rest + true_exp
    logits.scatter_(1, index, -rest.to(logits.dtype))
    logits.mul_((1.0 / total).to(logits.dtype))
    # On top: total = 1 + rest. Below: the exponential of the top class, 1, is inside rest.
    return (torch.log1p(torch.where(margin == 0.0, rest, total - 1.0)) + margin)[:, 0]


def distribution_residuals(logits: Tensor, targets: Tensor) -> Tensor:
    """Overwrite `logits` (n, C) by sum(targets) * softmax(logits) - targets; return the losses (n,), float64.

    Rows of `targets` (n, C), in the dtype of the logits, sum to 1 up to their rounding.
    """
    top, index = logits.max(1, keepdim=True)
    logits.sub_(top)
    losses = -(targets * logits).sum(1, keepdim=True, dtype=torch.float64)
    logits.exp_().scatter_(1, index, 0.0)
    rest = logits.sum(1, keepdim=True, dtype=torch.float64)
    mass = targets.sum(1, keepdim=True, dtype=torch.float64)
    losses += mass * torch.log1p(rest)
    scale = mass / (1.0 + rest)
    logits.mul_(scale.to(logits.dtype)).sub_(targets)
    # Of the class on top, p - target = (mass - target) - mass (1 - p): what the other classes are given and have.
    others = targets.scatter(1, index, 0.0).sum(1, keepdim=True, dtype=torch.float64)
    logits.scatter_(1, index, (others - scale * rest).to(logits.dtype))
    return losses[:, 0]


def probabilities(logits: Tensor) -> None:
    """Overwrite `logits` (n, C) by their softmax."""
    logits.sub_(logits.amax(1, keepdim=True)).exp_()
    logits.mul_((1.0 / logits.sum(1, keepdim=True, dtype=torch.float64)).to(logits.dtype))
