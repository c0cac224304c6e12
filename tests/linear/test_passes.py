import numpy as np
import pytest
from linear.problems import definition

from softhead import num_threads
from softhead.linear import passes
from softhead.linear.objective import LinearSoftmaxObjective
from softhead.linear.passes import DensePasses


def problem(rng, n, d, c, dtype, *, soft=False):
    X = rng.normal(size=(n, d)).astype(dtype)
    targets = rng.dirichlet(np.full(c, 0.3), size=n) if soft else rng.integers(0, c, n)
    weight = rng.exponential(size=n)
    return {"X": X, "targets": targets, "n_classes": c, "sample_weight": weight, "l2": 0.1, "fit_intercept": True}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("n", "d", "c"), [(1, 1, 2), (7, 3, 5), (300, 17, 16), (1000, 40, 23), (257, 1100, 50)])
def test_any_shape_gives_the_textbook_value_and_gradient(n, d, c, soft, dtype):
    rng = np.random.default_rng(n + d)
    given = problem(rng, n, d, c, dtype, soft=soft)
    objective = LinearSoftmaxObjective(**given)
    coef = rng.normal(size=objective.shape) / np.sqrt(d)
    value, gradient = objective.loss_gradient(coef)
    given["X"] = given["X"].astype(float)
    tolerance = 50.0 * float(np.finfo(dtype).eps)
    assert value == pytest.approx(definition(given, coef), rel=tolerance)
    eye = np.eye(c)[given["targets"]] if not soft else given["targets"]
    a = given["sample_weight"] / given["sample_weight"].sum()
    z = np.column_stack([given["X"], np.ones(n)]) @ coef.T
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    expected = (a[:, None] * (p - eye)).T @ np.column_stack([given["X"], np.ones(n)])
    expected[:, :-1] += 0.1 * coef[:, :-1]
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("order", ["F", "reversed", "read-only"])
def test_any_layout_of_the_rows_is_read(order):
    rng = np.random.default_rng(0)
    given = problem(rng, 500, 12, 4, np.float32)
    coef = rng.normal(size=(4, 13))
    value, gradient = LinearSoftmaxObjective(**given).loss_gradient(coef)
    X = given["X"]
    X = {"F": np.asfortranarray(X), "reversed": X[:, ::-1].copy()[:, ::-1], "read-only": X.copy()}[order]
    X.flags.writeable = order != "read-only"
    again, same = LinearSoftmaxObjective(**{**given, "X": X}).loss_gradient(coef)
    assert again == value
    np.testing.assert_array_equal(same, gradient)


def test_results_do_not_depend_on_the_number_of_threads():
    rng = np.random.default_rng(1)
    given = problem(rng, 30_000, 20, 12, np.float32)
    coef = rng.normal(size=(12, 21))
    results = []
    for n in (1, 2, 8):
        with num_threads(n):
            objective = LinearSoftmaxObjective(**given)
            assert objective._compiled._n_stripes > 4
            results.append((*objective.loss_gradient(coef), *objective.intercept_system(coef)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("curved", [True, False])
def test_the_gram_matrix_is_that_of_the_weighted_rows(curved, stride):
    rng = np.random.default_rng(2)
    given = problem(rng, 5000, 37, 6, np.float64)
    objective = LinearSoftmaxObjective(**given)
    coef = rng.normal(size=objective.shape)
    design = np.column_stack([given["X"], np.ones(5000)])
    p = np.exp(design @ coef.T)
    p /= p.sum(axis=1, keepdims=True)
    w = objective.row_weights * ((1.0 - (p**2).sum(axis=1)) / 5.0 if curved else 0.5)
    rows = slice(None, None, stride)
    expected = (design[rows] * w[rows, None]).T @ design[rows] / objective.row_weights[rows].sum()
    gram = objective.compiled_gram(coef if curved else None, stride)
    np.testing.assert_allclose(gram, expected, rtol=1e-12, atol=1e-15)


def test_sums_that_would_not_fit_are_shared_by_stripes(monkeypatch):
    rng = np.random.default_rng(3)
    given = problem(rng, 30_000, 20, 12, np.float64)
    objective = LinearSoftmaxObjective(**given)
    coef = rng.normal(size=(12, 21))
    value, gradient = objective.loss_gradient(coef)
    monkeypatch.setattr(passes, "TOTALS_BYTES", 10_000)
    again, same = objective.loss_gradient(coef)
    assert again == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(same, gradient, rtol=0, atol=1e-15)


@pytest.mark.parametrize("soft", [False, True])
def test_at_zero_value_and_gradient_are_those_of_a_pass(soft):
    objective = LinearSoftmaxObjective(**problem(np.random.default_rng(7), 300, 9, 5, np.float64, soft=soft))
    value, gradient = objective.loss_gradient(np.zeros(objective.shape))
    near, slope = objective.loss_gradient(np.full(objective.shape, 1e-300))
    assert value == pytest.approx(near, rel=1e-14)
    np.testing.assert_allclose(gradient, slope, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("soft", "stride"), [(False, 1), (True, 1), (False, 3)])
def test_second_moments_are_those_of_the_probabilities(soft, stride, dtype):
    given = problem(np.random.default_rng(8), 3000, 7, 5, dtype, soft=soft)
    given["sample_weight"][:4] = 0.0
    objective = LinearSoftmaxObjective(**given)
    coef = np.random.default_rng(9).normal(size=objective.shape)
    x = np.column_stack([given["X"].astype(float), np.ones(3000)])[::stride]
    a = given["sample_weight"][::stride] / given["sample_weight"][::stride].sum()
    p = np.exp(x @ coef.T)
    p /= p.sum(axis=1, keepdims=True)
    joint = (p[:, :, None] * x[:, None, :]).reshape(len(x), -1)
    tolerance = 50.0 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(
        objective.compiled_coupling(coef, stride), (joint * a[:, None]).T @ joint, rtol=0, atol=tolerance
    )
    w = (1.0 - (p**2).sum(axis=1)) / 4.0
    for known in (False, True):
        if known:
            objective.loss_gradient(coef)
        gram = objective.compiled_gram(coef, stride)
        np.testing.assert_allclose(gram, (x * (a * w)[:, None]).T @ x, rtol=0, atol=tolerance)


def test_an_error_in_one_stripe_ends_the_pass(monkeypatch):
    calls = []

    def fail(*args):
        calls.append(args)
        raise KeyboardInterrupt

    given = problem(np.random.default_rng(4), 30_000, 20, 12, np.float32)
    objective = LinearSoftmaxObjective(**given)
    monkeypatch.setattr(passes, "loss_pass", fail)
    with pytest.raises(KeyboardInterrupt):
        objective.loss_gradient(np.ones((12, 21)))
    assert len(calls) <= 4


@pytest.mark.parametrize("value", [1e30, np.nan])
def test_overflowing_logits_give_no_finite_loss(value):
    sums = DensePasses(np.full((40, 3), 1e30, np.float32), np.dtype(np.float32), 3)
    weights = np.zeros((3, 3))
    weights[1] = value
    loss, _, _ = sums.loss_gradient(weights, np.zeros(3), np.full(40, 2, np.intp), np.full(40, 1 / 40))
    assert not np.isfinite(loss)
