"""Sparse rows: passes against those of dense arrays, dual ascent against L-BFGS, and what neither may depend on."""

import tracemalloc

import numpy as np
import pytest
from scipy import sparse

from softhead import SoftmaxClassifier, num_threads
from softhead.linear import lbfgs
from softhead.linear.dual_ascent import DualAscent, suited
from softhead.linear.objective import LinearSoftmaxObjective
from softhead.linear.solver import solve

WIDE = 2100  # features: more than are expanded


def matrix(n_rows=120, n_features=WIDE, dtype=np.float32, seed=0, index=np.int32):
    """Rows like TF-IDF: positive, of norm 1; some features and, beyond 60 rows, one row are empty."""
    rng = np.random.default_rng(seed)
    X = sparse.random_array((n_rows, n_features), density=0.01, rng=rng, dtype=np.float64).tocsr()
    X = X.multiply(1.0 / np.sqrt(np.maximum(X.multiply(X).sum(axis=1), 1e-30))[:, None]).tocsr()
    if n_rows > 60:
        X.data[X.indptr[60] : X.indptr[61]] = 0.0
        X.eliminate_zeros()
    X = X.astype(dtype)
    X.indices, X.indptr = X.indices.astype(index), X.indptr.astype(index)
    return X


def labels(n_rows, n_classes, seed=1):
    return np.random.default_rng(seed).integers(n_classes, size=n_rows)


def problem(X, n_classes, soft=False, **options):
    y = labels(X.shape[0], n_classes)
    if soft:
        y = np.random.default_rng(2).dirichlet(np.ones(n_classes), X.shape[0]).astype(X.dtype)
    return LinearSoftmaxObjective(X, y, n_classes=n_classes, **options)


@pytest.mark.parametrize(
    ("dtype", "index", "n_classes", "soft"),
    [
        (np.float32, np.int32, 2, False),
        (np.float32, np.int64, 20, False),
        (np.float32, np.int32, 70, True),
        (np.float64, np.int32, 37, False),
        (np.float64, np.int64, 3, True),
    ],
)
def test_passes_equal_dense_ones(dtype, index, n_classes, soft):
    X = matrix(dtype=dtype, index=index)
    weight = np.random.default_rng(3).exponential(size=X.shape[0])
    ours = problem(X, n_classes, soft, sample_weight=weight, l2=0.01)
    dense = problem(X.toarray().astype(np.float64), n_classes, soft, sample_weight=weight, l2=0.01)
    coef = np.random.default_rng(4).standard_normal(ours.shape)
    for ours_, dense_, scale in (
        *zip(ours.loss_gradient(coef), dense.loss_gradient(coef), (1.0, 0.01), strict=True),
        *zip(ours.target_moments(), dense.target_moments(), (0.01, 1.0), strict=True),
        *zip(ours.intercept_system(coef), dense.intercept_system(coef), (1.0, 1.0), strict=True),
        (ours.mean_sizes(), dense.mean_sizes(), 0.01),
    ):
        np.testing.assert_allclose(ours_, dense_, rtol=1e-5, atol=scale * (1e-5 if dtype == np.float32 else 1e-12))


def test_float32_entries_serve_products_in_float64():
    X = matrix()
    coef = np.random.default_rng(4).standard_normal((5, WIDE + 1))
    wide, exact = problem(X, 5).wide(), problem(X.astype(np.float64), 5)
    assert wide.loss_gradient(coef)[0] == exact.loss_gradient(coef)[0]


