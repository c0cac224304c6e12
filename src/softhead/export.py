"""Models for other programs: an ONNX file, or scikit-learn's own `LogisticRegression`."""

import os
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from softhead import _checks as check
from softhead._columns import Categories, Column, Datetimes, Numbers, Times
from softhead._files import atomic_output
from softhead._version import __version__
from softhead.cross_validation import SoftmaxClassifierCV
from softhead.estimator import SoftmaxClassifier
from softhead.tables import TableEncoder

_OPSET, _OPSET_ML, _IR_VERSION = 17, 3, 8  # of 2022: runtimes since then read it
_LARGEST = float(np.finfo(np.float32).max)
_DAY = 86400.0  # seconds
_EPOCH = 719_162.0  # days from 0001-01-01 to 1970-01-01


def to_onnx(model: Any, path: str | os.PathLike[str], *, dtype: Literal["float32", "float64"] | None = None) -> None:
    """Write a fitted model as an ONNX file: encoding, logits, temperature, softmax and label.

    Parameters
    ----------
    model : SoftmaxClassifier, SoftmaxClassifierCV or Pipeline
        A fitted classifier, or a pipeline of a `TableEncoder` and one.
    path : str or path-like
        The file to write; it appears complete or not at all.
    dtype : {"float32", "float64"}, optional
        Of the input of arrays and of the probabilities; by default that of the coefficients.

    Raises
    ------
    TypeError
        If `model` is something else. A `TextEncoder` has no counterpart in ONNX: export the classifier alone, and give
        it the encoded texts.
    ValueError
        If the labels are of a type that ONNX lacks, a column has no name, or `dtype` is another.
    ImportError
        Without the package onnx: ``pip install 'softhead[onnx]'``.
    OSError
        If the file cannot be written.

    Warns
    -----
    UserWarning
        If a column has both missing values and the empty string as a category: ONNX cannot tell them apart.

    Notes
    -----
    The outputs are ``label`` of shape (n_rows,) and ``probabilities`` of shape (n_rows, n_classes); where a column has
    that name, an underscore follows.

    A model of arrays has one input, ``X``, of shape (n_rows, ...). A model of a table has one input of shape
    (n_rows, 1) for each column, by its name: strings for categories, where a missing value is the empty string, unless
    that is a category itself; float64 for all others, where it is NaN. Datetimes are seconds since 1970-01-01 UTC,
    times of day seconds since midnight, durations seconds. Columns without any value in training have no input.

    Logits are computed in float64, as `SoftmaxClassifier.predict_proba` computes them: float32 probabilities agree to
    1e-7, float64 ones to 1e-12 and better.

    References
    ----------
    ONNX operators, version 17, and those of ai.onnx.ml, version 3: https://onnx.ai/onnx/operators.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np, onnxruntime  # doctest: +SKIP
    >>> from softhead import SoftmaxClassifier, to_onnx
    >>> model = SoftmaxClassifier().fit(np.eye(3), ["a", "b", "c"])
    >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +SKIP
    ...     to_onnx(model, pathlib.Path(folder, "model.onnx"))
    ...     session = onnxruntime.InferenceSession(pathlib.Path(folder, "model.onnx"))
    ...     label, p = session.run(None, {"X": np.eye(3)})
    >>> label.tolist(), np.abs(p - model.predict_proba(np.eye(3))).max() < 1e-15  # doctest: +SKIP
    (['a', 'b', 'c'], True)
    """
    encoder, classifier = _parts(model)
    if encoder is not None and not isinstance(encoder, TableEncoder):
        raise TypeError(
            f"model has a {type(encoder).__name__}, which ONNX has no operators for; export its classifier, model[-1], "
            "and give it encoded rows"
        )
    dtype = classifier.coef_.dtype.name if dtype is None else dtype
    check.one_of("dtype", dtype, ("float32", "float64"))
    columns = [] if encoder is None or encoder.feature_shape_ is not None else encoder._names_in()
    graph = _Graph(columns)
    kind = np.dtype(dtype)
    rows = graph.input("X", kind, [classifier.n_features_in_]) if encoder is None else _encoded(graph, encoder, kind)
    coef, intercept = classifier.coef_, classifier.intercept_
    if len(coef) == 1:  # the logits of two classes are 0 and the one that is known
        coef, intercept = np.concatenate([np.zeros_like(coef), coef]), np.append(np.zeros_like(intercept), intercept)
    # Logits are float64 in either case, as those of `predict_proba` are: probabilities are rounded once.
    logits = graph.apply("MatMul", graph.cast(rows, np.float64), graph.constant(coef.T.astype(np.float64)))
    logits = graph.apply("Add", logits, graph.constant(intercept.astype(np.float64)))
    best = graph.apply("ArgMax", logits, axis=1, keepdims=0)
    labels = _labels(classifier.classes_)
    graph.output("label", graph.apply("Gather", graph.constant(labels), best), labels.dtype, [])
    if classifier.temperature_ != 1.0:
        logits = graph.apply("Div", logits, graph.constant(np.asarray(classifier.temperature_, np.float64)))
    probabilities = graph.cast(graph.apply("Softmax", logits, axis=-1), kind)
    graph.output("probabilities", probabilities, kind, [len(labels)])
    data = graph.serialized()
    with atomic_output(path) as file:
        file.write(data)


