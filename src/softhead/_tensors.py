"""The classifier on tensors: taken as they are and answered in kind where scikit-learn's array API dispatch is on.

The compiled loops read the memory of CPU tensors without a copy. Rows on another device stay there (`_device.py`), and
what was fitted goes to their device. PyTorch is never imported here: who has a tensor has loaded it.
"""

import copy
import functools
import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, Self

import numpy as np
from sklearn import get_config
from sklearn.utils._array_api import check_same_namespace, get_namespace_and_device, move_to
from sklearn.utils.validation import check_is_fitted

_PREDICTING = ("classes_", "coef_", "intercept_")


def fits_tensors(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method that fits take tensors too; what it fits lies where `X` does, the classes where `y` does."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(self, *args, **kwargs).arguments
        del given["self"]
        foreign = {name: value for name, value in given.items() if is_foreign(value)}
        if not foreign and not any(map(is_foreign, vars(self).values())):
            return method(self, *args, **kwargs)
        vars(self).update(vars(on_host(self)))  # where a warm start begins
        if is_on_device(given["X"]):
            foreign = {}
        try:
            return method(self, **given | {name: to_numpy(name, value) for name, value in foreign.items()})
        finally:
            if get_config()["array_api_dispatch"]:
                _send_fitted(self, given["X"], given.get("y", given["X"]))

    return fit


def answers_tensors(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method of a fitted model take tensors too, and answer in kind where dispatch is on."""

    @functools.wraps(method)
    def answer(self: Any, X: Any) -> Any:
        if not is_foreign(X) and not any(map(is_foreign, vars(self).values())):
            return method(self, X)
        dispatched = get_config()["array_api_dispatch"]
        if dispatched:
            check_is_fitted(self)
            check_same_namespace(X, self, attribute="coef_", method=method.__name__)
        if is_on_device(X):
            return method(self, X)
        result = method(on_host(self), to_numpy("X", X) if is_foreign(X) else X)
        return sent(result, X) if dispatched else result

    return answer


def on_host(model: Any) -> Any:
    """Return a model whose attributes are NumPy's: a shallow copy where one is a tensor."""
    foreign = {name: to_numpy(name, value) for name, value in vars(model).items() if is_foreign(value)}
    if not foreign:
        return model
    model = copy.copy(model)
    vars(model).update(foreign)
    return model


def is_on_device(X: Any) -> bool:
    """Return whether rows are a tensor of another device than the CPU, to be fitted and answered there.

    Not on one without float64, which certificates need: from there rows are copied to the host.
    """
    return bool(get_config()["array_api_dispatch"]) and is_tensor(X) and off_host(X) and X.device.type != "mps"


def off_host(tensor: Any) -> bool:
    """Return whether a tensor lies elsewhere than in the memory of the CPU."""
    return bool(tensor.device.type != "cpu")


def to_numpy(name: str, value: Any) -> np.ndarray:
    """Return a tensor, or an array of another library, as a NumPy array, which shares memory where that can be.

    Raises
    ------
    TypeError
        If a tensor lies on another device than the CPU, and scikit-learn's dispatch is off.
    """
    if not is_tensor(value):
        array: np.ndarray = move_to(value, xp=get_namespace_and_device(np.empty(0))[0], device="cpu")
        return array
    if off_host(value) and not get_config()["array_api_dispatch"]:
        raise TypeError(
            f"{name} is a tensor on {value.device}; sklearn.set_config(array_api_dispatch=True) lets it be fitted and "
            f"answered there, and {name}.cpu() is taken without"
        )
    tensor = value.detach().cpu()
    # NumPy has no bfloat16; float32 holds both half types, and keeps the fit from doubling their memory twice.
    return (tensor.float() if tensor.is_floating_point() and tensor.itemsize == 2 else tensor).numpy()


class TorchHead:
    """A linear classifier that comes from, and goes back to, a layer of PyTorch."""

    @classmethod
    def from_torch(cls, linear: Any, classes: Any = None) -> Self:
        """Return the classifier whose logits are those of a `torch.nn.Linear`.

        Parameters
        ----------
        linear : torch.nn.Linear
            A row of weights for each class; or one row, the logit of the second of two classes.
        classes : array-like of shape (n_classes,), optional
            The labels of its rows, in their order; 0 to n_classes - 1 by default.

        Returns
        -------
        SoftmaxClassifier
            Fitted as far as predictions go: `objective_` is nan, `gap_` inf, `status_` "imported". With `warm_start`,
            a fit goes on from here.

        Raises
        ------
        TypeError
            If `linear` is no such layer.
        ValueError
            If its rows and `classes` do not fit together.
        """
        weights, bias = import_module("softhead.torch.heads").coefficients(linear)
        if len(weights) == 1:
            weights = np.concatenate([0 * weights, weights])
            bias = None if bias is None else np.concatenate([0 * bias, bias])
        intercepts = np.zeros(len(weights), weights.dtype) if bias is None else bias
        labels = np.arange(len(weights)) if classes is None else np.asarray(classes)
        order = np.argsort(labels, kind="stable") if labels.shape == (len(weights),) else None
        if order is None or not (labels[order][1:] > labels[order][:-1]).all():
            raise ValueError(
                f"classes: must be {len(weights)} different labels, one for each row of linear; got {labels.tolist()!r}"
            )
        model: Any = cls(fit_intercept=bias is not None)  # type: ignore[call-arg]
        weights, intercepts = weights[order], intercepts[order]
        if len(weights) == 2:
            weights, intercepts = weights[1:] - weights[:1], intercepts[1:] - intercepts[:1]
        fitted = {
            "classes_": labels[order],
            "coef_": np.ascontiguousarray(weights),
            "intercept_": intercepts,
            "n_features_in_": weights.shape[1],
            "n_iter_": np.zeros(1, np.int32),
            "n_passes_": 0.0,
            "objective_": np.nan,
            "gap_": np.inf,
            "temperature_": 1.0,
            "status_": "imported",
        }
        vars(model).update(fitted)
        return model

    def to_torch(self) -> Any:
        """Return a `torch.nn.Linear` whose softmax gives the classifier's probabilities.

        It has a row for each class, in the order of `classes_`, also for two classes, and a bias. `temperature_` is
        worked into both. Its dtype is that of `coef_`, its device too where that is a tensor.

        Returns
        -------
        torch.nn.Linear

        Raises
        ------
        NotFittedError
            If there is nothing to go by yet.
        """
        check_is_fitted(self)
        host: Any = on_host(self)
        weights, intercepts = host.coef_ / host.temperature_, host.intercept_ / host.temperature_
        if len(host.classes_) == 2:  # halves are exact, and so is the difference of the two logits
            weights, intercepts = (np.concatenate([-0.5 * row, 0.5 * row]) for row in (weights, intercepts))
        device = getattr(vars(self)["coef_"], "device", "cpu")
        dtype = host.coef_.dtype
        return import_module("softhead.torch.heads").linear(weights.astype(dtype), intercepts.astype(dtype), device)


def is_tensor(value: Any) -> bool:
    """Return whether a value is a tensor of PyTorch."""
    return any(kind.__module__ == "torch" and kind.__name__ == "Tensor" for kind in type(value).__mro__)


def is_foreign(value: Any) -> bool:
    """Return whether a value is a tensor, or an array of another library that is to be answered in kind."""
    if isinstance(value, np.ndarray | np.generic | float | int | str):
        return False
    return is_tensor(value) or (get_config()["array_api_dispatch"] and hasattr(value, "__array_namespace__"))


def sent(array: Any, like: Any) -> Any:
    """Return an array of NumPy where, and as, another one is; what is no number stays."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or not is_foreign(like):
        return array
    if is_tensor(like):
        native = array.astype(array.dtype.newbyteorder("="), copy=False)  # tensors have no other order of bytes
        return sys.modules["torch"].from_numpy(native).to(like.device)
    xp, _, device = get_namespace_and_device(like)
    return move_to(array, xp=xp, device=device)


def _send_fitted(model: Any, X: Any, y: Any) -> None:
    """Put what was fitted where the rows are, and the classes where the labels are.

    Of a choice among fits that is what predicts; the figures of all fits stay NumPy's.
    """
    if "best_estimator_" in vars(model):
        _send_fitted(model.best_estimator_, X, y)
    chooses = hasattr(model, "Cs")
    for name, value in vars(model).items():
        if name.endswith("_") and not name.startswith("_") and (name in _PREDICTING or not chooses):
            setattr(model, name, sent(value, y if name == "classes_" else X))
