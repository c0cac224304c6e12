"""The state of a run of L-BFGS between two iterations, as plain values, and a run made again from it, bit for bit.

All but the metric is stored as it is. A metric may be larger than the coefficients; it is made anew from what it was
made of. That the rows are the same is seen at the point stored, in one pass: the same rows on the same machine give the
same value and the same gradient there, to the last bit.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from softhead.kernels.algebra import on_host, same
from softhead.linear.solution import Pair, Progress

if TYPE_CHECKING:  # it is built on this file
    from softhead.linear.lbfgs import _Run


class Recipe(NamedTuple):
    """What a metric was made of: the precision, the coefficients and the budget."""

    narrow: bool
    coef: np.ndarray | None
    budget: float


def state_of(run: "_Run") -> dict[str, Any]:
    """Return what the rest of a run depends on."""
    recipe = run.recipe
    return {
        "coef": on_host(run.point.coef),
        "value": run.point.value,
        "gradient": on_host(run.point.gradient),
        "dtype": str(run.point.dtype),
        "narrow": run.narrow,
        "rounded": run.rounded,
        "bound": run.bound,
        "n_iter": run.n_iter,
        "passes": [run.original.passes, run.exact.passes],
        "moments_known": [run.original.moments_known, run.exact.moments_known],
        "history": np.array(run.history, np.float64).reshape(-1, 3),
        "steps": [on_host(pair.step) for pair in run.pairs],
        "changes": [on_host(pair.change) for pair in run.pairs],
        "curvatures": [pair.curvature for pair in run.pairs],
        "ask_below": run.ask_below,
        "goal": run.goal,
        "deadline": run.deadline,
        "cautious": run.cautious,
        "metric": None if recipe is None else _stored(recipe),
    }


def _stored(recipe: Recipe) -> dict[str, Any]:
    """Return what a metric was made of as plain values."""
    return recipe._replace(coef=None if recipe.coef is None else on_host(recipe.coef))._asdict()


def restore(run: "_Run", state: dict[str, Any], *, exactly: bool) -> None:
    """Give a run the state of another one on the same rows.

    Raises
    ------
    ValueError
        If the rows are others: `exactly`, if value and gradient differ in any bit.
    """
    narrow, dtype = state["narrow"], np.dtype(state["dtype"])
    run.working = run.original if narrow else run.exact
    run.rounded = state["rounded"]
    placed = run.original.placed
    run.start(placed(state["coef"]), run.exact if dtype == run.exact.dtype else run.original)
    value, gradient = run.point.value, run.point.gradient
    stored = placed(state["gradient"])
    close = 1e4 * float(np.finfo(dtype).eps)
    if exactly:
        known = value == state["value"] and same(gradient, stored)
    else:
        known = bool(abs(value - state["value"]) <= close * abs(value))
    if not known:
        also = ", with another gradient" if value == state["value"] else ""
        raise ValueError(
            "checkpoint: its rows, labels or weights are others: at its coefficients the objective is "
            f"{value!r}, where it was {state['value']!r}{also}; "
            "or their blocks are. Remove the file to begin anew"
        )
    run.point = run.point._replace(value=state["value"], gradient=stored)
    run.bound, run.n_iter, run.ask_below = state["bound"], state["n_iter"], state["ask_below"]
    run.goal, run.deadline, run.cautious = state["goal"], state["deadline"], state["cautious"]
    run.history = [Progress(*map(float, row)) for row in state["history"]]
    run.pairs.extend(map(Pair, map(placed, state["steps"]), map(placed, state["changes"]), state["curvatures"]))
    if state["metric"] is not None:
        recipe = Recipe(**state["metric"])
        if recipe.coef is not None:
            at_point = np.array_equal(recipe.coef, state["coef"])
            recipe = recipe._replace(coef=run.point.coef if at_point else placed(recipe.coef))
        run.renew(recipe)
    # Last of all: what was counted already is not counted again.
    for objective, taken in zip((run.original, run.exact), state["moments_known"], strict=True):
        if taken:
            objective.target_moments()
    run.original.passes, run.exact.passes = state["passes"]