def to_sklearn(model: Any) -> Any:
    """Return scikit-learn's `LogisticRegression` with the same probabilities, which needs no softhead.

    Parameters
    ----------
    model : SoftmaxClassifier, SoftmaxClassifierCV or Pipeline that ends in one
        Fitted. Of a pipeline, the last step is replaced.

    Returns
    -------
    LogisticRegression or Pipeline
        Fitted: coefficients and intercepts are divided by the temperature.

    Raises
    ------
    TypeError
        If `model` is something else.
    sklearn.exceptions.NotFittedError
        If it is not fitted.

    References
    ----------
    Pedregosa et al., Scikit-learn: Machine Learning in Python, JMLR 12, 2011.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from softhead import SoftmaxClassifier, to_sklearn
    >>> X, y = load_iris(return_X_y=True)
    >>> model = SoftmaxClassifier().fit(X, y)
    >>> bool(abs(to_sklearn(model).predict_proba(X) - model.predict_proba(X)).max() < 1e-14)
    True
    """
    from sklearn.linear_model import LogisticRegression

    _, classifier = _parts(model)
    plain = LogisticRegression(
        C=classifier.C,
        fit_intercept=classifier.fit_intercept,
        class_weight=classifier.class_weight,
        tol=classifier.tol,
        max_iter=classifier.max_iter,
        warm_start=classifier.warm_start,
    )
    divisor = classifier.coef_.dtype.type(classifier.temperature_)
    plain.coef_, plain.intercept_ = classifier.coef_ / divisor, classifier.intercept_ / divisor
    for name in ("classes_", "n_features_in_", "feature_names_in_", "n_iter_"):
        if hasattr(classifier, name):
            setattr(plain, name, getattr(classifier, name))
    if isinstance(model, Pipeline):
        return Pipeline([*model.steps[:-1], (model.steps[-1][0], plain)])
    return plain


def _parts(model: Any) -> tuple[Any, SoftmaxClassifier]:
    """Return the encoder of a fitted model, None where there is none, and its classifier."""
    steps = [step for _, step in model.steps] if isinstance(model, Pipeline) else [model]
    head = steps[-1]
    if not isinstance(head, SoftmaxClassifier | SoftmaxClassifierCV) or len(steps) > 2:
        got = ", ".join(type(step).__name__ for step in steps)
        raise TypeError(
            f"model is {got}; accepted are a SoftmaxClassifier or SoftmaxClassifierCV, and a pipeline of an encoder "
            "and one of these"
        )
    for step in steps:
        check_is_fitted(step)
    if isinstance(head, SoftmaxClassifierCV):
        check_is_fitted(head, "best_estimator_")
        head = head.best_estimator_
    return steps[0] if len(steps) == 2 else None, head


def _labels(classes: np.ndarray) -> np.ndarray:
    """Return labels in a type that ONNX has."""
    if classes.dtype.kind in "OU":
        return np.array([str(label) for label in classes], object)
    wide = {"b": np.bool_, "i": np.int64, "u": np.uint64, "f": np.float64}.get(classes.dtype.kind)
    if wide is None:
        raise ValueError(f"model has labels of type {classes.dtype}; accepted are strings, numbers and bools")
    return classes.astype(np.int64 if wide is np.uint64 and classes.max() < 2**63 else wide)


