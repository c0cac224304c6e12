from functools import partial

import numpy as np
import pytest
from linear.problems import derivatives, newton_optimum, random_problem

from softhead.linear import preconditioner as metrics
from softhead.linear.certificate import duality_gap, polish_intercepts
from softhead.linear.lbfgs import solve
from softhead.linear.objective import LinearSoftmaxObjective
from softhead.linear.path import solve_path
from softhead.linear.preconditioner import ClassGrams, Hessian, _Diagonal, _FeatureGram, _RowGram, preconditioner


@pytest.mark.parametrize("seed", range(60))
def test_the_gap_bounds_the_distance_to_the_optimum_anywhere(seed):
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, soft=seed % 3 == 0, intercept=seed % 4 != 0)
    objective = LinearSoftmaxObjective(**problem)
    optimum, solution = newton_optimum(problem)
    for scale in (0.0, 1e-8, 1e-4, 1e-2, 1.0, 30.0):
        coef = solution + scale * rng.normal(size=objective.shape)
        value, gradient = objective.loss_gradient(coef)
        gap, slack = duality_gap(objective, coef, gradient)
        assert value - optimum <= gap * (1 + 1e-9) + 1e-15
        assert 0.0 <= slack < np.inf
        if scale == 1e-4 and problem["fit_intercept"]:
            polished = polish_intercepts(objective, coef, target=1e-13)
            better, gradient = objective.loss_gradient(polished)
            assert better <= value
            assert np.abs(gradient[:, -1]).sum() <= 1e-9
            assert better - optimum <= duality_gap(objective, polished, gradient)[0] * (1 + 1e-9) + 1e-15


def test_the_penalised_part_alone_is_no_bound_with_a_free_intercept():
    """At W = 0 with a far intercept every row is decided: g_W vanishes while F is far above its minimum."""
    X = np.array([[1.0], [-1.0], [1.0], [-1.0]])
    objective = LinearSoftmaxObjective(X, np.array([0, 0, 1, 1]), n_classes=2, l2=0.1)
    coef = np.array([[0.0, 2.0], [0.0, -2.0]])
    value, gradient = objective.loss_gradient(coef)
    distance = value - np.log(2.0)  # the features say nothing, so the optimum is the base rate
    naive = float((gradient[:, :-1] ** 2).sum()) / 0.2
    assert naive < 1e-30 < distance
    assert duality_gap(objective, coef, gradient)[0] >= distance


def test_without_a_penalty_there_is_no_bound():
    objective = LinearSoftmaxObjective(np.ones((2, 1)), np.array([0, 1]), n_classes=2)
    coef = np.zeros(objective.shape)
    assert duality_gap(objective, coef, objective.loss_gradient(coef)[1]) == (np.inf, np.inf)


@pytest.mark.parametrize("tol", [1e-4, 1e-10])
@pytest.mark.parametrize("seed", range(60))
def test_solve_reaches_the_optimum_that_it_certifies(seed, tol):
    rng = np.random.default_rng(1000 + seed)
    problem = random_problem(rng, soft=seed % 3 == 0, intercept=seed % 4 != 0)
    objective = LinearSoftmaxObjective(**problem)
    optimum, _ = newton_optimum(problem)
    solution = solve(objective, np.zeros(objective.shape), tol=tol, max_iter=500)
    assert solution.status == "converged"
    assert solution.value - optimum <= solution.gap + 1e-15
    assert solution.gap <= tol * solution.value
    assert solution.passes >= solution.n_iter
    assert solution.history[-1].value >= solution.value * (1 - 1e-13)
    assert solution.history[0].value > solution.history[-1].value


@pytest.mark.parametrize("seed", range(10))
def test_float32_is_solved_in_float32_and_certified_in_float64(seed):
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, soft=seed % 3 == 0)
    problem["X"] = problem["X"].astype(np.float32)
    objective = LinearSoftmaxObjective(**problem)
    optimum, _ = newton_optimum({**problem, "X": problem["X"].astype(float)})
    solution = solve(objective, np.zeros(objective.shape), tol=1e-4, max_iter=500)
    assert solution.status == "converged"
    np.testing.assert_array_equal(solution.coef, solution.coef.astype(np.float32))
    assert solution.value == objective.wide().loss_gradient(solution.coef)[0]
    assert solution.value - optimum <= solution.gap <= 1e-4 * solution.value


