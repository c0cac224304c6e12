"""A fitted classifier as plain values and arrays, and back: what a model file holds of it."""

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from softhead._state import fields, labels_from_state, labels_to_state, require, texts
from softhead.linear.solution import Status


def classifier_to_state(model: Any) -> dict[str, object]:
    """Return a fitted classifier as plain values and arrays."""
    weights = model.class_weight
    by_label = weights if isinstance(weights, Mapping) else None
    require(np.shape(model.coef_)[1:] == (model.n_features_in_,), "coefficients")
    return {
        "C": float(model.C),
        "fit_intercept": bool(model.fit_intercept),
        "class_weight": weights if by_label is None else None,
        "class_weight_labels": None if by_label is None else labels_to_state(np.asarray(list(by_label))),
        "class_weight_factors": None if by_label is None else np.asarray(list(by_label.values()), np.float64),
        "tol": float(model.tol),
        "max_iter": int(model.max_iter),
        "warm_start": bool(model.warm_start),
        "classes_": labels_to_state(model.classes_),
        "coef_": model.coef_,
        "intercept_": model.intercept_,
        "feature_names_in_": model.feature_names_in_.astype(object) if hasattr(model, "feature_names_in_") else None,
        "n_iter_": model.n_iter_,
        "n_passes_": float(model.n_passes_),
        "objective_": float(model.objective_),
        "gap_": float(model.gap_),
        "status_": model.status_,
        **({} if model.temperature_ == 1.0 else {"temperature_": float(model.temperature_)}),
    }


def classifier_from_state(cls: Any, state: object) -> Any:
    """Return the classifier of a state, its parameters unchecked; ValueError on a state that none could have given."""
    none = type(None)
    parameters = {"C": float, "fit_intercept": bool, "tol": float, "max_iter": int, "warm_start": bool}
    by_label = {"class_weight_labels": (dict, none), "class_weight_factors": (np.ndarray, none)}
    arrays = {"coef_": np.ndarray, "intercept_": np.ndarray, "n_iter_": np.ndarray, "classes_": dict}
    records = {"n_passes_": float, "objective_": float, "gap_": float, "status_": str, "temperature_": float}
    names: dict[str, Any] = {"feature_names_in_": (np.ndarray, none), "class_weight": (str, none)}
    state = {"temperature_": 1.0, **state} if isinstance(state, dict) else state  # files without one mean 1
    kinds = parameters | by_label | arrays | records | names
    given = dict(zip(kinds, fields(state, **kinds), strict=True))

    class_weight = given["class_weight"]
    require(class_weight in (None, "balanced"), "class weights")
    if given["class_weight_labels"] is not None:
        labels, factors = labels_from_state(given["class_weight_labels"]), given["class_weight_factors"]
        require(factors is not None and factors.shape == labels.shape, "class weights")
        class_weight = dict(zip(labels.tolist(), factors.tolist(), strict=True))
    model = cls(class_weight=class_weight, **{name: given[name] for name in parameters})

    classes, coef, intercept = labels_from_state(given["classes_"]), given["coef_"], given["intercept_"]
    require(len(classes) >= 2 and bool((classes[1:] > classes[:-1]).all()), "classes")
    rows = 1 if len(classes) == 2 else len(classes)
    require(coef.dtype in (np.float32, np.float64) and coef.ndim == 2 and len(coef) == rows, "coefficients")
    require(intercept.dtype == coef.dtype and intercept.shape == (rows,) and coef.size, "intercepts")
    require(np.isfinite(coef).all() and np.isfinite(intercept).all(), "coefficients")
    require(given["n_iter_"].dtype == np.int32 and given["n_iter_"].shape == (1,), "iterations")
    require(given["status_"] in (*get_args(Status), "imported"), "status")
    require(0.0 < given["temperature_"] < np.inf, "temperature")
    model.classes_, model.n_features_in_ = classes, coef.shape[1]
    if given["feature_names_in_"] is not None:
        require(len(texts(given["feature_names_in_"])) == coef.shape[1], "names of features")
        model.feature_names_in_ = given["feature_names_in_"]
    for name in ("coef_", "intercept_", "n_iter_", *records):
        setattr(model, name, given[name])
    return model
