"""What a solver returns."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

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


class Checkpoint(Protocol):
    """Where a run leaves its state, and finds that of a run before it.

    A state is a dictionary of plain values, of arrays, and of lists and dictionaries of these.
    """

    exactly: bool
    """Whether the machine is the one that the state found was made on: then it must come back to the last bit."""

    def load(self) -> dict[str, Any] | None:
        """Return the state found, if there is one."""
        ...

    def offer(self, state: Callable[[], dict[str, Any]], *, last: bool = False) -> None:
        """Write a state, if it is time to; the `last` one in any case."""
        ...
