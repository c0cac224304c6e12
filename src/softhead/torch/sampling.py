"""Relaxed samples of the classes that tensors of logits stand for."""

import torch
from torch import Tensor

from softhead.torch.maps import class_dimension, floating, softmax


def gumbel_softmax(
    logits: Tensor,
    tau: float = 1,
    hard: bool = False,
    eps: float = 1e-10,
    dim: int = -1,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Draw relaxed one-hot samples: `torch.nn.functional.gumbel_softmax`, with the softmax of this library.

    .. math:: y = \operatorname{softmax}\Bigl(\frac{x + g}{\tau}\Bigr), \qquad g_i = -\log e_i,
        \quad e_i \sim \mathrm{Exp}(1)

    From the same state of the generator come PyTorch's own samples, but for rounding.

    Parameters
    ----------
    logits : Tensor
        x: float16, bfloat16, float32 or float64.
    tau : float, default 1
        The temperature, a finite number above 0.
    hard : bool, default False
        Whether to return one-hot samples, with the gradient of the relaxed ones (the straight-through estimator).
    eps : float
        Not used, as in PyTorch.
    dim : int, default -1
        The dimension of the classes.
    generator : torch.Generator, optional
        The source of randomness; PyTorch's global one by default.

    Returns
    -------
    Tensor of the shape and dtype of `logits`
        Samples, which sum to 1 along the dimension.

    Raises
    ------
    TypeError
        If the dtype is none of the above.
    ValueError
        If tau is not a finite number above 0.
    IndexError
        If there is no such dimension.

    References
    ----------
    E. Jang, S. Gu and B. Poole, "Categorical reparameterization with Gumbel-softmax", ICLR 2017, equation (2).

    Examples
    --------
    >>> import torch, softhead.torch
    >>> logits = torch.tensor([0.1, 0.2, 0.7]).log().expand(10_000, 3)
    >>> sample = softhead.torch.gumbel_softmax(logits, hard=True, generator=torch.Generator().manual_seed(0))
    >>> sample.mean(0).round(decimals=1)
    tensor([0.1000, 0.2000, 0.7000])
    """
    dim = class_dimension("logits", logits, dim)
    floating("logits", logits)
    exponential = torch.empty_like(logits, memory_format=torch.legacy_contiguous_format)
    # One that underflowed to 0 would be an infinite variate.
    noise = exponential.exponential_(generator=generator).clamp_min(torch.finfo(logits.dtype).smallest_normal).log()
    soft = softmax(logits - noise, dim, temperature=tau)
    if not hard:
        return soft
    chosen = soft.argmax(dim, keepdim=True) if soft.dim() else torch.zeros_like(soft, dtype=torch.long)
    one_hot = torch.zeros_like(soft).scatter(dim, chosen, 1.0)
    return one_hot - soft.detach() + soft
