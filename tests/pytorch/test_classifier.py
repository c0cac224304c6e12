"""The classifiers on tensors of another device: CPU tensors that are taken for such, by the code of the others."""

import numpy as np
import pytest
import sklearn
from sklearn.exceptions import NotFittedError

import softhead
from softhead import SoftmaxClassifier, SoftmaxClassifierCV, softmax_path

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def device(monkeypatch):
    """Let every tensor pass for one on another device, and scikit-learn's dispatch be on."""
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    monkeypatch.setattr("softhead._tensors.off_host", lambda tensor: True)
    with sklearn.config_context(array_api_dispatch=True):
        yield


def rows(classes=4, n=200, d=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n, d, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, classes, generator=generator, dtype=torch.float64)
    y = (X @ torch.randn(d, classes, generator=generator, dtype=torch.float64) + noise).argmax(1)
    return (X + 1.0).to(dtype), y


METHODS = ("decision_function", "predict", "predict_proba", "predict_log_proba")


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(
    "options", [{}, {"fit_intercept": False}, {"class_weight": "balanced"}, {"class_weight": {0: 3.0}}, {"C": np.inf}]
)
@pytest.mark.parametrize("weights", ["none", "alike", "random"])
def test_fits_are_those_of_numpy(classes, options, weights):
    X, y = rows(classes)
    weight = {
        "none": None,
        "alike": torch.full((len(y),), 3.0),
        "random": torch.rand(len(y), generator=torch.Generator().manual_seed(1)),
    }[weights]
    model = SoftmaxClassifier(tol=1e-10, **options).fit(X, y, weight)
    expected = SoftmaxClassifier(tol=1e-10, **options)
    expected.fit(X.numpy(), y.numpy(), None if weight is None else weight.numpy())
    for name in ("coef_", "intercept_", "classes_", "n_iter_"):
        assert isinstance(getattr(model, name), torch.Tensor)
        assert getattr(model, name).numpy().dtype == getattr(expected, name).dtype
        np.testing.assert_allclose(getattr(model, name), getattr(expected, name), atol=1e-9)
    assert model.status_ == expected.status_ == "converged"
    assert model.objective_ == pytest.approx(expected.objective_, rel=1e-12)
    assert model.gap_ <= 1e-10 * model.objective_ or options.get("C") == np.inf
    for name in METHODS:
        answer, right = getattr(model, name)(X), getattr(expected, name)(X.numpy())
        assert isinstance(answer, torch.Tensor)
        assert (answer.numpy().dtype, tuple(answer.shape)) == (right.dtype, right.shape)
        np.testing.assert_allclose(answer, right, atol=1e-8)
    assert model.score(X, y, weight) == pytest.approx(
        expected.score(X.numpy(), y.numpy(), None if weight is None else weight.numpy())
    )


def test_gradients_and_autocast_have_no_part():
    X, y = rows(dtype=torch.float32)
    expected = SoftmaxClassifier().fit(X, y)
    with torch.autocast("cpu"):
        model = SoftmaxClassifier().fit(X.requires_grad_(), y)
        answer = model.predict_proba(X)
        assert torch.is_autocast_enabled("cpu")
    assert torch.is_grad_enabled()
    assert not answer.requires_grad
    np.testing.assert_array_equal(model.coef_, expected.coef_)
    np.testing.assert_array_equal(answer, expected.predict_proba(X.detach()))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("class_weight", [None, "balanced", {1: 2.0}])
