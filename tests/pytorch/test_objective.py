"""The solver on tensors: the same solutions as on NumPy's arrays, and nothing large on the host."""

import numpy as np
import pytest

from softhead.kernels import algebra
from softhead.linear import preconditioner as metrics
from softhead.linear.objective import LinearSoftmaxObjective
from softhead.linear.path import solve_path
from softhead.linear.preconditioner import preconditioner
from softhead.linear.solver import solve

torch = pytest.importorskip("torch")

from softhead.torch.objective import TensorObjective  # noqa: E402  (it needs torch)
from softhead.torch.products import TF32_EPS  # noqa: E402


def problem(n=300, d=7, classes=4, *, soft=False, weighted=False, dtype=np.float64, seed=0):
    """Return the arguments of both objectives: rows whose classes overlap, in NumPy."""
    rng = np.random.default_rng(seed)
    X = (rng.normal(size=(n, d)) + 1.5).astype(dtype)
    scores = (X - 1.5) @ rng.normal(size=(d, classes)) + 2.0 * rng.normal(size=(n, classes))
    targets = scores.argmax(1)
    if soft:
        targets = rng.dirichlet(np.full(classes, 0.3), size=n).astype(dtype)
    weight = rng.exponential(size=n) * (rng.random(n) < 0.8) if weighted else None
    return {"X": X, "targets": targets, "n_classes": classes, "sample_weight": weight}


def tensors(given):
    """Return the arguments as tensors."""
    return {name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in given.items()}


def pair(given, **options):
    """Return the objective of NumPy's rows and that of the same rows in a tensor."""
    return LinearSoftmaxObjective(**given, **options), TensorObjective(**tensors(given), **options)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("softhead.torch.objective._BLOCK_BYTES", 2**10)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(("soft", "weighted", "classes"), [(0, 0, 4), (0, 1, 2), (1, 0, 3), (1, 1, 5)])
