"""The classifier on tensors and on arrays of other libraries, and as a layer of PyTorch."""

import subprocess
import sys

import numpy as np
import pytest
import sklearn
from sklearn.utils import estimator_checks

import softhead
from softhead import SoftmaxClassifier
from softhead._tensors import on_host, to_numpy

torch = pytest.importorskip("torch")


@pytest.fixture(params=[2, 4])
def data(request):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(120, 5, generator=generator)
    return X, (X @ torch.randn(5, request.param, generator=generator)).argmax(1)


@pytest.fixture
def dispatch(monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # scikit-learn asks for it; nothing of SciPy sees a tensor here
    with sklearn.config_context(array_api_dispatch=True):
        yield


def test_cpu_tensors_are_read_where_they_are(data):
    X, y = data
    assert np.shares_memory(to_numpy("X", X), X.numpy())
    assert np.shares_memory(to_numpy("X", X.requires_grad_()), X.detach().numpy())
    model = SoftmaxClassifier().fit(X, y, sample_weight=torch.ones(120))
    expected = SoftmaxClassifier().fit(X.detach().numpy(), y.numpy())
    assert isinstance(model.coef_, np.ndarray)
    np.testing.assert_array_equal(model.coef_, expected.coef_)
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        result = getattr(model, method)(X)
        assert isinstance(result, np.ndarray)
        np.testing.assert_array_equal(result, getattr(expected, method)(X.detach().numpy()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tensors_of_half_types_are_fitted_in_float32(data, dtype):
    X, y = data
    model = SoftmaxClassifier().fit(X.to(dtype), y)
    assert model.coef_.dtype == np.float32
    np.testing.assert_array_equal(model.coef_, SoftmaxClassifier().fit(X.to(dtype).float(), y).coef_)


def test_a_tensor_elsewhere_needs_the_dispatch(data):
    X, y = data
    with pytest.raises(TypeError, match=r"X is a tensor on meta; sklearn.set_config\(array_api_dispatch=True\)"):
        SoftmaxClassifier().fit(X.to("meta"), y)
    with pytest.raises(TypeError, match="sample_weight is a tensor on meta"):
        SoftmaxClassifier().fit(X, y, sample_weight=torch.ones(120, device="meta"))
    with pytest.raises(TypeError, match="X is a tensor on meta"):
        SoftmaxClassifier().fit(X, y).predict(X.to("meta"))


def test_what_is_fitted_to_tensors_are_tensors(data, dispatch):
    X, y = data
    plain = SoftmaxClassifier(tol=1e-9).fit(X.double().numpy(), y.numpy())
    model = SoftmaxClassifier(tol=1e-9).fit(X.double(), y)
    for name in ("classes_", "coef_", "intercept_", "n_iter_"):
        tensor = getattr(model, name)
        assert isinstance(tensor, torch.Tensor)
        np.testing.assert_array_equal(tensor, getattr(plain, name))
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        result = getattr(model, method)(X.double())
        assert isinstance(result, torch.Tensor)
        np.testing.assert_array_equal(result, getattr(plain, method)(X.double().numpy()))
    assert model.score(X.double(), y) == pytest.approx(plain.score(X.double().numpy(), y.numpy()))
    assert model.set_params(warm_start=True).fit(X.double(), y).n_iter_ == 0
    assert isinstance(model.coef_, torch.Tensor)
    soft = torch.nn.functional.one_hot(y).double()
    assert isinstance(SoftmaxClassifier().fit_proba(X.double(), soft).coef_, torch.Tensor)


def test_paths_and_choices_of_a_penalty_are_answered_in_kind(data, dispatch):
    X, y = (X.double() if X.is_floating_point() else X for X in data)
    expected = softhead.softmax_path(X.numpy(), y.numpy(), Cs=2)
    path = softhead.softmax_path(X, y, Cs=2)
    for name in ("coefs", "intercepts", "classes"):
        assert isinstance(getattr(path, name), torch.Tensor)
        np.testing.assert_array_equal(getattr(path, name), getattr(expected, name))
    np.testing.assert_array_equal(path.classifier(1).predict(X), expected.classifier(1).predict(X.numpy()))
    choice = softhead.SoftmaxClassifierCV(2).fit(X, y)
    chosen = softhead.SoftmaxClassifierCV(2).fit(X.numpy(), y.numpy())
    assert isinstance(choice.coef_, torch.Tensor)
    assert isinstance(choice.scores_, np.ndarray)
    np.testing.assert_array_equal(choice.coef_, chosen.coef_)
    assert isinstance(choice.predict_proba(X), torch.Tensor)
    assert choice.score(X, y) == pytest.approx(chosen.score(X.numpy(), y.numpy()))
    with sklearn.config_context(array_api_dispatch=False):
        np.testing.assert_array_equal(softhead.softmax_path(X, y, Cs=2).coefs, expected.coefs)


def test_labels_stay_what_they_were(data, dispatch):
    X, y = data
    names = np.array(["a", "b", "c", "d"])[y.numpy()]
    model = SoftmaxClassifier().fit(X, names)
    assert isinstance(model.coef_, torch.Tensor)
    assert set(model.predict(X)) <= set(names)
    assert isinstance(SoftmaxClassifier().fit(X, y.numpy()).predict(X), torch.Tensor)
    assert isinstance(SoftmaxClassifier().fit(X.numpy(), y).predict(X.numpy()), np.ndarray)


def test_a_model_of_tensors_is_saved_and_used_without_the_dispatch(data, dispatch, tmp_path):
    X, y = data
    model = SoftmaxClassifier().fit(X, y)
    softhead.save(model, tmp_path / "model")
    with sklearn.config_context(array_api_dispatch=False):
        expected = softhead.load(tmp_path / "model").predict_proba(X.numpy())
        np.testing.assert_array_equal(model.predict_proba(X.numpy()), expected)
    assert on_host(model) is not model
    assert isinstance(model.coef_, torch.Tensor)


@pytest.mark.parametrize(
    ("library", "device", "dtype"),
    [("numpy", None, None), ("array_api_strict", "device1", "float32"), ("torch", "cpu", "float64")],
)
def test_scikit_learns_own_checks_of_dispatch(library, device, dtype, monkeypatch):
    pytest.importorskip("array_api_strict")
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    options = {"check_values": True, "check_sample_weight": True}
    check = ("SoftmaxClassifier", SoftmaxClassifier(), library, device)
    estimator_checks.check_array_api_input(*check, dtype, **options)
    if library == "torch":
        estimator_checks.check_array_api_same_namespace(*check)
        strict = estimator_checks.NamespaceAndDevice("array_api_strict", "device1")
        tensors = estimator_checks.NamespaceAndDevice("torch", "cpu")
        estimator_checks.check_array_api_mixed_inputs(*check[:2], strict, tensors, check_values=True)


def test_a_layer_and_back(data):
    X, y = data
    model = SoftmaxClassifier().fit(X, y)
    model.temperature_ = 1.7
    layer = model.to_torch()
    assert layer.weight.shape == (len(model.classes_), 5)
    np.testing.assert_allclose(layer(X).detach().softmax(1), model.predict_proba(X), rtol=2e-6, atol=1e-7)
    again = SoftmaxClassifier.from_torch(layer)
    np.testing.assert_allclose(again.predict_proba(X), model.predict_proba(X), rtol=2e-6, atol=1e-7)
    state = SoftmaxClassifier.from_state(again.to_state())
    assert (state.status_, state.gap_) == ("imported", np.inf)
    np.testing.assert_array_equal(state.coef_, again.coef_)
    again.set_params(warm_start=True).fit(X, y)  # the optimum again, but for the temperature
    np.testing.assert_allclose(again.coef_, model.coef_, atol=0.05)


def test_rows_of_a_layer_have_labels_in_any_order():
    layer = torch.nn.Linear(4, 3, dtype=torch.bfloat16)
    model = SoftmaxClassifier.from_torch(layer, ["c", "a", "b"])
    assert model.coef_.dtype == np.float32
    assert model.classes_.tolist() == ["a", "b", "c"]
    X = torch.randn(7, 4)
    with torch.no_grad():
        np.testing.assert_allclose(model.predict_proba(X), layer.float()(X).softmax(1)[:, [1, 2, 0]], rtol=1e-5)


def test_a_layer_of_one_row_or_without_a_bias():
    X = torch.randn(7, 4)
    one = torch.nn.Linear(4, 1)
    with torch.no_grad():
        np.testing.assert_allclose(
            SoftmaxClassifier.from_torch(one, ["no", "yes"]).predict_proba(X)[:, 1], one(X)[:, 0].sigmoid(), rtol=1e-5
        )
    assert not SoftmaxClassifier.from_torch(torch.nn.Linear(4, 3, bias=False)).fit_intercept


def test_what_is_no_layer_or_does_not_fit():
    with pytest.raises(TypeError, match=r"linear is a ReLU; accepted is a torch\.nn\.Linear"):
        SoftmaxClassifier.from_torch(torch.nn.ReLU())
    for classes in (["a", "b"], ["a", "a", "b"]):
        with pytest.raises(ValueError, match="classes: must be 3 different labels"):
            SoftmaxClassifier.from_torch(torch.nn.Linear(2, 3), classes)
    with pytest.raises(sklearn.exceptions.NotFittedError):
        SoftmaxClassifier().to_torch()


WITHOUT = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "jax", "jaxlib"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
import numpy as np
import softhead

for name in ("torch", "jax"):
    try:
        __import__(f"softhead.{name}")
    except ImportError as error:
        assert f"softhead[{name}]" in str(error), error
    else:
        raise AssertionError(name)
model = softhead.SoftmaxClassifier().fit(np.eye(3), ["a", "b", "c"])
for call in (model.to_torch, lambda: softhead.SoftmaxClassifier.from_torch(None)):
    try:
        call()
    except ImportError as error:
        assert "softhead[torch]" in str(error), error
    else:
        raise AssertionError(call)
for name in softhead.__all__:
    getattr(softhead, name)
assert softhead.softmax([0.0, 0.0]).tolist() == [0.5, 0.5]
assert not {"torch", "jax"} & set(sys.modules)
print("right")
"""


def test_without_torch_and_jax_all_else_works_and_names_the_extra():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("right", 0), done.stderr
