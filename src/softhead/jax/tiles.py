"""Rows of logits, with rules for their derivatives.

A rule is written with functions that have rules, so that it holds at any order and in either direction.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from softhead.generic.namespace import Namespace
from softhead.generic.tiles import exponentiate, first_maximum

# Called outside a compiled program, a map is one compilation, not one for each of its thirty operations.
_compiled = partial(jax.jit, static_argnums=(0, 1), inline=True)


class Tile(NamedTuple):
    """Rows of logits, as the formulas of `generic` want them."""

    ns: Namespace
    rows: Any  # (n, C), in a dtype of their own
    temperature: float

    @property
    def xp(self) -> Any:
        """Return the library."""
        return self.ns.xp

    def probabilities(self) -> Any:
        """Return the softmax, in the wide dtype."""
        return _probabilities(self.ns, self.temperature, self.rows)

    def log_probabilities(self) -> Any:
        """Return its logarithm."""
        return _log_probabilities(self.ns, self.temperature, self.rows)

    def log_sum_exp(self) -> Any:
        """Return log(sum of exp(x / temperature)), (n, 1)."""
        return _log_sum_exp(self.ns, self.temperature, self.rows)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
@_compiled
def _probabilities(ns: Namespace, temperature: float, rows: Any) -> Any:
    return exponentiate(ns, rows, temperature).probabilities()


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
@_compiled
def _log_probabilities(ns: Namespace, temperature: float, rows: Any) -> Any:
    return exponentiate(ns, rows, temperature).log_probabilities()


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
@_compiled
def _log_sum_exp(ns: Namespace, temperature: float, rows: Any) -> Any:
    return exponentiate(ns, rows, temperature).log_sum_exp()


@_probabilities.defjvp
def _(ns: Namespace, temperature: float, primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    p, deviations = _deviations(ns, temperature, *primals, *tangents)
    return p, p * deviations


@_log_probabilities.defjvp
def _(ns: Namespace, temperature: float, primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    return _log_probabilities(ns, temperature, *primals), _deviations(ns, temperature, *primals, *tangents)[1]


@_log_sum_exp.defjvp
def _(ns: Namespace, temperature: float, primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    p = _probabilities(ns, temperature, *primals)
    mean = jnp.sum(p * ns.widened(tangents[0]), axis=-1, keepdims=True)
    return _log_sum_exp(ns, temperature, *primals), mean / temperature


def _deviations(ns: Namespace, temperature: float, rows: Any, tangent: Any) -> tuple[Any, Any]:
    """Return p, and the tangent over the temperature less its mean under p.

    Where one class has more than half of the probability, tangents are counted from that class's. Its own deviation is
    then a sum of small terms, and so is what it sends back: -rest / (1 + rest) for a true class on top.
    """
    p = _probabilities(ns, temperature, rows)
    change = ns.widened(tangent)
    confident = first_maximum(ns, rows) & (p > 0.5)
    change = change - jnp.sum(jnp.where(confident, change, 0.0), axis=-1, keepdims=True)
    return p, (change - jnp.sum(p * change, axis=-1, keepdims=True)) / temperature
