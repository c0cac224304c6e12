"""Choosing classes at random, with gradients that survive the choice."""

from collections.abc import Callable
from importlib import import_module
from typing import SupportsFloat

import numpy as np
from numpy.typing import ArrayLike

from softhead import _checks
from softhead._checks import is_tensor
from softhead._dispatch import refuse_others
from softhead.functional import as_rows, write_back
from softhead.kernels import primitives
from softhead.kernels import rows as kernels

Seed = np.random.Generator | np.random.BitGenerator | np.random.SeedSequence | int | None


def gumbel_softmax(
    logits: ArrayLike, /, *, temperature: float = 1.0, hard: bool = False, axis: int = -1, rng: Seed = None
) -> np.ndarray:
    r"""Draw relaxed one-hot samples of the classes that logits stand for.

    .. math:: y = \operatorname{softmax}\Bigl(\frac{x + g}{T}\Bigr), \qquad g_i = -\log(-\log u_i),
        \quad u_i \sim \mathrm{U}(0, 1)

    The largest entry of y is class i with probability softmax(x)_i, whatever the temperature; as that goes to 0, y
    becomes one-hot. The derivative of y with respect to the logits is `softmax_vjp` at y. The hard sample is the
    one-hot of the largest entry of the very y that the same generator state gives without `hard`: learning with it
    uses the derivative of that y in its place (the straight-through estimator).

    Parameters
    ----------
    logits : array_like of shape (..., C, ...)
        x: integers or booleans (computed as float64), float16, bfloat16, float32 or float64.
    temperature : float, default 1.0
        T, a finite number above 0.
    hard : bool, default False
        Whether to return one-hot samples.
    axis : int, default -1
        The axis of the classes.
    rng : numpy.random.Generator, int or None, optional
        The source of randomness, or a seed for one; for a tensor, a torch.Generator.

    Returns
    -------
    ndarray of the shape and dtype of `logits`
        Samples, which sum to 1 along the axis.

    Raises
    ------
    TypeError
        If the dtype is none of the above, or `logits` an array of a library other than NumPy and PyTorch.
    ValueError
        If the temperature is not a finite number above 0, or `logits` is a single number.
    numpy.exceptions.AxisError
        If `logits` has no such axis.

    References
    ----------
    E. Jang, S. Gu and B. Poole, "Categorical reparameterization with Gumbel-softmax", ICLR 2017, equation (2).

    Examples
    --------
    >>> import numpy as np, softhead
    >>> logits = np.tile(np.log([0.1, 0.2, 0.7]), (10_000, 1))
    >>> softhead.gumbel_softmax(logits, hard=True, rng=0).mean(axis=0).round(1)
    array([0.1, 0.2, 0.7])
    """
    if is_tensor(logits):
        options = {"temperature": temperature, "hard": hard, "axis": axis, "rng": rng}
        sample: np.ndarray = import_module("softhead.torch.public").answer("gumbel_softmax", logits, **options)
        return sample
    refuse_others("gumbel_softmax", logits=logits)
    array = _checks.real_array("logits", logits)
    axis = _checks.class_axis("logits", array, axis)
    temperature = _checks.positive("temperature", temperature)
    # -log of an exponential variate is a Gumbel variate; one that underflowed to 0 would make it infinite.
    exponential = np.random.default_rng(rng).standard_exponential(array.shape)
    noisy = array.astype(np.float64) - np.log(np.maximum(exponential, np.finfo(np.float64).tiny))
    sample = np.empty(array.shape, array.dtype)
    rows = as_rows(sample, (axis,))
    if hard:
        if array.shape[axis]:  # NaN where the soft sample is: beside +inf, and where all are -inf
            with np.errstate(invalid="ignore"):
                noisy -= noisy.max(axis=axis, keepdims=True)
        kernels.hardmax(as_rows(noisy, (axis,)), rows)
    else:
        kernels.softmax(as_rows(noisy, (axis,)), temperature, rows)
    write_back(rows, sample, (axis,))
    return sample


