"""The formulas for any array library that keeps the Python array API standard (2024.12): JAX, CuPy and others.

The functions take, mean and refuse what the public functions of the same names do for NumPy arrays, but for `out`. The
first argument is an array of the library, and the results are arrays of the same library, device and dtype. All is
computed in the widest real dtype that the array's device has, and rounded once. Where that is wider than the array's
dtype, the error bounds are those of NumPy arrays. Where it is the same, the rounding error of the shift is kept, and
the rest is as good as the library's own exponential and sums: 8 units in the last place where NumPy arrays have 2 to 8.

A library that traces programs, such as JAX, hides its values. There a label outside its range makes its row NaN, and
negative weights or probabilities go unnoticed. Such a library can differentiate every formula, also where logits tie,
are masked or belong to ignored rows.

Libraries built on NumPy inherit its warnings of what are documented results here; they are silenced.
"""

from softhead.generic.fused import linear_cross_entropy, linear_cross_entropy_value_and_grad
from softhead.generic.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    cross_entropy_hvp,
    cross_entropy_value_and_grad,
    distillation_loss,
    entropy,
    kl_divergence,
    nll_loss,
)
from softhead.generic.maps import (
    hardmax,
    log_softmax,
    log_softmax_vjp,
    logsumexp,
    normalize,
    softmax,
    softmax_jacobian,
    softmax_jvp,
    softmax_vjp,
)

__all__ = [
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "cross_entropy_hvp",
    "cross_entropy_value_and_grad",
    "distillation_loss",
    "entropy",
    "hardmax",
    "kl_divergence",
    "linear_cross_entropy",
    "linear_cross_entropy_value_and_grad",
    "log_softmax",
    "log_softmax_vjp",
    "logsumexp",
    "nll_loss",
    "normalize",
    "softmax",
    "softmax_jacobian",
    "softmax_jvp",
    "softmax_vjp",
]
