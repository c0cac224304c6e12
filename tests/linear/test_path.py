import numpy as np
import pytest
from linear.problems import newton_optimum, random_problem

from softhead.linear.objective import LinearSoftmaxObjective
from softhead.linear.path import _Track, _under, solve_path
from softhead.linear.path_metric import PathMetric, _EigenGram
from softhead.linear.preconditioner import Hessian, weighted_gram
from softhead.linear.solution import Pair


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(8))
def test_every_point_of_a_path_is_the_optimum_that_it_certifies(seed, dtype):
    problem = random_problem(np.random.default_rng(seed), soft=seed % 3 == 0, intercept=seed % 4 != 0)
    problem["X"] = problem["X"].astype(dtype)
    objective = LinearSoftmaxObjective(**problem)
    l2s = np.geomspace(1.0, 1e-4, 12)
    for l2, solution in zip(l2s, solve_path(objective, l2s, tol=1e-5, max_iter=500), strict=True):
        optimum, _ = newton_optimum({**problem, "X": problem["X"].astype(float), "l2": l2})
        assert solution.status == "converged"
        assert solution.value - optimum <= solution.gap + 1e-14
        assert solution.gap <= 1e-5 * solution.value
        assert solution.value == pytest.approx(objective.with_l2(l2).wide().loss_gradient(solution.coef)[0], rel=1e-13)
        np.testing.assert_array_equal(solution.coef, solution.coef.astype(dtype))


def dense_path():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 20)) @ np.diag(np.arange(1, 21) ** -0.5)
    y = (X @ rng.normal(size=(20, 5)) + rng.gumbel(size=(2000, 5))).argmax(axis=1)
    return LinearSoftmaxObjective(X.astype(np.float32), y, n_classes=5), np.geomspace(1e-1, 1e-5, 16)


def test_neighbours_and_similar_problems_save_passes():
    objective, l2s = dense_path()
    cold = sum(next(solve_path(objective, [l2], tol=1e-4, max_iter=500)).passes for l2 in l2s)
    path = list(solve_path(objective, l2s, tol=1e-4, max_iter=500))
    assert sum(solution.passes for solution in path) < 0.6 * cold
    rows = np.arange(2000) % 5 != 0
    fold = LinearSoftmaxObjective(objective.X[rows], objective.targets[rows], n_classes=5)
    alone = sum(solution.passes for solution in solve_path(fold, l2s[::4], tol=1e-4, max_iter=500))
    reference = [solution.coef for solution in path][::4]
    beside = sum(s.passes for s in solve_path(fold, l2s[::4], tol=1e-4, max_iter=500, reference=reference))
    assert beside < alone


def test_a_path_ends_without_a_penalty_and_goes_in_any_direction():
    objective, l2s = dense_path()
    down = list(solve_path(objective, [*l2s[::4], 0.0, 1.0], tol=1e-6, max_iter=500))
    up = list(solve_path(objective, l2s[::-4], tol=1e-6, max_iter=500))
    assert [solution.status for solution in down] == ["converged"] * 6
    assert (down[-2].gap, down[-1].gap < 1e-6 * down[-1].value) == (np.inf, True)
    assert down[-2].value < down[-3].value
    for a, b in zip([next(solve_path(objective, [l2], tol=1e-6, max_iter=500)) for l2 in l2s[::-4]], up, strict=True):
        assert b.value == pytest.approx(a.value, rel=2e-6)


def test_an_interrupted_path_ends():
    objective, l2s = dense_path()

    def interrupt(progress, coef):
        if progress.passes > 3:
            raise KeyboardInterrupt

    statuses = [s.status for s in solve_path(objective, l2s, tol=1e-12, max_iter=50, callback=interrupt)]
    assert statuses == ["interrupted"]


def test_a_pair_under_another_penalty_is_what_the_other_objective_would_have_seen():
    objective, _ = dense_path()
    objective = objective.wide()
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, *objective.shape))

    def pair(l2):
        change = objective.with_l2(l2).loss_gradient(b)[1] - objective.with_l2(l2).loss_gradient(a)[1]
        return Pair(b - a, change, float(np.vdot(b - a, change)))

    expected, got = pair(0.3), _under(pair(0.1), 0.2, objective)
    np.testing.assert_allclose(got.change, expected.change, atol=1e-14)
    assert got.curvature == pytest.approx(expected.curvature)