def arsm_gradient(f: Callable[[np.ndarray], float], logits: ArrayLike, /, *, rng: Seed = None) -> np.ndarray:
    r"""Estimate the gradient of an expectation over categorical variables, without bias and with low variance.

    For independent variables z_v ~ Categorical(softmax(x_v)) it estimates the gradient of E[f(z)] with respect to all
    logits by the augment-REINFORCE-swap-merge estimator. With one draw of :math:`\pi_v` uniform on the simplex, and
    :math:`z_v^{c \leftrightarrow j}` the class i that minimises :math:`\log \pi_{vi} - x_{vi}` after entries c and j of
    every :math:`\pi_v` have changed places,

    .. math:: g_{vc} = \sum_j \Bigl(f(z^{c \leftrightarrow j}) - \frac{1}{C} \sum_m f(z^{m \leftrightarrow j})\Bigr)
        \Bigl(\frac{1}{C} - \pi_{vj}\Bigr).

    Parameters
    ----------
    f : callable
        Takes the classes of all variables, an integer array of the shape of `logits` without its last axis, and
        returns a real number. It need not be differentiable. It is called at most C (C - 1) / 2 + 1 times: once for
        every swap that changes a class.
    logits : array_like of shape (..., C)
        x, the logits of every variable: integers or booleans (computed as float64), float16, bfloat16, float32 or
        float64.
    rng : numpy.random.Generator, int or None, optional
        The source of randomness, or a seed for one.

    Returns
    -------
    ndarray of the shape and dtype of `logits`
        One estimate, whose expectation is the gradient; it sums to 0 over the classes of a variable.

    Raises
    ------
    TypeError
        If the dtype is none of the above, `logits` an array of a library other than NumPy, or a value of `f` no number.
    ValueError
        If `logits` is a single number or has no classes.

    References
    ----------
    M. Yin, Y. Yue and M. Zhou, "ARSM: Augment-REINFORCE-swap-merge estimator for gradient backpropagation through
    categorical variables", ICML 2019, theorem 1.

    Examples
    --------
    >>> import numpy as np, softhead
    >>> rng, reward = np.random.default_rng(0), np.array([0.0, 1.0, 5.0])
    >>> logits = np.zeros(3)
    >>> estimates = [softhead.arsm_gradient(lambda z: reward[z], logits, rng=rng) for _ in range(2000)]
    >>> np.mean(estimates, axis=0).round(1)  # p (reward - mean reward) is -2/3, -1/3, 1
    array([-0.7, -0.3,  1. ])
    """
    refuse_others("arsm_gradient", logits=logits)
    array = _checks.real_array("logits", logits)
    _checks.class_axis("logits", array, -1)
    x = array.astype(np.float64)
    n_classes = x.shape[-1]
    if n_classes == 0:
        raise ValueError(f"logits has shape {x.shape}; there must be a class to choose")
    simplex = np.random.default_rng(rng).standard_exponential(x.shape)
    simplex /= simplex.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        log_simplex = np.log(simplex)

    values = np.empty((n_classes, n_classes))
    unswapped = np.argmin(log_simplex - x, axis=-1)
    values[...] = _value(f, unswapped)
    for c in range(n_classes):
        for j in range(c):
            swapped = log_simplex.copy()
            swapped[..., [c, j]] = log_simplex[..., [j, c]]
            classes = np.argmin(swapped - x, axis=-1)
            if not np.array_equal(classes, unswapped):
                values[c, j] = values[j, c] = _value(f, classes)

    gradient = (1.0 / n_classes - simplex) @ (values - values.mean(axis=0)).T
    return primitives.rounded(gradient, array.dtype)


def _value(f: Callable[[np.ndarray], float], classes: np.ndarray) -> float:
    """Return f of a copy of the classes, which it may change."""
    value: object = f(classes.copy())
    if getattr(value, "shape", ()) != () or not isinstance(value, SupportsFloat):
        raise TypeError(f"f returned a {type(value).__name__}; it must return a real number")
    return float(value)