def test_asking_for_more_than_float32_coefficients_can_hold_is_a_precision_limit():
    problem = random_problem(np.random.default_rng(3))
    problem["X"] = problem["X"].astype(np.float32)
    objective = LinearSoftmaxObjective(**problem)
    optimum, _ = newton_optimum({**problem, "X": problem["X"].astype(float)})
    solution = solve(objective, np.zeros(objective.shape), tol=1e-15, max_iter=500)
    assert solution.status == "precision_limit"
    assert solution.value - optimum <= solution.gap < 1e-6 * solution.value


def test_without_a_penalty_the_maximum_likelihood_estimate_is_found():
    rng = np.random.default_rng(4)
    X, y = rng.normal(size=(300, 4)), rng.integers(0, 3, 300)
    objective = LinearSoftmaxObjective(X, y, n_classes=3)
    solution = solve(objective, np.zeros(objective.shape), tol=1e-12, max_iter=100)
    optimum, _ = newton_optimum(
        {"X": X, "targets": y, "n_classes": 3, "sample_weight": np.ones(300), "l2": 0.0, "fit_intercept": True}
    )
    assert (solution.status, solution.gap) == ("converged", np.inf)
    assert solution.value == pytest.approx(optimum, rel=1e-13)


def test_too_few_iterations_are_reported_with_a_true_gap():
    problem = random_problem(np.random.default_rng(9))
    objective = LinearSoftmaxObjective(**problem)
    optimum, _ = newton_optimum(problem)
    for max_iter in (0, 1, 2):
        solution = solve(objective, np.zeros(objective.shape), tol=1e-12, max_iter=max_iter)
        assert (solution.status, solution.n_iter) == ("max_iter", max_iter)
        assert solution.gap > 1e-12 * solution.value
        assert solution.value - optimum <= solution.gap


def test_interruption_keeps_the_best_point():
    problem = random_problem(np.random.default_rng(10))
    objective = LinearSoftmaxObjective(**problem)
    optimum, _ = newton_optimum(problem)

    def interrupt(progress, coef):
        if progress.passes > 3:
            raise KeyboardInterrupt

    solution = solve(objective, np.zeros(objective.shape), tol=1e-12, max_iter=500, callback=interrupt)
    assert solution.status == "interrupted"
    assert solution.value < np.log(problem["n_classes"]) * 1.5
    assert solution.value == pytest.approx(objective.loss_gradient(solution.coef)[0], rel=1e-14)
    assert solution.value - optimum <= solution.gap


def test_features_that_overflow_are_an_error_that_says_so():
    objective = LinearSoftmaxObjective(np.full((2, 1), 1e300), np.array([0, 1]), n_classes=2, l2=1.0)
    with pytest.raises(ValueError, match="overflow"):
        solve(objective, np.full(objective.shape, 1e300), tol=1e-4, max_iter=10)


@pytest.mark.parametrize("form", [Hessian, _FeatureGram, partial(ClassGrams, budget=8.0), _RowGram, _Diagonal])
@pytest.mark.parametrize("intercept", [True, False])
def test_every_metric_is_symmetric_and_positive_definite(form, intercept):
    rng = np.random.default_rng(11)
    X = rng.normal(size=(30, 8))
    objective = LinearSoftmaxObjective(X, rng.integers(0, 4, 30), n_classes=4, l2=1e-3, fit_intercept=intercept)
    metric = form(objective, rng.normal(size=objective.shape))
    basis = np.eye(int(np.prod(objective.shape))).reshape(-1, *objective.shape)
    inverse = np.array([metric.solve(unit).ravel() for unit in basis])
    np.testing.assert_allclose(inverse, inverse.T, rtol=1e-9, atol=1e-9 * np.abs(inverse).max())
    assert np.linalg.eigvalsh(inverse).min() > 0.0


