"""What a solver returns."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

Status = Literal["converged", "precision_limit", "max_iter", "interrupted"]


class Progress(NamedTuple):
    """One iteration: passes over the data so far, the objective, and the gap as far as that pass could tell."""

    passes: float
    value: float
    gap: float


Callback = Callable[[Progress, np.ndarray], None]  # with the coefficients, which it must not change


class Pair(NamedTuple):
    """A step and the change of the gradient along it, with their product: what a run learns about curvature."""

    step: np.ndarray
    change: np.ndarray
    curvature: float


@dataclass
class Solution:
    """Coefficients with the evidence for them.

    Attributes
    ----------
    coef : ndarray, float64, in the objective's layout
    value : float
        The objective there, from float64 products.
    gap : float
        An upper bound on ``value`` minus the minimum; inf without a penalty.
    status : str
        "converged" (gap <= tol * value; without a penalty, the predicted decrease is), "precision_limit" (rounding
        allows no further progress), "max_iter" or "interrupted".
    n_iter : int
    passes : float
        Reads of the data; one that only takes logits counts half.
    history : list of Progress
    gradient : ndarray or None
        That of the objective at `coef`, from float64 products.
    pairs : list of Pair
        The last steps, for a run on a neighbouring problem to begin with.
    """

    coef: np.ndarray
    value: float
    gap: float
    status: Status
    n_iter: int
    passes: float
    history: list[Progress] = field(default_factory=list, repr=False)
    gradient: np.ndarray | None = field(default=None, repr=False)
    pairs: list[Pair] = field(default_factory=list, repr=False)
