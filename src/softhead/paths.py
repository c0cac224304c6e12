"""The softmax classifier under many penalties at once: its regularisation path, every point of it certified."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from sklearn import get_config
from sklearn.base import clone
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from softhead._device import DeviceRows
from softhead._problem import check_flag, check_stopping, linear_problem, penalty, penalty_grid, public_coefficients
from softhead._tensors import is_foreign, is_on_device, sent, to_numpy
from softhead._weights import class_factors, row_weights
from softhead.estimator import SoftmaxClassifier
from softhead.linear.contract import Objective
from softhead.linear.path import solve_path


@dataclass(frozen=True)
class SoftmaxPath:
    """Classifiers under several penalties, with the evidence for each.

    Attributes
    ----------
    Cs : ndarray of shape (n_Cs,)
        Inverse strengths of the penalty, in the order in which they were given.
    classes : ndarray of shape (n_classes,)
    coefs : ndarray of shape (n_Cs, n_classes, n_features), or (n_Cs, 1, n_features) for two classes
    intercepts : ndarray of shape (n_Cs, n_classes), or (n_Cs, 1) for two classes
    objectives : ndarray of shape (n_Cs,)
        The objective of `SoftmaxClassifier` at each C, from float64 products.
    gaps : ndarray of shape (n_Cs,)
        Certified upper bounds on ``objectives`` minus their minima; inf where C is.
    statuses : list of str
        "converged", "precision_limit" or "max_iter", as of `SoftmaxClassifier`.
    n_iter : ndarray of shape (n_Cs,)
    passes : ndarray of shape (n_Cs,)
        Reads of the data for each C; one that takes only logits counts half.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from softhead import softmax_path
    >>> X, y = load_iris(return_X_y=True)
    >>> path = softmax_path(X, y, Cs=[0.1, 1.0, 10.0])
    >>> model = path.classifier(1)
    >>> model.C, model.score(X, y) > 0.9
    (1.0, True)
    """

    Cs: np.ndarray
    classes: np.ndarray
    coefs: np.ndarray
    intercepts: np.ndarray
    objectives: np.ndarray
    gaps: np.ndarray
    statuses: list[str]
    n_iter: np.ndarray
    passes: np.ndarray
    _template: SoftmaxClassifier = field(repr=False)  # its parameters, and the names of features

    def classifier(self, index: int) -> SoftmaxClassifier:
        """Return the fitted classifier under the penalty ``Cs[index]``."""
        model: SoftmaxClassifier = clone(self._template).set_params(C=float(self.Cs[index]))
        model.classes_, model.n_features_in_ = self.classes, self.coefs.shape[2]
        if hasattr(self._template, "feature_names_in_"):
            model.feature_names_in_ = self._template.feature_names_in_
        model.coef_, model.intercept_ = self.coefs[index], self.intercepts[index]
        model.n_iter_ = self.n_iter[index : index + 1].astype(np.int32)
        model.n_passes_, model.objective_ = float(self.passes[index]), float(self.objectives[index])
        model.gap_, model.status_, model.temperature_ = float(self.gaps[index]), self.statuses[index], 1.0
        return model


def softmax_path(
    X: Any,
    y: Any,
    *,
    Cs: int | Sequence[float] | np.ndarray = 10,
    fit_intercept: bool = True,
    class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
    sample_weight: Any = None,
    tol: float = 1e-4,
    max_iter: int = 1000,
) -> SoftmaxPath:
    r"""Fit a softmax classifier under each of many penalties, each from what its neighbours have shown.

    For every :math:`C` the minimum, certified, of the objective of `SoftmaxClassifier`,

    .. math:: \frac{1}{\sum_i s_i} \sum_i s_i \,\mathrm{CE}\big(y_i, \mathrm{softmax}(W x_i + b)\big)
        + \frac{1}{2 C \sum_i s_i} \lVert W \rVert^2 .

    Parameters
    ----------
    X : array-like, sparse matrix or dataframe of shape (n_rows, n_features)
        Finite numbers; float32 stays float32, anything else is computed in float64.
    y : array-like of shape (n_rows,)
        Classes: strings, integers or booleans.
    Cs : int or array-like of shape (n_Cs,), default=10
        Inverse strengths of the penalty, positive, in any order; ``inf`` means none. An integer stands for as many
        from 1e-4 to 1e4, evenly in their logarithm.
    fit_intercept : bool, default=True
    class_weight : dict, "balanced" or None, default=None
        Factors on the rows' weights by class; "balanced" makes every class weigh the same.
    sample_weight : array-like of shape (n_rows,), optional
        Non-negative weights with a positive sum; 1 by default.
    tol : float, default=1e-4
        A fit has converged when its gap is at most `tol` times its objective.
    max_iter : int, default=1000
        Iterations of the solver for each C at most.

    Returns
    -------
    SoftmaxPath
        Its arrays are in the order of `Cs`.

    Raises
    ------
    ValueError
        On features that are not finite, fewer than two classes, or invalid weights or parameters.
    TypeError
        On parameters of another type.

    Notes
    -----
    A C that is not solved to `tol` is told by its status and its gap, not by a warning. Memory beyond the features is
    that of the coefficients for all C, and what one fit takes. Of tensors, as `SoftmaxClassifier` takes them under
    scikit-learn's array API dispatch, coefficients, intercepts and classes are tensors too.

    References
    ----------
    Warm starts along a path: Friedman, Hastie and Tibshirani, "Regularization Paths for Generalized Linear Models via
    Coordinate Descent", Journal of Statistical Software 33(1), 2010. Here the starts are extrapolated besides, and the
    solver's knowledge of the curvature is carried along: see the design notes.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from softhead import softmax_path
    >>> X, y = load_iris(return_X_y=True)
    >>> path = softmax_path(X, y, Cs=20)
    >>> path.coefs.shape, set(path.statuses)
    ((20, 3, 4), {'converged'})
    >>> bool((path.gaps <= 1e-4 * path.objectives).all())
    True
    """
    check_stopping(tol, max_iter)
    fit_intercept = check_flag(fit_intercept, "fit_intercept")
    grid = penalty_grid(Cs)
    template = SoftmaxClassifier(
        fit_intercept=fit_intercept, class_weight=class_weight, tol=float(tol), max_iter=int(max_iter)
    )
    objective, classes = _problem(template, X, y, sample_weight)
    order = np.argsort(grid, kind="stable")
    l2s = [penalty(C, objective.total_weight, len(classes)) for C in grid[order]]
    rows = 1 if len(classes) == 2 else len(classes)
    n = len(grid)
    path = SoftmaxPath(
        grid,
        classes,
        np.empty((n, rows, objective.n_features), objective.dtype),
        np.empty((n, rows), objective.dtype),
        np.empty(n),
        np.empty(n),
        [""] * n,
        np.empty(n, np.intp),
        np.empty(n),
        template,
    )
    for index, solution in zip(order, solve_path(objective, l2s, tol=tol, max_iter=max_iter), strict=False):
        if solution.status == "interrupted":
            raise KeyboardInterrupt
        path.coefs[index], path.intercepts[index] = public_coefficients(objective, solution.coef)
        path.objectives[index], path.gaps[index] = solution.value, solution.gap
        path.n_iter[index], path.passes[index] = solution.n_iter, solution.passes
        path.statuses[index] = solution.status
    if not get_config()["array_api_dispatch"]:
        return path
    return replace(path, coefs=sent(path.coefs, X), intercepts=sent(path.intercepts, X), classes=sent(path.classes, y))


def _problem(template: SoftmaxClassifier, X: Any, y: Any, sample_weight: Any) -> tuple[Objective, np.ndarray]:
    """Return the unpenalised objective of rows, and their classes; the template notes their features."""
    fit_intercept = template.fit_intercept
    if is_on_device(X):
        rows = DeviceRows.read(template, X, y, sample_weight)
        return rows.objective(C=np.inf, fit_intercept=fit_intercept), rows.classes
    named = (("X", X), ("y", y), ("sample_weight", sample_weight))
    X, y, sample_weight = (to_numpy(name, value) if is_foreign(value) else value for name, value in named)
    X, y = validate_data(template, X, y, accept_sparse="csr", dtype=(np.float64, np.float32))
    check_classification_targets(y)
    classes, codes = np.unique(y, return_inverse=True)
    weight = row_weights(sample_weight, X)
    weight *= class_factors(template.class_weight, classes, y, weight)[codes]
    return linear_problem(X, codes, weight, classes, C=np.inf, fit_intercept=fit_intercept), classes