def test_sums_over_rows_are_those_in_memory(soft, weighted, classes, intercept, small_blocks, monkeypatch):
    monkeypatch.setattr(metrics, "_NEGLIGIBLE", 0.0)
    given = problem(soft=soft, weighted=weighted, classes=classes)
    ours, theirs = reversed(pair(given, l2=0.01, fit_intercept=intercept))
    coef = np.random.default_rng(1).normal(size=ours.shape)
    placed = ours.placed(coef)
    for mine, other in zip(ours.loss_gradient(placed), theirs.loss_gradient(coef), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-12, atol=1e-14)
    for mine, other in zip(ours._moments(), theirs._moments(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-12, atol=1e-15)
    for mine, other in zip(ours.intercept_system(placed), theirs.intercept_system(coef), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-12, atol=1e-14)
    for at in (None, 0.0 * coef, coef):
        mine = ours.compiled_gram(None if at is None else ours.placed(at), 3)
        np.testing.assert_allclose(mine, theirs.compiled_gram(at, 3), rtol=1e-12, atol=1e-14)
    mine = ours.compiled_coupling(placed, 2)
    np.testing.assert_allclose(mine, theirs.compiled_coupling(coef, 2), rtol=1e-12, atol=1e-14)
    mine = ours.compiled_class_grams(placed, 2)
    np.testing.assert_allclose(mine, metrics._class_grams(theirs, coef, 2), rtol=1e-11, atol=1e-14)
    np.testing.assert_array_equal(ours.sample(4).X, given["X"][::4])


def test_a_metric_is_made_of_all_rows_where_those_of_a_sample_have_no_weight():
    _, ours = pair(problem(n=90) | {"sample_weight": np.arange(90) % 3.0})
    coef = ours.placed(np.random.default_rng(1).normal(size=ours.shape))
    for name in ("compiled_gram", "compiled_diagonal", "compiled_coupling", "compiled_class_grams"):
        np.testing.assert_array_equal(getattr(ours, name)(coef, 3), getattr(ours, name)(coef, 1))
        assert np.isfinite(getattr(ours, name)(coef, 3)).all()


CASES = {
    "plain": {},
    "weights": {"weighted": True},
    "soft": {"soft": True},
    "two classes": {"classes": 2},
    "more features than rows": {"n": 40, "d": 90},
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("intercept", [True, False])
def test_solutions_are_those_in_memory(name, intercept):
    theirs, ours = pair(problem(**CASES[name]), l2=1e-3, fit_intercept=intercept)
    expected = solve(theirs, theirs.zeros(), tol=1e-10, max_iter=200)
    solution = solve(ours, ours.zeros(), tol=1e-10, max_iter=200)
    assert isinstance(solution.coef, torch.Tensor)
    assert solution.status == expected.status == "converged"
    np.testing.assert_allclose(solution.coef, expected.coef, atol=1e-9)
    assert solution.value == pytest.approx(expected.value, rel=1e-12)
    assert 0.0 <= solution.gap <= 1e-10 * solution.value


def test_without_a_penalty():
    theirs, ours = pair(problem())
    expected = solve(theirs, theirs.zeros(), tol=1e-12, max_iter=200)
    solution = solve(ours, ours.zeros(), tol=1e-12, max_iter=200)
    assert (solution.status, solution.gap) == ("converged", np.inf)
    np.testing.assert_allclose(solution.coef, expected.coef, atol=1e-6)
    np.testing.assert_allclose(solution.coef.mean(0), 0.0, atol=1e-12)


@pytest.mark.parametrize(("features", "small"), [(4, 4096), (4, 4)])
def test_metrics_of_many_features(features, small, monkeypatch):
    monkeypatch.setattr("softhead.linear.preconditioner._MAX_FEATURES", features)
    monkeypatch.setattr("softhead.linear.preconditioner._MAX_SMALL_ROWS", small)
    theirs, ours = pair(problem(), l2=1e-2)
    coef = np.random.default_rng(1).normal(size=ours.shape)
    metrics = preconditioner(theirs, coef, budget=0.0), preconditioner(ours, ours.placed(coef), budget=0.0)
    assert type(metrics[0]) is type(metrics[1])
    assert ("sample" in ours._of_data) == (small == 4096)  # a diagonal is made on the device
    np.testing.assert_allclose(metrics[1].solve(ours.placed(coef)), metrics[0].solve(coef), rtol=1e-9)


def test_paths_are_those_in_memory():
    theirs, ours = pair(problem(d=20, classes=6, dtype=np.float32))
    l2s = [0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4]
    paths = [list(solve_path(one, l2s, tol=1e-6, max_iter=200)) for one in (theirs, ours)]
    for expected, solution in zip(*paths, strict=True):
        assert solution.status == "converged"
        assert solution.value - expected.value <= 1e-6 * expected.value
        assert expected.value - solution.value <= 1e-6 * expected.value
        np.testing.assert_array_equal(solution.coef, solution.coef.float().double())


def test_a_fit_repeats_to_the_last_bit_also_where_only_deterministic_algorithms_are_allowed():
    _, ours = pair(problem(weighted=True, dtype=np.float32), l2=1e-3)
    first = solve(ours, ours.zeros(), tol=1e-8, max_iter=100)
    torch.use_deterministic_algorithms(True)
    try:
        again = solve(ours, ours.zeros(), tol=1e-8, max_iter=100)
    finally:
        torch.use_deterministic_algorithms(False)
    assert (first.value, first.gap) == (again.value, again.gap)
    np.testing.assert_array_equal(first.coef, again.coef)


def test_an_iteration_moves_nothing_large_to_the_host(monkeypatch):
    sizes = []
    for name in ("cpu", "numpy", "tolist", "item", "__array__", "__float__", "__bool__"):
        method = getattr(torch.Tensor, name)

        def counted(self, *args, method=method, **kwargs):
            sizes.append(self.numel())
            return method(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    n, d, classes = 3000, 31, 50  # 1,600 coefficients: too many here for the Hessian to be worth it
    monkeypatch.setattr("softhead.linear.preconditioner.MAX_HESSIAN_SIZE", 1000)
    ours = TensorObjective(**tensors(problem(n, d, classes)), l2=1e-4)
    solution = solve(ours, ours.zeros(), tol=1e-5, max_iter=100)
    assert solution.status == "converged"
    assert solution.n_iter > 10
    gram = (d + 1) ** 2  # the metric's, one for all classes or one for each
    assert set(sizes) <= {0, 1, 2, classes, gram, classes * gram}
    assert 0 < sizes.count(gram) + sizes.count(classes * gram) <= 10  # `cpu` and `numpy`, five times


def test_float32_products_are_rounded_to_tf32_on_a_gpu_and_the_setting_comes_back(monkeypatch):
    matmul = torch.backends.cuda.matmul
    assert not TensorObjective(**tensors(problem(dtype=np.float32))).tf32  # in memory they are exact
    monkeypatch.setattr(TensorObjective, "tf32", property(lambda self: self.dtype == np.float32))
    ours = TensorObjective(**tensors(problem(dtype=np.float32)), l2=1e-2)
    coef = ours.placed(np.random.default_rng(1).normal(size=ours.shape))
    seen, affine = [], ours._affine
    monkeypatch.setattr(
        TensorObjective, "_affine", lambda self, *args: seen.append(matmul.fp32_precision) or affine(*args)
    )
    before = matmul.fp32_precision
    for objective, expected in ((ours, "tf32"), (ours.wide(), "ieee")):
        objective.loss_gradient(coef)
        objective.intercept_moments(coef)
        objective.compiled_gram(coef, 1)
        assert set(seen) == {expected}
        assert matmul.fp32_precision == before
        seen.clear()
    assert (ours.eps, ours.wide().eps) == (TF32_EPS, np.finfo(float).eps)
    with pytest.raises(IndexError):
        ours.loss_gradient(coef[:, :3])
    assert matmul.fp32_precision == before


def to_tf32(x):
    """Round float32 numbers to 10 bits after the first, ties to even; leave others alone."""
    if x.dtype != torch.float32:
        return x
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


class RoundedObjective(TensorObjective):
    """An objective whose float32 products are those of TF32, also without a GPU."""

    tf32 = property(lambda self: self.dtype == np.float32)

    def _affine(self, X, coef, out=None):
        return super()._affine(to_tf32(X), to_tf32(coef.to(X.dtype)), out)

    def _accumulate(self, total, residuals, X):
        super()._accumulate(total, to_tf32(residuals), to_tf32(X))


@pytest.mark.parametrize("tol", [1e-4, 1e-7])
def test_a_certificate_holds_where_products_were_those_of_tf32(tol):
    given = problem(n=900, d=20, classes=10, dtype=np.float32)
    theirs = LinearSoftmaxObjective(**given, l2=1e-4).wide()
    best = solve(theirs, theirs.zeros(), tol=1e-13, max_iter=500)
    ours = RoundedObjective(**tensors(given), l2=1e-4)
    solution = solve(ours, ours.zeros(), tol=tol, max_iter=200)
    assert solution.status == "converged"
    value = theirs.loss_gradient(solution.coef.numpy())[0]
    assert solution.value == pytest.approx(value, rel=1e-13)
    assert value - best.value <= solution.gap <= tol * value
    assert 0.0 < ours.passes < solution.passes  # both precisions have had their part


class Slot:
    """A checkpoint in memory, with states as they would come out of a file."""

    exactly = True
    state = None

    def load(self):
        return self.state

    def offer(self, state, *, last=False):
        if last:
            self.state = state()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_run_goes_on_from_a_checkpoint(dtype):
    given = tensors(problem(weighted=True, dtype=dtype))
    slot = Slot()
    whole = solve(*(lambda o: (o, o.zeros()))(TensorObjective(**given, l2=1e-4)), tol=1e-7, max_iter=100)
    for max_iter in (4, 100):
        ours = TensorObjective(**given, l2=1e-4)
        solution = solve(ours, ours.zeros(), tol=1e-7, max_iter=max_iter, checkpoint=slot)
    arrays = [slot.state["coef"], slot.state["gradient"], *slot.state["steps"], *slot.state["changes"]]
    assert all(isinstance(array, np.ndarray) for array in arrays)
    assert (solution.value, solution.gap, solution.passes) == (whole.value, whole.gap, whole.passes)
    np.testing.assert_array_equal(solution.coef, whole.coef)


@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")  # of lanes whose results are not used
def test_the_kernel_for_cuda_gives_the_same_residuals(monkeypatch):
    pytest.importorskip("triton")
    given = tensors(problem(n=90, weighted=True, dtype=np.float32))
    coef = torch.randn(4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    results = []
    for devices in (("cuda",), ("cpu",)):  # the second in Triton's interpreter
        monkeypatch.setattr("softhead.torch.device._DEVICES", devices)
        results.append(TensorObjective(**given).loss_gradient(coef))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-6)
    np.testing.assert_allclose(results[1][1], results[0][1], atol=1e-6)
    assert not np.array_equal(results[1][1], results[0][1])  # it was another way


def test_what_a_solver_does_with_tensors_is_what_it_does_with_arrays():
    rng = np.random.default_rng(0)
    a, b, moments = rng.normal(size=(3, 4, 6))
    nu, removed = rng.random((2, 4))
    second = rng.random((4, 4))
    second += second.T
    tensor = torch.from_numpy
    assert algebra.dot(tensor(a), tensor(b)) == pytest.approx(algebra.dot(a, b))
    gap = algebra.gap_parts(tensor(a), tensor(b), tensor(moments[:, :5].copy()), removed, nu, 0.3)
    assert gap == pytest.approx(algebra.gap_parts(a, b, moments[:, :5].copy(), removed, nu, 0.3))
    assert algebra.reach(tensor(a), tensor(nu)[0] * torch.ones(6).double()) == pytest.approx(
        algebra.reach(a, nu[0] * np.ones(6))
    )
    np.testing.assert_allclose(algebra.laplacian(tensor(second)), algebra.laplacian(second))
    hessian = algebra.laplacian(second)
    solved = algebra.damped_solution(tensor(hessian.copy()), nu)
    np.testing.assert_allclose(solved, algebra.damped_solution(hessian.copy(), nu), rtol=1e-6)
    np.testing.assert_array_equal(algebra.damped_solution(tensor(np.zeros((4, 4))), nu), 0.0)
    root = np.linalg.cholesky(second @ second.T + np.eye(4))
    np.testing.assert_allclose(algebra.solve_cholesky(tensor(root), tensor(nu)), algebra.solve_cholesky(root, nu))
    copy = algebra.copied(tensor(a))
    assert algebra.same(copy, tensor(a))
    algebra.add_multiple(copy, 2.0, tensor(b))
    np.testing.assert_allclose(copy, a + 2.0 * b)
    assert not algebra.same(copy, tensor(a))
