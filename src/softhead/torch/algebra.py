"""What a solver does with arrays of the size of its coefficients, for tensors: they stay where they are.

Only numbers go to the host, and what has one number a class: the solver decides by them. Sums are PyTorch's own, in a
fixed order.
"""

import numpy as np
import torch
from torch import Tensor

from softhead.kernels import algebra


@algebra.dot_of.register
def _(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum())


@algebra.add_multiple_of.register
def _(a: Tensor, factor: float, b: Tensor) -> None:
    a.add_(b, alpha=factor)


@algebra.beside.register
def _(neighbour: Tensor, array: np.ndarray) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(array), dtype=neighbour.dtype, device=neighbour.device)


@algebra.on_host.register
def _(array: Tensor) -> np.ndarray:
    host: np.ndarray = array.detach().cpu().numpy()
    return host


@algebra.copied.register
def _(array: Tensor) -> Tensor:
    return array.clone()


@algebra.same.register
def _(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b)


@algebra.reach.register
def _(weights: Tensor, sizes: Tensor) -> float:
    return float(sizes @ weights.abs().amax(0))


@algebra.gap_parts.register
def _(
    coef: Tensor, gradient: Tensor, moments: Tensor, removed: np.ndarray, nu: np.ndarray, l2: float
) -> tuple[float, float]:
    weights, slopes = coef[:, : moments.shape[1]], gradient[:, : moments.shape[1]]
    share, gained = algebra.beside(coef, removed), algebra.beside(coef, nu)
    model = moments + slopes - l2 * weights
    shift = share[:, None] * model - gained[:, None] * (share @ model)
    difference = slopes - shift
    curved, inner = torch.stack([(difference * difference).sum(), (shift * weights).sum()]).tolist()
    return curved, inner


@algebra.solve_cholesky.register
def _(lower: Tensor, vector: Tensor) -> Tensor:
    return torch.cholesky_solve(vector[:, None], lower)[:, 0]


@algebra.laplacian.register
def _(second: Tensor) -> Tensor:
    scale = second.sum(1)
    return (torch.diag(scale) - second) / max(float(scale.sum()), np.finfo(float).tiny)


@algebra.damped_solution.register
def _(hessian: Tensor, residual: np.ndarray) -> np.ndarray:
    n, trace = len(hessian), float(hessian.trace())
    if trace <= np.finfo(np.float64).tiny:
        return np.zeros_like(residual)
    damped = hessian + trace / n * (1.0 / n + 1e-10 * torch.eye(n, dtype=hessian.dtype, device=hessian.device))
    return -algebra.on_host(torch.linalg.solve(damped, algebra.beside(hessian, residual)))