def test_soft_labels(classes, class_weight):
    X, _ = rows()
    p = torch.rand(len(X), classes, generator=torch.Generator().manual_seed(2), dtype=torch.float64).softmax(1)
    weight = np.linspace(0.0, 2.0, len(X))
    options = {"tol": 1e-10, "class_weight": class_weight}
    model = SoftmaxClassifier(**options).fit_proba(X, p, sample_weight=weight)
    expected = SoftmaxClassifier(**options).fit_proba(X.numpy(), p.numpy(), sample_weight=weight)
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-9)
    np.testing.assert_allclose(model.intercept_, expected.intercept_, atol=1e-9)
    plain = SoftmaxClassifier().fit_proba(X, p)
    named = SoftmaxClassifier().fit_proba(X, p, classes=["a", "b", "c"][:classes])
    assert named.predict(X).tolist() == np.array(["a", "b", "c"])[plain.predict(X)].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_other_dtypes(dtype):
    X, y = rows()
    X = (10.0 * X).to(dtype)
    model = SoftmaxClassifier(tol=1e-6).fit(X, y)
    kept = torch.float64 if dtype == torch.int64 else torch.float32
    assert model.coef_.dtype == kept
    expected = SoftmaxClassifier(tol=1e-6).fit(X.to(kept).numpy(), y.numpy())
    assert model.objective_ == pytest.approx(expected.objective_, rel=2e-6)
    np.testing.assert_allclose(model.predict_proba(X), expected.predict_proba(X.to(kept).numpy()), atol=2e-3)


def test_labels_stay_what_they_were():
    X, y = rows()
    names = np.array(["a", "b", "c", "d"])[y.numpy()]
    model = SoftmaxClassifier().fit(X, names)
    assert set(model.predict(X)) <= set(names)
    assert model.score(X, names) == SoftmaxClassifier().fit(X, y).score(X, y)
    assert isinstance(SoftmaxClassifier().fit(X, y.numpy()).predict(X), torch.Tensor)
    swapped = SoftmaxClassifier().fit(X, y.numpy().astype(">i4"))
    assert swapped.predict(X).tolist() == SoftmaxClassifier().fit(X, y).predict(X).tolist()
    flags = SoftmaxClassifier().fit(X, y > 1)
    assert flags.classes_.dtype == flags.predict(X).dtype == torch.bool
    assert SoftmaxClassifier().fit(X, y.double()).predict(X).dtype == torch.float64
    assert SoftmaxClassifier().fit(X, y[:, None]).score(X, torch.full_like(y, 7)) == 0.0  # a class it does not know


def test_a_warm_start_begins_at_the_last_fit():
    X, y = rows()
    model = SoftmaxClassifier(warm_start=True).fit(X, y)
    assert model.fit(X, y).n_iter_ == 0


def test_a_checkpoint_serves_there_and_not_elsewhere(tmp_path):
    X, y = rows()
    path = tmp_path / "state"
    with pytest.warns(sklearn.exceptions.ConvergenceWarning):
        SoftmaxClassifier(tol=1e-8, max_iter=3, checkpoint=path).fit(X, y)
    with pytest.raises(ValueError, match="of another fit, with the dtype = 'float64 on cpu, PyTorch"):
        SoftmaxClassifier(tol=1e-8, checkpoint=path).fit(X.numpy(), y.numpy())
    model = SoftmaxClassifier(tol=1e-8, checkpoint=path).fit(X, y)
    whole = SoftmaxClassifier(tol=1e-8).fit(X, y)
    np.testing.assert_array_equal(model.coef_, whole.coef_)
    assert not path.exists()


def test_paths():
    X, y = rows()
    Cs = [10.0, 0.1, np.inf, 1.0]
    path, expected = (softmax_path(*data, Cs=Cs, tol=1e-9) for data in ((X, y), (X.numpy(), y.numpy())))
    assert isinstance(path.coefs, torch.Tensor)
    np.testing.assert_allclose(path.coefs, expected.coefs, atol=1e-6)
    np.testing.assert_allclose(path.objectives, expected.objectives, rtol=1e-9)
    assert path.statuses == ["converged"] * 4
    model = path.classifier(0)
    np.testing.assert_allclose(model.predict_proba(X), expected.classifier(0).predict_proba(X.numpy()), atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"scoring": None}, {"scoring": "f1_macro"}, {"refit": False}])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_validation(options, weighted):
    X, y = rows(3)
    weight = torch.rand(len(y), generator=torch.Generator().manual_seed(1)) + 0.1 if weighted else None
    options = {"Cs": [0.01, 1.0, 100.0], "cv": 3, "tol": 1e-9, "class_weight": "balanced"} | options
    model = SoftmaxClassifierCV(**options)
    expected = SoftmaxClassifierCV(**options)
    model.fit(X, y, weight)
    expected.fit(X.numpy(), y.numpy(), None if weight is None else weight.numpy())
    assert isinstance(model.scores_, np.ndarray)
    np.testing.assert_allclose(model.scores_, expected.scores_, atol=1e-6)
    assert model.C_ == expected.C_
    assert isinstance(model.coef_, torch.Tensor)
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-5)
    for name in METHODS:
        np.testing.assert_allclose(getattr(model, name)(X), getattr(expected, name)(X.numpy()), atol=1e-5)
    assert model.score(X, y) == pytest.approx(expected.score(X.numpy(), y.numpy()), abs=1e-6)


