"""Divergences of the softmax of tensors."""

from torch import Tensor

from softhead import _checks, generic
from softhead.torch.divergence_function import Distillation, Divergence
from softhead.torch.maps import as_rows, class_dimension, floating
from softhead.torch.modes import by_formula, with_autocast
from softhead.torch.values import by_kernels


def kl_divergence(
    input: Tensor,
    target: Tensor,
    *,
    dim: int = -1,
    temperature: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    r"""Return the relative entropy of targets with respect to the softmax of logits.

    With p = softmax(z / T) and targets q,

    .. math:: \mathrm{KL}(q \,\Vert\, p) = \sum_c q_c (\log q_c - \log p_c).

    `torch.nn.functional.kl_div` takes log-probabilities, and its "mean" divides by the number of entries; here logits
    come as they are, and the mean is over rows.

    Parameters
    ----------
    input : Tensor
        z: float16, bfloat16, float32 or float64.
    target : Tensor of the shape of `input`
        q, finite and not negative; 0 log 0 counts 0. Gradients flow to it too.
    dim : int, default -1
        The dimension of the classes.
    temperature : float, default 1.0
        T, a finite number above 0.
    reduction : {"mean", "batchmean", "sum", "none"}, default "mean"
        "mean", which has PyTorch's other name "batchmean" too, divides the sum by the number of rows.

    Returns
    -------
    Tensor
        Of the dtype of `input`, float32 under autocast. Never negative where targets sum to 1 up to their rounding.

    Raises
    ------
    TypeError
        If a dtype is none of the above.
    ValueError
        If shapes do not fit, or a target or an option lies outside its range.
    IndexError
        If there is no such dimension.

    References
    ----------
    S. Kullback and R. A. Leibler, "On information and sufficiency", Annals of Mathematical Statistics 22, 1951.

    Examples
    --------
    >>> import torch, softhead.torch
    >>> softhead.torch.kl_divergence(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]))
    tensor(0.1308)
    """
    dim = class_dimension("input", input, dim)
    logits, q = with_autocast(floating("input", input), target)
    options = {"axis": dim, "temperature": temperature, "reduction": _reduction(reduction)}
    if by_formula(logits) or q.shape != logits.shape or not q.is_floating_point():
        return by_kernels("kl_divergence", generic.kl_divergence, logits, q, **options)
    losses = Divergence.apply(as_rows(logits, dim), as_rows(q, dim), temperature)
    return _reduced(losses, logits, dim, reduction)


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float,
    dim: int = -1,
    reduction: str = "mean",
) -> Tensor:
    r"""Return the divergence of a student's softened distribution from its teacher's, times temperature squared.

    .. math:: \ell = T^2 \, \mathrm{KL}\bigl(\operatorname{softmax}(z_\text{teacher} / T) \,\Vert\,
        \operatorname{softmax}(z_\text{student} / T)\bigr)

    Parameters
    ----------
    student_logits : Tensor
        Logits: float16, bfloat16, float32 or float64.
    teacher_logits : Tensor of the shape of `student_logits`
        Logits. Gradients flow to them too: detach them where the teacher is fixed.
    temperature : float
        T, a finite number above 0.
    dim : int, default -1
        The dimension of the classes.
    reduction : {"mean", "batchmean", "sum", "none"}, default "mean"
        As in `kl_divergence`.

    Returns
    -------
    Tensor
        Of the dtype of `student_logits`, float32 under autocast. Never negative.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `kl_divergence` raises them.

    References
    ----------
    G. Hinton, O. Vinyals and J. Dean, "Distilling the knowledge in a neural network", 2015, section 2.

    Examples
    --------
    >>> import torch, softhead.torch
    >>> student, teacher = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 5.0])
    >>> softhead.torch.distillation_loss(student, teacher, temperature=2.0)
    tensor(0.4402)
    """
    dim = class_dimension("student_logits", student_logits, dim)
    given = floating("student_logits", student_logits), floating("teacher_logits", teacher_logits)
    student, teacher = with_autocast(*given)
    options = {"axis": dim, "temperature": temperature, "reduction": _reduction(reduction)}
    if by_formula(student) or teacher.shape != student.shape:
        return by_kernels("distillation_loss", generic.distillation_loss, student, teacher, **options)
    losses = Distillation.apply(as_rows(student, dim), as_rows(teacher, dim), temperature)
    return _reduced(losses, student, dim, reduction)


def _reduction(name: str) -> str:
    """Return the name of a reduction in this library, having refused what is none."""
    return "mean" if name == "batchmean" else _checks.one_of("reduction", name, _checks.REDUCTIONS)


def _reduced(losses: Tensor, like: Tensor, dim: int, reduction: str) -> Tensor:
    """Return the losses of rows, reduced or in the shape without the classes, in the dtype of the logits."""
    if reduction == "none":
        return losses.reshape(like.shape[:dim] + like.shape[dim + 1 :]).to(like.dtype)
    return (losses.sum() if reduction == "sum" else losses.mean()).to(like.dtype)
