"""The softmax family for JAX: with derivatives of their own, for jit, grad, vmap, shard_map and any mix of these.

The functions take what `softhead`'s functions of the same names take for NumPy arrays, but for `out`, and return JAX
arrays. float32 is computed in float32, or in float64 where JAX has it enabled; half types are computed wider and
rounded once. All derivatives, forward and reverse, of any order, are exact formulas: that of the true class on top is
-rest / (1 + rest), with rest the sum of the other exponentials: a confident row keeps it where p - 1 would be 0.

What is wrong is an error wherever it can be known. A compiled program does not know its values: there a label outside
its range makes its row NaN, and negative weights or probabilities, or weights that are all zero, go unnoticed. What is
static (shapes, dtypes, options) is checked there, too.

Temperature, smoothing, z_loss and l2 are static numbers. Other functions of `softhead` take JAX arrays as they are.
"""

try:
    import jax  # noqa: F401
except ImportError as error:
    raise ImportError("softhead.jax needs JAX, which the extra jax installs: pip install 'softhead[jax]'") from error

from softhead.jax.functions import (
    cross_entropy,
    distillation_loss,
    entropy,
    gumbel_softmax,
    kl_divergence,
    log_softmax,
    logsumexp,
    softmax,
)
from softhead.jax.linear import linear_cross_entropy

__all__ = [
    "cross_entropy",
    "distillation_loss",
    "entropy",
    "gumbel_softmax",
    "kl_divergence",
    "linear_cross_entropy",
    "log_softmax",
    "logsumexp",
    "softmax",
]
