import functools
import pickle

import numpy as np
import pytest
from linear.problems import random_problem

from softhead.linear.objective import LinearSoftmaxObjective
from softhead.linear.solver import solve
from softhead.linear.summed import Part, SummedObjective, add


class InParts(SummedObjective):
    """Rows in memory, cut into parts."""

    def __init__(self, problem, cuts):
        weight = problem["sample_weight"]
        sample = LinearSoftmaxObjective(**{**problem, "l2": 0.0})
        super().__init__(sample, n_rows=len(weight), total_weight=weight.sum(), l2=problem["l2"])
        rows = np.split(np.arange(len(weight)), cuts)
        self.parts = [Part(problem["X"][r], problem["targets"][r], weight[r]) for r in rows]

    def sum_over_parts(self, sums, coef=None):
        at_parts = (pickle.loads(pickle.dumps(self.part_sums))(part, sums, coef) for part in self.parts)
        return functools.reduce(add, at_parts)


@pytest.mark.parametrize("seed", range(6))
def test_sums_over_parts_are_those_over_all_rows(seed):
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, soft=seed % 3 == 0, intercept=seed % 4 != 0)
    whole = LinearSoftmaxObjective(**problem)
    parts = InParts(problem, [1, 1, 3])  # of which one has no rows
    coef = rng.normal(size=whole.shape)
    size = np.abs(problem["X"]).max()
    for name in ("loss_gradient", "intercept_system"):
        for ours, expected in zip(getattr(parts, name)(coef), getattr(whole, name)(coef), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-13 * (1.0 + size))
    for ours, expected in zip(parts.target_moments(), whole.target_moments(), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-13 * size)
    np.testing.assert_allclose(parts.mean_sizes(), whole.mean_sizes(), rtol=1e-12)
    assert parts.passes == whole.passes == 2.0


def test_a_part_without_weight_adds_nothing():
    problem = random_problem(np.random.default_rng(1))
    problem["sample_weight"][:2] = 0.0
    coef = np.random.default_rng(2).normal(size=LinearSoftmaxObjective(**problem).shape)
    value, gradient = InParts(problem, [2]).loss_gradient(coef)
    expected, same = LinearSoftmaxObjective(**problem).loss_gradient(coef)
    assert value == pytest.approx(expected, rel=1e-13)
    np.testing.assert_allclose(gradient, same, atol=1e-13 * np.abs(problem["X"]).max())


def test_the_optimum_is_that_of_all_rows_whatever_the_parts():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(500, 6)).astype(np.float32)
    y = (X @ rng.normal(size=(6, 4)) + rng.gumbel(size=(500, 4))).argmax(1)
    problem = {"X": X, "targets": y, "n_classes": 4, "l2": 1e-2, "sample_weight": rng.random(500) + 0.5}
    whole = LinearSoftmaxObjective(**problem)
    expected = solve(whole, np.zeros(whole.shape), tol=1e-9, max_iter=500)
    for cuts in ([], [250], [7, 300, 301]):
        parts = InParts(problem, cuts)
        assert parts.wide().dtype == np.float64
        found = solve(parts, np.zeros(parts.shape), tol=1e-9, max_iter=500)
        assert found.status == expected.status == "converged"
        assert found.value == pytest.approx(expected.value, rel=1e-9)
        np.testing.assert_allclose(found.coef, expected.coef, atol=1e-4)
