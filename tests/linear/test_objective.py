import numpy as np
import pytest
from linear.problems import definition, derivatives, random_problem
from scipy import sparse

from softhead.linear import preconditioner as metrics
from softhead.linear.blocks import RowBlocks
from softhead.linear.objective import LinearSoftmaxObjective
from softhead.linear.preconditioner import weighted_gram


@pytest.mark.parametrize("seed", range(24))
def test_value_gradient_and_hvp_are_those_of_the_textbook(seed):
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, soft=seed % 3 == 0, intercept=seed % 4 != 0)
    objective = LinearSoftmaxObjective(**problem)
    coef, direction = rng.normal(size=(2, *objective.shape)) * 10.0 ** rng.uniform(-3, 1)
    value, gradient = objective.loss_gradient(coef)
    expected, hessian = derivatives(problem, coef)
    assert value == pytest.approx(definition(problem, coef), rel=1e-13)
    np.testing.assert_allclose(
        gradient, expected, rtol=0, atol=1e-13 * np.abs(problem["X"]).max() + 1e-13 * np.abs(expected).max()
    )
    product = (hessian @ direction.ravel()).reshape(objective.shape)
    np.testing.assert_allclose(
        objective.hvp(coef, direction), product, rtol=0, atol=1e-12 * np.abs(product).max() + 1e-15
    )


@pytest.mark.parametrize("seed", range(4))
def test_intercept_system_is_the_corner_of_the_full_one(seed):
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, soft=seed == 0)
    objective = LinearSoftmaxObjective(**problem)
    coef = rng.normal(size=objective.shape)
    gradient, hessian = derivatives(problem, coef)
    residual, corner = objective.intercept_system(coef)
    columns = objective.n_features + 1
    np.testing.assert_allclose(residual, gradient[:, -1], atol=1e-14)
    np.testing.assert_allclose(corner, hessian[columns - 1 :: columns, columns - 1 :: columns], atol=1e-14)