@pytest.mark.parametrize("intercept", [True, False])
def test_the_eigen_form_is_the_inverse_of_the_gram_matrix_under_any_penalty(intercept):
    rng = np.random.default_rng(2)
    X = rng.normal(size=(60, 7)) + 3.0
    objective = LinearSoftmaxObjective(X, rng.integers(0, 4, 60), n_classes=4, fit_intercept=intercept)
    coef = rng.normal(size=objective.shape)
    gram = weighted_gram(objective, coef, 1)
    for l2 in (1e-3, 1.0):
        full = gram.copy()
        full[range(7), range(7)] += l2
        vectors = rng.normal(size=objective.shape)
        inverse = _EigenGram.of(objective, coef).under(l2)
        np.testing.assert_allclose(inverse.solve(vectors), np.linalg.solve(full, vectors.T).T, rtol=1e-9, atol=1e-12)


def test_the_hessian_under_another_penalty_is_that_of_the_other_objective():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(60, 7))
    objective = LinearSoftmaxObjective(X, rng.integers(0, 4, 60), n_classes=4, l2=0.1)
    coef, vectors = rng.normal(size=(2, *objective.shape))
    other = Hessian(objective.with_l2(0.7), coef)
    np.testing.assert_allclose(Hessian(objective, coef).under(0.7).solve(vectors), other.solve(vectors), rtol=1e-9)


def test_columns_that_eigenvectors_would_lose_have_another_metric():
    rng = np.random.default_rng(4)
    X = rng.normal(size=(300, 6))
    y = rng.integers(0, 3, 300)
    for wrong in (X * 10.0 ** np.arange(-6, 6, 2), X + 1e6, np.column_stack([X, np.full(300, 3.0)])):
        objective = LinearSoftmaxObjective(wrong, y, n_classes=3)
        assert _EigenGram.of(objective, np.zeros(objective.shape)) is None
        statuses = {s.status for s in solve_path(objective, [1e-2, 1e-3], tol=1e-6, max_iter=300)}
        assert statuses == {"converged"}
    wide = LinearSoftmaxObjective(X[:5], y[:5], n_classes=3)
    assert _EigenGram.of(wide, np.zeros(wide.shape)) is None


def test_the_metric_is_renewed_only_when_passes_have_paid_for_it():
    objective, _ = dense_path()
    metric = PathMetric()
    coef = np.zeros(objective.shape)
    metric(objective.with_l2(1e-2), coef, budget=1.0)
    first = metric._records[0]
    metric(objective.with_l2(1e-3), coef, budget=1.0)
    assert metric._records == [first]
    metric.spend(1e4)
    metric(objective.with_l2(1e-3), coef, budget=1.0)
    assert len(metric._records) == 2


def test_extrapolation_is_exact_for_polynomials_in_log_l2_and_picks_its_order():
    for degree in (0, 1, 2):
        track = _Track()
        points = [np.full((1, 1), np.log(l2) ** degree) for l2 in np.geomspace(1.0, 1e-3, 8)]
        for l2, point in zip(np.geomspace(1.0, 1e-3, 8), points, strict=True):
            track.append(l2, point)
        assert track.order >= degree
        assert track.predict(1e-4) == pytest.approx(np.log(1e-4) ** degree, rel=1e-9)
    assert _Track().predict(1.0) == 0.0


def test_penalties_that_are_equal_or_all_but_equal_lead_nowhere():
    track = _Track()
    for l2, point in ((1.0, 1.0), (0.5, 2.0), (0.5, 2.1), (0.5 * (1.0 + 1e-15), 2.2)):
        track.append(l2, np.full((1, 1), point))
        assert 0.0 <= float(np.ravel(track.predict(1e-4))[0]) < 25.0
    problem = random_problem(np.random.default_rng(3))
    objective = LinearSoftmaxObjective(**problem)
    passes = [
        sum(solution.passes for solution in solve_path(objective, l2s, tol=1e-6, max_iter=500))
        for l2s in ([1e-1, 1e-2, 1e-5], [1e-1, 1e-1 * (1.0 - 1e-15), 1e-2, 1e-2, 1e-5])
    ]
    assert passes[1] <= 1.5 * passes[0]


def test_the_nearest_metric_is_found_over_the_whole_range_of_penalties():
    objective = LinearSoftmaxObjective(**random_problem(np.random.default_rng(3)))
    metric = PathMetric()
    metric(objective.with_l2(1e-290), np.zeros(objective.shape), budget=1.0)
    assert metric.under(1e290) is not None