@pytest.mark.parametrize("shape", [(1, WIDE), (3, WIDE), (300, WIDE)])
def test_rows_in_any_order_of_entries_and_with_entries_given_twice(shape):
    X = matrix(*shape).tocoo()
    rng = np.random.default_rng(5)
    order = rng.permutation(X.nnz)
    split = rng.random(X.nnz)
    row, column, value = (np.concatenate([part[order], part[order]]) for part in (X.row, X.col, X.data))
    value = value * np.concatenate([split, 1.0 - split])
    starts = np.searchsorted(row[np.argsort(row, kind="stable")], np.arange(shape[0] + 1))
    by_row = np.argsort(row, kind="stable")
    messy = sparse.csr_array((value[by_row], column[by_row], starts), shape=shape)
    assert not messy.has_canonical_format
    coef = rng.standard_normal((4, WIDE + 1))
    found = problem(messy, 4).loss_gradient(coef)
    expected = problem(X.tocsr().astype(np.float64), 4).loss_gradient(coef)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_nothing_but_zeros_leaves_the_frequencies():
    X = sparse.csr_array((12, WIDE), dtype=np.float32)
    y = np.arange(12) % 3
    y[0] = 1
    model = SoftmaxClassifier(tol=1e-6).fit(X, y)
    assert model.status_ == "converged"
    assert not model.coef_.any()
    np.testing.assert_allclose(model.predict_proba(X)[0], np.bincount(y) / 12, rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "n_classes", "soft", "intercept", "C"),
    [
        (np.float32, 2, False, True, 10.0),
        (np.float32, 5, False, True, 0.1),
        (np.float32, 5, False, True, 100.0),
        (np.float32, 5, True, False, 1.0),
        (np.float64, 2, False, False, 1.0),
        (np.float64, 5, True, True, 10.0),
    ],
)
def test_ascent_reaches_the_optimum_of_dense_data(dtype, n_classes, soft, intercept, C):
    X = matrix(90, dtype=dtype)
    weight = np.random.default_rng(3).exponential(size=X.shape[0])
    weight[::7] = 0.0
    options = {"sample_weight": weight, "l2": 1.0 / (C * weight.sum()), "fit_intercept": intercept}
    ours = problem(X, n_classes, soft, **options)
    assert suited(ours)
    found = solve(ours, np.zeros(ours.shape), tol=1e-6, max_iter=1000)
    dense = problem(X.toarray().astype(np.float64), n_classes, soft, **options)
    best = lbfgs.solve(dense, np.zeros(dense.shape), tol=1e-7, max_iter=1000)
    assert found.status == "converged"
    assert -1e-7 * best.value <= found.value - best.value <= found.gap <= 1e-6 * found.value
    assert found.passes > len(found.history) - 2


def test_the_better_part_of_the_work_is_the_ascents():
    ours = problem(matrix(300), 4, l2=1.0 / 300)
    found = solve(ours, np.zeros(ours.shape), tol=1e-6, max_iter=1000)
    assert found.n_iter <= 25  # sweeps; L-BFGS would have its gradient in the solution's history as well
    assert [entry.passes for entry in found.history[: found.n_iter]] == list(range(1, found.n_iter + 1))


def test_ascent_from_coefficients_begins_where_they_are():
    X = matrix(300)
    y = labels(300, 4)
    cold = SoftmaxClassifier(tol=1e-6, warm_start=True).fit(X, y)
    sweeps = int(cold.n_iter_[0])
    warm = cold.fit(X, y)
    assert warm.n_iter_[0] < sweeps
    assert warm.status_ == "converged"


def test_the_estimated_gap_is_close_to_the_certified_one():
    ours = problem(matrix(300, dtype=np.float64), 4, l2=1.0 / 300, fit_intercept=False)
    ascent = DualAscent(ours, np.zeros(ours.shape))
    for _ in range(4):
        ascent.sweep()
    before = ascent.coef()
    value, gradient = ours.loss_gradient(before)
    certified = lbfgs.duality_gap(ours, before, gradient)[0]
    assert 0.05 * certified < ascent.sweep()[1] < 2.0 * certified
    assert value > 0.0


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_any_number_of_threads_gives_the_same_bits(threads):
    X, y = matrix(700, seed=6), labels(700, 20)
    one = SoftmaxClassifier(tol=1e-6).fit(X, y)
    with num_threads(threads):
        many = SoftmaxClassifier(tol=1e-6).fit(X, y)
    assert np.array_equal(one.coef_, many.coef_)
    assert np.array_equal(one.intercept_, many.intercept_)


def test_nothing_is_expanded():
    n_features = 200_000
    X = matrix(400, 5000)
    X = sparse.csr_array((X.data, X.indices * 40, X.indptr), shape=(400, n_features))
    y = labels(400, 3)
    SoftmaxClassifier().fit(X, y)
    tracemalloc.start()
    try:
        SoftmaxClassifier().fit(X, y)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    coefficients = 8 * 3 * n_features
    assert peak < 30 * coefficients < 400 * n_features * 4