def test_integer_targets_equal_one_hot_distributions():
    problem = random_problem(np.random.default_rng(5))
    one_hot = {**problem, "targets": np.eye(problem["n_classes"])[problem["targets"]]}
    a, b = LinearSoftmaxObjective(**problem), LinearSoftmaxObjective(**one_hot)
    coef = np.random.default_rng(6).normal(size=a.shape)
    assert a.loss_gradient(coef)[0] == pytest.approx(b.loss_gradient(coef)[0], rel=1e-14)
    np.testing.assert_allclose(a.loss_gradient(coef)[1], b.loss_gradient(coef)[1], rtol=1e-12, atol=1e-15)
    for mine, other in zip(a.target_moments(), b.target_moments(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-13, atol=1e-16)


def test_weights_are_repetitions():
    rng = np.random.default_rng(7)
    problem = random_problem(rng)
    counts = rng.integers(0, 4, len(problem["X"]))
    weighted = LinearSoftmaxObjective(**{**problem, "sample_weight": counts})
    repeated = LinearSoftmaxObjective(
        **{
            **problem,
            "X": np.repeat(problem["X"], counts, axis=0),
            "targets": np.repeat(problem["targets"], counts, axis=0),
            "sample_weight": None,
        }
    )
    coef = rng.normal(size=weighted.shape)
    value, gradient = weighted.loss_gradient(coef)
    again, same = repeated.loss_gradient(coef)
    assert value == pytest.approx(again, rel=1e-13)
    np.testing.assert_allclose(gradient, same, atol=1e-13 * np.abs(problem["X"]).max())


def test_confident_rows_keep_their_tiny_loss_and_gradient():
    X = np.array([[1.0], [-1.0]])
    objective = LinearSoftmaxObjective(X, np.array([1, 0]), n_classes=2, fit_intercept=False)
    value, gradient = objective.loss_gradient(np.array([[-50.0], [50.0]]))
    assert value == pytest.approx(np.exp(-100.0), rel=1e-14)  # log1p(e^-100); 1 - p would give 0
    np.testing.assert_allclose(gradient, [[np.exp(-100.0)], [-np.exp(-100.0)]], rtol=1e-14)


def test_float32_keeps_its_dtype_and_sums_wide():
    rng = np.random.default_rng(8)
    X = rng.normal(size=(100_000, 3)).astype(np.float32)
    y = rng.integers(0, 4, len(X))
    narrow = LinearSoftmaxObjective(X, y, n_classes=4, l2=1e-3)
    coef = rng.normal(size=narrow.shape)
    assert all(logits.dtype == np.float32 for _, _, logits in narrow._logits(coef))
    value, gradient = narrow.loss_gradient(coef)
    exact, expected = narrow.wide().loss_gradient(coef)
    assert value == pytest.approx(exact, rel=1e-7)  # a float32 sum of 100,000 terms would be off by 1e-5
    np.testing.assert_allclose(gradient, expected, atol=1e-7)


@pytest.mark.parametrize(("columns", "at_once"), [(7, True), (7, False), (3000, True)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sparse_equals_dense(columns, at_once, dtype, monkeypatch):
    if not at_once:
        monkeypatch.setattr("softhead.linear.blocks._MAX_EXPANDED_BYTES", 0)
    rng = np.random.default_rng(9)
    X = sparse.random_array((500, columns), density=0.05, format="csr", dtype=dtype, rng=rng)
    y = rng.integers(0, 3, 500)
    a = LinearSoftmaxObjective(X, y, n_classes=3, l2=0.1)
    b = LinearSoftmaxObjective(X.toarray(), y, n_classes=3, l2=0.1)
    assert a.blocks.sparse == (columns == 3000 or not at_once)
    assert a.blocks.expand == (columns == 7 and not at_once)
    coef = rng.normal(size=a.shape)
    tolerance = 20 * float(np.finfo(dtype).eps)
    assert a.loss_gradient(coef)[0] == pytest.approx(b.loss_gradient(coef)[0], rel=tolerance)
    np.testing.assert_allclose(a.loss_gradient(coef)[1], b.loss_gradient(coef)[1], atol=tolerance)
    np.testing.assert_allclose(a.hvp(coef, coef), b.hvp(coef, coef), atol=20 * tolerance)


def test_blocks_cover_every_row_once_in_order_and_stay_small():
    X = np.arange(10_000.0)[:, None]
    for n_classes in (3, 100_000):
        blocks = RowBlocks(X, np.float64, n_classes)
        seen = np.concatenate([block[:, 0].copy() for _, block in blocks])
        np.testing.assert_array_equal(seen, X[:, 0])
        assert blocks.rows * (n_classes + 1) * 8 <= 2**25


def test_a_step_that_overflows_gives_nan_or_inf_and_no_warning():
    objective = LinearSoftmaxObjective(np.full((2, 1), 1e30, np.float32), np.array([0, 1]), n_classes=2)
    assert not np.isfinite(objective.loss_gradient(np.full((2, 2), 1e30))[0])


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_a_metric_is_made_of_all_rows_where_those_of_a_sample_have_no_weight(form):
    rng = np.random.default_rng(5)
    X, y = rng.normal(size=(90, 4)), rng.integers(3, size=90)
    weight = np.arange(90) % 3.0
    objective = LinearSoftmaxObjective(form(X), y, n_classes=3, sample_weight=weight)
    coef = rng.normal(size=objective.shape)
    for at in (None, coef):
        np.testing.assert_allclose(weighted_gram(objective, at, 3), weighted_gram(objective, at, 1), rtol=1e-12)
        assert np.trace(weighted_gram(objective, at, 3)) > 0.1
    couplings = [
        metrics._coupling(objective, coef, stride)
        if form is not np.asarray
        else objective.compiled_coupling(coef, stride)
        for stride in (3, 1)
    ]
    np.testing.assert_allclose(*couplings, rtol=1e-12)