class _Graph:
    """An ONNX graph that grows node by node; a value is known by its name, which is none of the `columns`."""

    def __init__(self, columns: list[str]) -> None:
        try:
            import onnx
        except ImportError as error:
            raise ImportError("to_onnx needs the package onnx: pip install 'softhead[onnx]'") from error

        if "" in columns:
            raise ValueError("model has a column without a name, and ONNX has no such inputs; name it before training")
        self.onnx = onnx
        self.taken = set(columns)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def _value(self, name: str, dtype: np.dtype, shape: list[int]) -> Any:
        helper, types = self.onnx.helper, self.onnx.TensorProto
        kind = types.STRING if dtype.kind == "O" else helper.np_dtype_to_tensor_dtype(dtype)
        return helper.make_tensor_value_info(name, kind, ["rows", *shape])

    def _fresh(self, name: str) -> str:
        """Return a name that nothing has yet."""
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    def input(self, name: str, dtype: np.dtype, shape: list[int]) -> str:
        """Add an input with these dimensions after the rows."""
        self.inputs.append(self._value(name, dtype, shape))
        return name

    def output(self, name: str, value: str, dtype: np.dtype, shape: list[int]) -> None:
        """Give a value as an output."""
        name = self._fresh(name)
        self.nodes.append(self.onnx.helper.make_node("Identity", [value], [name]))
        self.outputs.append(self._value(name, dtype, shape))

    def constant(self, array: Any) -> str:
        """Add a constant: an array, or a float64 number."""
        array = np.asarray(array)
        name = self._fresh(f"constant/{len(self.constants)}")
        if array.dtype.kind == "O":
            texts = [text.encode() for text in array]
            tensor = self.onnx.helper.make_tensor(name, self.onnx.TensorProto.STRING, array.shape, texts)
        else:
            tensor = self.onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        self.constants.append(tensor)
        return name

    def apply(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node, and return its one output."""
        name = self._fresh(f"value/{len(self.nodes)}")
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), [name], domain=domain, **attributes))
        return name

    def cast(self, value: str, dtype: Any) -> str:
        """Convert to another type."""
        return self.apply("Cast", value, to=self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def columns(self, value: str, which: list[int]) -> str:
        """Take columns of a matrix."""
        return self.apply("Gather", value, self.constant(np.array(which, np.int64)), axis=1)

    def serialized(self) -> bytes:
        """Return the checked model as bytes."""
        helper = self.onnx.helper
        graph = helper.make_graph(self.nodes, "softhead", self.inputs, self.outputs, self.constants)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _OPSET_ML)],
            ir_version=_IR_VERSION,
            producer_name="softhead",
            producer_version=__version__,
        )
        self.onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString(deterministic=True)


def _encoded(graph: _Graph, encoder: TableEncoder, dtype: np.dtype) -> str:
    """Add what `TableEncoder.transform` does: in float64, and rounded to float32 as it is there."""
    if encoder.feature_shape_ is not None:
        rows = graph.input("X", dtype, list(encoder.feature_shape_))
        (numbers,) = encoder._columns
        flat = graph.apply("Flatten", rows, axis=1)
        parts = _COLUMNS[type(numbers)](graph, numbers, graph.cast(flat, np.float64))
    else:
        parts = []
        for name, column in zip(encoder._names_in(), encoder._columns, strict=True):
            if column.width:
                if isinstance(column, Categories) and column.missing and "" in column.values:
                    warnings.warn(
                        f"column {name!r} has missing values and the empty string as a category; in ONNX, where both "
                        "are the empty string, missing values count as that category",
                        UserWarning,
                        stacklevel=3,
                    )
                kind = np.dtype(object if isinstance(column, Categories) else np.float64)
                parts += _COLUMNS[type(column)](graph, column, graph.input(name, kind, [1]))
    matrix = parts[0] if len(parts) == 1 else graph.apply("Concat", *parts, axis=1)
    return matrix if dtype == np.float32 else graph.cast(matrix, dtype)


def _numbers(graph: _Graph, column: Numbers, x: str) -> list[str]:
    kept = x if len(column.kept) == len(column.mean) else graph.columns(x, column.kept)
    scores = graph.apply("Sub", kept, graph.constant(column.mean[column.kept]))
    scores = graph.apply("Div", scores, graph.constant(column.scale[column.kept]))
    parts = [_present(graph, kept, graph.apply("Clip", scores, *map(graph.constant, (-_LARGEST, _LARGEST))))]
    if column.missing:
        absent = graph.apply("IsNaN", graph.columns(x, column.missing))
        parts.append(graph.cast(absent, np.float32))
    return parts


def _categories(graph: _Graph, column: Categories, x: str) -> list[str]:
    index: dict[Any, int] = column.positions()
    missing = index.pop(None)
    index.setdefault("", missing)
    found = graph.apply(
        "LabelEncoder",
        x,
        domain="ai.onnx.ml",
        keys_strings=list(index),
        values_int64s=list(index.values()),
        default_int64=column.unseen,
    )
    places = graph.constant(np.arange(column.width, dtype=np.int64)[None])
    return [graph.cast(graph.apply("Equal", found, places), np.float32)]


def _times(graph: _Graph, column: Times, x: str) -> list[str]:
    phase = graph.apply("Div", x, graph.constant(_DAY))
    return [_present(graph, x, part) for part in _circle(graph, phase)] + _indicator(graph, x, column.missing)


def _datetimes(graph: _Graph, column: Datetimes, x: str) -> list[str]:
    days = graph.apply("Div", _filled(graph, x, x), graph.constant(_DAY))
    week = graph.apply("Div", graph.apply("Add", days, graph.constant(3.0)), graph.constant(7.0))
    phases = {"year": _phase_in_year(graph, days), "week": week, "day": days}
    scores = graph.apply("Sub", days, graph.constant(column.mean))
    parts = [graph.apply("Div", scores, graph.constant(column.scale))]
    for cycle in column.cycles:
        parts += _circle(graph, phases[cycle])
    return [_present(graph, x, part) for part in parts] + _indicator(graph, x, column.missing)


_COLUMNS: dict[type[Column], Callable[..., list[str]]] = {
    Numbers: _numbers,
    Categories: _categories,
    Times: _times,
    Datetimes: _datetimes,
}


def _filled(graph: _Graph, x: str, value: str) -> str:
    """Put 0 where x is missing."""
    return graph.apply("Where", graph.apply("IsNaN", x), graph.constant(0.0), value)


def _present(graph: _Graph, x: str, encoded: str) -> str:
    """Return what is encoded in float32, 0 where x is missing."""
    return graph.cast(_filled(graph, x, encoded), np.float32)


def _indicator(graph: _Graph, x: str, missing: bool) -> list[str]:
    return [graph.cast(graph.apply("IsNaN", x), np.float32)] if missing else []


def _circle(graph: _Graph, phase: str) -> list[str]:
    """Return sine and cosine of a phase whose period is 1."""
    rest = graph.apply("Sub", phase, graph.apply("Floor", phase))
    angle = graph.apply("Mul", rest, graph.constant(2.0 * np.pi))
    return [graph.apply("Sin", angle), graph.apply("Cos", angle)]


def _phase_in_year(graph: _Graph, days: str) -> str:
    """Return how much of its calendar year has passed, by the Gregorian rule of leap years."""

    def floor_of(value: str, divisor: float) -> str:
        return graph.apply("Floor", graph.apply("Div", value, graph.constant(divisor)))

    def new_year(before: str) -> str:
        """Return the day on which the year after so many years begins."""
        total = graph.apply("Mul", before, graph.constant(365.0))
        for operator, divisor in (("Add", 4.0), ("Sub", 100.0), ("Add", 400.0)):
            total = graph.apply(operator, total, floor_of(before, divisor))
        return graph.apply("Sub", total, graph.constant(_EPOCH))

    def moved(before: str, by: float, condition: str) -> str:
        return graph.apply("Where", condition, graph.apply("Add", before, graph.constant(by)), before)

    day = graph.apply("Floor", days)
    guess = floor_of(graph.apply("Add", day, graph.constant(_EPOCH)), 365.2425)
    years = moved(guess, -1.0, graph.apply("Greater", new_year(guess), day))
    following = new_year(graph.apply("Add", years, graph.constant(1.0)))
    years = moved(years, 1.0, graph.apply("GreaterOrEqual", day, following))
    start, stop = new_year(years), new_year(graph.apply("Add", years, graph.constant(1.0)))
    return graph.apply("Div", graph.apply("Sub", days, start), graph.apply("Sub", stop, start))