def test_the_gram_metric_is_the_hessian_for_two_classes_and_at_zero():
    rng = np.random.default_rng(12)
    for classes, coef_scale in ((2, 1.0), (5, 0.0)):
        X = rng.normal(size=(40, 3))
        objective = LinearSoftmaxObjective(X, np.arange(40) % classes, n_classes=classes, l2=0.01)
        coef = coef_scale * rng.normal(size=objective.shape)
        coef -= coef.mean(axis=0)
        metric = _FeatureGram(objective, coef)
        direction = rng.normal(size=objective.shape)
        direction -= direction.mean(axis=0)  # on directions that sum to 0 over classes
        product = objective.hvp(coef, direction)
        np.testing.assert_allclose(metric.solve(product), direction, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("intercept", [True, False])
def test_the_metric_of_classes_is_the_hessian_without_its_coupling(intercept, monkeypatch):
    monkeypatch.setattr(metrics, "_NEGLIGIBLE", 0.0)
    problem = random_problem(np.random.default_rng(13), intercept=intercept)
    objective = LinearSoftmaxObjective(**problem)
    coef = 0.1 * np.random.default_rng(14).normal(size=objective.shape)
    classes, columns = objective.shape
    hessian = derivatives(problem, coef)[1].reshape(classes, columns, classes, columns)
    own = hessian[range(classes), :, range(classes), :]
    if intercept:
        own[:, -1, -1] += 0.25 / objective.n_rows
    direction = np.random.default_rng(15).normal(size=objective.shape)
    product = np.einsum("cjk,ck->cj", own, direction)
    metric = ClassGrams(objective, coef, budget=8.0)
    np.testing.assert_allclose(metric.solve(product), direction, rtol=1e-8, atol=1e-10)


def test_rare_classes_do_not_hold_up_a_fit_nor_a_path():
    rng = np.random.default_rng(0)
    n, d, classes = 20_000, 24, 200
    frequencies = 1.0 / np.arange(1, classes + 1) ** 2
    y = np.sort(rng.choice(classes, size=n, p=frequencies / frequencies.sum()))
    y[:classes] = np.arange(classes)
    X = (rng.normal(size=(n, d)) + 0.7 * rng.normal(size=(classes, d))[y]).astype(np.float32)
    X[:, -6:] = X[:, -6:] > 1.5
    objective = LinearSoftmaxObjective(X, y, n_classes=classes, l2=1e-6)
    solution = solve(objective, np.zeros(objective.shape), tol=1e-4, max_iter=1000)
    assert solution.status == "converged"
    assert solution.passes <= 200  # 1,060 with one Gram matrix for all classes
    path = list(solve_path(objective, np.geomspace(1e-2, 1e-6, 9), tol=1e-4, max_iter=1000))
    assert {point.status for point in path} == {"converged"}
    assert sum(point.passes for point in path) <= 400  # 1,465 with one Gram matrix for all classes
    assert path[-1].value == pytest.approx(solution.value, rel=2e-4)


def test_few_rows_of_many_features_are_solved_in_the_space_of_the_rows():
    rng = np.random.default_rng(13)
    X, y = rng.normal(size=(40, 5000)), np.arange(40) % 3
    objective = LinearSoftmaxObjective(X, y, n_classes=3, l2=0.01)
    assert isinstance(preconditioner(objective, np.zeros(objective.shape), budget=1.0), _RowGram)
    solution = solve(objective, np.zeros(objective.shape), tol=1e-8, max_iter=100)
    assert solution.status == "converged"
    # The optimum lies in the span of the rows: the same problem in 40 coordinates.
    q, r = np.linalg.qr(X.T)
    small = LinearSoftmaxObjective(r.T, y, n_classes=3, l2=0.01)
    reference = solve(small, np.zeros(small.shape), tol=1e-12, max_iter=200)
    assert solution.value == pytest.approx(reference.value, rel=1e-8)
    np.testing.assert_allclose(solution.coef[:, :-1], reference.coef[:, :-1] @ q.T, atol=1e-5)


def test_columns_in_very_different_units_converge():
    rng = np.random.default_rng(14)
    X = rng.normal(size=(400, 6)) * 10.0 ** np.arange(-6, 6, 2) + 10.0 ** np.arange(-6, 6, 2)
    X = np.column_stack([X, np.full(400, 3.0), X[:, 0]])
    y = (X[:, 2] / 1e-2 + rng.normal(size=400) > 1).astype(int) + (X[:, 5] > 1.5e4)
    objective = LinearSoftmaxObjective(X, y, n_classes=3, l2=1e-4)
    solution = solve(objective, np.zeros(objective.shape), tol=1e-9, max_iter=300)
    assert solution.status == "converged"