@pytest.mark.parametrize("kind", [sparse.csc_array, sparse.coo_array, sparse.csr_matrix])
def test_other_sparse_formats(kind):
    X, y = matrix(), labels(120, 3)
    expected = SoftmaxClassifier(tol=1e-6).fit(X, y)
    found = SoftmaxClassifier(tol=1e-6).fit(kind(X), y)
    assert np.array_equal(found.coef_, expected.coef_)
    assert np.array_equal(found.predict(kind(X)), expected.predict(X))


def test_without_a_penalty_or_room_for_the_distributions_lbfgs_takes_over():
    X = matrix()
    assert not suited(problem(X, 3))
    tall = sparse.csr_array((np.ones(5000, np.float32), (np.arange(5000), np.arange(5000) % WIDE)), (5000, WIDE))
    assert not suited(problem(tall, 3, l2=1.0))
    assert suited(problem(tall[:2000], 3, l2=1.0))
    found = solve(problem(tall, 3, l2=1e-3), np.zeros((3, WIDE + 1)), tol=1e-3, max_iter=100)
    assert found.status == "converged"
    assert found.gradient is not None


def test_features_that_overflow_are_refused():
    X = matrix()
    X.data[:] *= np.float32(1e30)
    with pytest.raises(ValueError, match="overflow"):
        SoftmaxClassifier().fit(X, labels(120, 3))


def test_badly_scaled_features_reach_the_optimum():
    X = matrix(50, dtype=np.float64)
    scales = np.logspace(-3, 3, WIDE)
    X = sparse.csr_array(X.multiply(scales[None, :]))
    y = labels(50, 3)
    model = SoftmaxClassifier(C=1.0, tol=1e-6, max_iter=3000).fit(X, y)
    dense = SoftmaxClassifier(C=1.0, tol=1e-7, max_iter=3000).fit(X.toarray(), y)
    assert model.status_ == "converged"
    assert model.objective_ <= dense.objective_ * (1.0 + 1e-6)


def test_a_run_that_is_out_of_iterations_says_so():
    ours = problem(matrix(300), 4, l2=1e-6)
    for max_iter in (0, 1, 4):
        found = solve(ours, np.zeros(ours.shape), tol=1e-9, max_iter=max_iter)
        assert found.status == "max_iter"
        assert found.n_iter <= max_iter
        assert found.value - found.gap <= 1e-2


def test_an_interrupt_keeps_the_last_coefficients():
    ours = problem(matrix(300), 4, l2=1e-6)
    seen = []

    def stop(progress, coef):
        seen.append(coef)
        if len(seen) == 3:
            raise KeyboardInterrupt

    found = solve(ours, np.zeros(ours.shape), tol=1e-9, max_iter=100, callback=stop)
    assert (found.status, found.n_iter) == ("interrupted", 3)
    np.testing.assert_allclose(found.coef, seen[-1], rtol=1e-6, atol=1e-12)
    assert np.isfinite(found.value)


def test_an_interrupt_in_a_certificate_ends_the_run(monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(lbfgs._Run, "start", interrupted)
    ours = problem(matrix(300), 4, l2=1e-2)
    found = solve(ours, np.zeros(ours.shape), tol=1e-2, max_iter=100)
    assert found.status == "interrupted"
    assert found.n_iter < 30


@pytest.mark.parametrize(("dtype", "scale"), [(np.float32, 1e8), (np.float64, 1e15)])
@pytest.mark.parametrize("max_iter", [1, 20, 400])
def test_where_an_ascent_goes_astray_the_start_is_no_worse(dtype, scale, max_iter):
    X = matrix(200, dtype=dtype)
    X.data *= dtype(scale)
    ours = problem(X, 4, l2=1e-3)
    found = solve(ours, np.zeros(ours.shape), tol=1e-4, max_iter=max_iter)
    assert found.value <= (1e-6 if max_iter == 400 else np.log(4.0))


def test_squares_that_overflow_are_refused_without_a_warning():
    X = matrix(dtype=np.float64)
    X.data *= 1e160
    with pytest.raises(ValueError, match="squares of its entries overflow"):
        SoftmaxClassifier().fit(X, labels(120, 3))
