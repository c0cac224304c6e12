"""Between what users give and get, and the objective: penalties, grids of them, coefficients of two classes."""

from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils import check_scalar

from softhead.kernels.algebra import on_host
from softhead.linear.blocks import RowBlocks
from softhead.linear.contract import Objective
from softhead.linear.objective import LinearSoftmaxObjective


def linear_problem(
    X: Any, targets: np.ndarray, weight: np.ndarray, classes: np.ndarray, *, C: float, fit_intercept: bool
) -> LinearSoftmaxObjective:
    """Return the objective of checked rows, targets and weights.

    Raises
    ------
    ValueError
        On fewer than two classes, weights whose sum is 0 or overflows, or a penalty that overflows.
    """
    with np.errstate(over="ignore"):
        total = float(weight.sum())
    check_total(classes, total)
    return LinearSoftmaxObjective(
        sparse.csr_array(X) if sparse.issparse(X) else X,
        targets,
        n_classes=len(classes),
        sample_weight=weight,
        l2=penalty(C, total, len(classes)),
        fit_intercept=fit_intercept,
    )


def check_total(classes: np.ndarray, total: float) -> None:
    """Raise on fewer than two classes, or rows whose weights have a sum of 0 or one that overflows."""
    if len(classes) < 2:
        raise ValueError(
            f"y: a classifier needs at least 2 classes; every row is of one class, {classes.tolist()[0]!r}"
        )
    if total == np.inf:
        raise ValueError("sample_weight: the sum of the weights overflows; scale them down")
    if not total > 0.0:
        raise ValueError("sample_weight: every weight is zero; at least one row needs a positive weight")


def penalty(C: float, total: float, n_classes: int) -> float:
    """Return lambda of the mean objective for an inverse penalty C and the sum of the rows' weights.

    Raises
    ------
    ValueError
        If it overflows.
    """
    # One vector w for two classes is the pair of rows (-w/2, w/2), of half the squared norm.
    with np.errstate(all="ignore"):
        l2 = float((2.0 if n_classes == 2 else 1.0) / (np.float64(C) * total))
    if l2 == np.inf:
        raise ValueError(f"C == {C}, must be larger: the penalty, 1 / (C * sum of the weights), overflows")
    return l2


def check_stopping(tol: Any, max_iter: Any) -> None:
    """Raise on a tolerance or a number of iterations outside its range."""
    check_scalar(tol, "tol", Real, min_val=0.0)
    if np.isnan(tol):
        raise ValueError("tol == nan, must be a number")
    check_scalar(max_iter, "max_iter", Integral, min_val=0)


def check_flag(value: Any, name: str) -> bool:
    """Return a parameter that is true or false; raise TypeError on anything else, such as a string."""
    check_scalar(value, name, (bool, np.bool_))
    return bool(value)


def penalty_grid(Cs: Any) -> np.ndarray:
    """Return inverse penalties as an array: those given, or as many as given from 1e-4 to 1e4, evenly in log C.

    Raises
    ------
    TypeError
        If `Cs` is neither an integer nor numbers.
    ValueError
        If there is none, or one is not positive.
    """
    if isinstance(Cs, Integral) and not isinstance(Cs, bool):
        if Cs < 1:
            raise ValueError(f"Cs == {Cs}, must be at least 1")
        return np.geomspace(1e-4, 1e4, int(Cs))
    grid = np.asarray(Cs)
    if grid.dtype.kind not in "iuf":
        raise TypeError(f"Cs: {Cs!r} is neither a number of penalties nor a sequence of numbers")
    grid = grid.astype(np.float64)
    if grid.ndim != 1 or not len(grid):
        raise ValueError(f"Cs: an array of shape {grid.shape}; accepted is one dimension with at least one number")
    if not (grid > 0.0).all():
        raise ValueError(f"Cs: {grid[~(grid > 0.0)][0]:g} is among them; they must be positive")
    return grid


def public_coefficients(objective: Objective, coef: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and intercepts in the dtype of the data, of two classes as one row; those of NumPy."""
    weights, intercepts = objective.split(on_host(coef).astype(objective.dtype))
    if objective.n_classes == 2:
        weights, intercepts = weights[1:] - weights[:1], intercepts[1:] - intercepts[:1]
    return np.array(weights, order="C"), intercepts.astype(objective.dtype)


def logits_by_block(X: Any, coef: np.ndarray, intercept: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the logits of a block of rows, a column for two classes, from float64 products.

    Products in float32, and logits rounded to it, each put probabilities of embeddings off by some 1e-6.
    """
    columns = np.ascontiguousarray(coef.T, np.float64)
    for rows, block in RowBlocks(X, np.dtype(np.float64), len(coef)):
        yield rows, block @ columns + intercept