def test_a_model_is_saved_and_used_elsewhere(tmp_path):
    X, y = rows()
    model = SoftmaxClassifier().fit(X, y)
    softhead.save(model, tmp_path / "model")
    loaded = softhead.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.coef_, model.coef_)
    np.testing.assert_allclose(loaded.predict_proba(X.numpy()), model.to_torch()(X).softmax(1).detach(), atol=1e-12)
    with pytest.raises(ValueError, match="namespace"):
        loaded.predict(X)


X, Y = rows()
BAD = [
    (lambda: (X.to("meta"), Y), TypeError, "X is a tensor on meta, without numbers"),
    (lambda: (X.to_sparse(), Y), TypeError, "accepted are dense tensors"),
    (lambda: (X.to(torch.complex64), Y), TypeError, "accepted are dense tensors of real numbers"),
    (lambda: (X[0], Y), ValueError, r"X: shape \(5,\)"),
    (lambda: (X[:0], Y[:0]), ValueError, r"X: shape \(0, 5\)"),
    (lambda: (torch.where(torch.arange(200)[:, None] == 17, torch.nan, X), Y), ValueError, "X: row 17 contains NaN"),
    (lambda: (X, Y[:-1]), ValueError, r"y: shape \(199,\)"),
    (lambda: (X, Y.tolist()[:-1]), ValueError, "y: 199 labels for 200 rows"),
    (lambda: (X, Y + 0.5), ValueError, "Unknown label type"),
    (lambda: (X, Y * torch.nan), ValueError, "y contains NaN"),
    (lambda: (X, 0 * Y), ValueError, "at least 2 classes"),
    (lambda: (X, None), ValueError, "y: None"),
    (lambda: (X, Y, torch.ones(3)), ValueError, r"sample_weight: shape \(3,\)"),
    (lambda: (X, Y, -torch.ones(200)), ValueError, "sample_weight: -1 at row 0"),
    (lambda: (X, Y, torch.zeros(200)), ValueError, "every weight is zero"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_what_is_wrong_is_named(case):
    arguments, error, message = BAD[case]
    for fit in (SoftmaxClassifier().fit, SoftmaxClassifierCV(2).fit):
        with pytest.raises(error, match=message):
            fit(*arguments())


def test_what_is_wrong_with_soft_labels_or_rows_to_answer_is_named():
    p = torch.full((200, 4), 0.25)
    with pytest.raises(ValueError, match=r"probabilities: row 3 has the minimum 0 and the sum 0\.5"):
        SoftmaxClassifier().fit_proba(X, torch.where(torch.arange(200)[:, None] == 3, torch.tensor([0.5, 0, 0, 0]), p))
    with pytest.raises(ValueError, match=r"probabilities: shape \(7, 4\) for 200 rows"):
        SoftmaxClassifier().fit_proba(X, p[:7])
    with pytest.raises(ValueError, match="classes: must be 4 different labels"):
        SoftmaxClassifier().fit_proba(X, p, classes=[1, 2])
    with pytest.raises(NotFittedError):
        SoftmaxClassifier().predict(X)
    model = SoftmaxClassifier().fit(X, Y)
    with pytest.raises(ValueError, match="X has 4 features, but SoftmaxClassifier is expecting 5"):
        model.predict(X[:, :4])
    with pytest.raises(ValueError, match="the label 9 is not among the classes"):
        SoftmaxClassifierCV([0.1, 1.0]).fit(X, Y).score(X, Y + 9)
