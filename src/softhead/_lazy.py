"""The classifiers on dask collections: recognised by their type's module, and dask is imported inside the call."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from softhead._problem import check_total, penalty
from softhead._weights import class_factors
from softhead.linear.contract import Objective
from softhead.linear.objective import LinearSoftmaxObjective


class LazyRows(NamedTuple):
    """Checked rows on their workers, with their classes and weights."""

    rows: Any  # DaskRows
    classes: np.ndarray
    by_class: np.ndarray  # the weight of each class, with its factor

    @classmethod
    def read(cls, estimator: Any, X: Any, y: Any, sample_weight: Any) -> "LazyRows":
        """Return the rows that an estimator is to be fitted to, and set what it notes about its features.

        Raises
        ------
        ValueError
            As for arrays in memory; what is wrong in a chunk is named by the numbers of the chunk and of its row.
        """
        from softhead.linear.dask import DaskRows

        if y is None:
            raise ValueError("y: None; the labels of the rows are needed")
        _check_table(X)
        rows, survey = DaskRows.read(X, y, sample_weight)
        # As in rows: where most labels were different, it would take them for measurements.
        check_classification_targets(np.repeat(survey.labels, 3))
        factors = class_factors(estimator.class_weight, survey.labels, survey.labels, survey.weights)
        if hasattr(X, "columns"):
            validate_data(estimator, X._meta, skip_check_array=True)
        else:
            validate_data(estimator, np.empty((1, rows.n_features)), skip_check_array=True)
        by_class = survey.weights * factors
        check_total(survey.labels, float(by_class.sum()))
        return cls(rows.encoded(survey, factors), survey.labels, by_class)

    def objective(self, *, C: float, fit_intercept: bool) -> Objective:
        """Return the objective of the rows."""
        from softhead.linear.dask import DaskObjective

        total, n_classes = float(self.by_class.sum()), len(self.classes)
        chunk = self.rows.sample()
        sample = LinearSoftmaxObjective(
            chunk.X,
            chunk.y,
            n_classes=n_classes,
            sample_weight=chunk.weight if chunk.weight.any() else None,
            fit_intercept=fit_intercept,
        )
        return DaskObjective(self.rows, sample, total_weight=total, l2=penalty(C, total, n_classes))

    def folds(self, cv: Any, groups: Any) -> Iterator[tuple[int, int]]:
        """Yield the number of each fold, with that of all: rows are dealt out to them in turn."""
        if groups is not None or not (cv is None or (isinstance(cv, int | np.integer) and cv >= 2)):
            raise ValueError(
                f"cv: {cv!r}{'' if groups is None else ' with groups'}; accepted for dask collections is a number of "
                "folds from 2 on, or None, without groups"
            )
        n_folds = 5 if cv is None else int(cv)
        yield from ((k, n_folds) for k in range(n_folds))

    def fold(self, members: tuple[int, int], scoring: Any) -> tuple["LazyRows", Callable[[Any], float], int]:
        """Return the rows to fit, and what scores a model on the others, with their number."""
        if scoring not in ("neg_log_loss", "accuracy", None):
            raise ValueError(
                f"scoring: {scoring!r}; accepted for dask collections are 'neg_log_loss', 'accuracy', None"
            )
        train, test = self.rows.fold(*members)
        fitted = LazyRows(train, self.classes, train.weights_of_classes(len(self.classes)))
        accuracy = scoring != "neg_log_loss"
        return fitted, lambda model: test.score(bare_model(model), accuracy=accuracy), test.n_rows


def bare_model(model: Any) -> Any:
    """Return a model that predicts the same, without names of features, which chunks and blocks do not have."""
    bare = type(model)()
    for name in ("classes_", "coef_", "intercept_", "n_features_in_", "temperature_"):
        setattr(bare, name, getattr(model, name))
    return bare


def lazy_accuracy(model: Any, X: Any, y: Any, sample_weight: Any) -> float:
    """Return the weighted share of the rows of a dask collection whose class a fitted model predicts.

    Raises
    ------
    ValueError
        As in `fit`, and where a label is not among the classes of the model: with the numbers of its chunk and row.
    """
    from softhead.linear.dask import DaskRows

    _check_table(X)
    validate_data(model, X._meta if hasattr(X, "columns") else X, skip_check_array=True, reset=False)
    rows, survey = DaskRows.read(X, y, sample_weight)
    known = survey._replace(labels=model.classes_)
    return rows.encoded(known, np.ones(len(model.classes_))).score(bare_model(model), accuracy=True)


def lazily(model: Any, method: str, X: Any) -> Any:
    """Return the dask array of what a method of a fitted model says of the rows of `X`: nothing is computed."""
    from softhead.linear.dask import over_rows

    _check_table(X)
    table = hasattr(X, "columns")
    validate_data(model, X._meta if table else X, skip_check_array=True, reset=False)
    bare = bare_model(model)
    n_classes = len(model.classes_)
    if method == "predict":
        return over_rows(X, bare, method, None, model.classes_.dtype)
    kinds = X.dtypes if table else [X.dtype]
    kind = np.float32 if all(kind == np.float32 for kind in kinds) else np.float64
    width = None if method == "decision_function" and n_classes == 2 else n_classes
    return over_rows(X, bare, method, width, np.result_type(kind, model.coef_.dtype))


def _check_table(X: Any) -> None:
    """Raise on a table with columns that are not numbers."""
    for name, dtype in X.dtypes.items() if hasattr(X, "columns") else ():
        kind = getattr(dtype, "numpy_dtype", dtype)  # of pandas' own types
        if getattr(kind, "kind", "O") not in "biuf":
            raise ValueError(
                f"X: the column {name!r} is of the dtype {dtype}; accepted are numbers. TableEncoder makes numbers of "
                "a table: make_pipeline(TableEncoder(), classifier)"
            )
