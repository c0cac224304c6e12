"""The softmax head for PyTorch: its own signatures, exact, differentiable as often as asked for.

    loss = softhead.torch.cross_entropy(logits, target)

takes the place of torch.nn.functional.cross_entropy. Tensors in the memory of the CPU are computed by the compiled
loops, which share their memory; those of other devices by the same formulas in PyTorch's operations.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError:
    raise ImportError("softhead.torch needs PyTorch: pip install 'softhead[torch]'") from None

from softhead.torch.divergences import distillation_loss, kl_divergence
from softhead.torch.linear import linear_cross_entropy
from softhead.torch.losses import cross_entropy
from softhead.torch.maps import log_softmax, softmax
from softhead.torch.modules import CrossEntropyLoss, LinearCrossEntropyLoss
from softhead.torch.sampling import gumbel_softmax

__all__ = [
    "CrossEntropyLoss",
    "LinearCrossEntropyLoss",
    "cross_entropy",
    "distillation_loss",
    "gumbel_softmax",
    "kl_divergence",
    "linear_cross_entropy",
    "log_softmax",
    "softmax",
]
