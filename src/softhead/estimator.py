"""The classifier: scikit-learn's interface around the objective, the solver and its certificate."""

import itertools
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Real
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_scalar
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from softhead._checkpoint import CheckpointFile, digest
from softhead._classifier_state import classifier_from_state, classifier_to_state
from softhead._device import DeviceRows
from softhead._problem import check_flag, check_stopping, linear_problem, logits_by_block, public_coefficients
from softhead._streamed import accuracy, apply_elsewhere, is_elsewhere, read_elsewhere
from softhead._tensors import TorchHead, answers_tensors, fits_tensors, is_on_device, on_host
from softhead._weights import class_factors, factors_of_counts, row_weights, sorted_labels
from softhead.functional import log_softmax, softmax
from softhead.linear.contract import Objective
from softhead.linear.solution import Callback, Progress, Status
from softhead.linear.solver import solve

logger = logging.getLogger("softhead")


class SoftmaxClassifier(TorchHead, CallbackSupportMixin, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    r"""The L2-regularised linear softmax classifier, trained to a certified optimum.

    Minimises, over weights :math:`W` (n_classes, n_features) and unpenalised intercepts :math:`b`,

    .. math:: F(W, b) = \frac{1}{\sum_i s_i} \sum_i s_i \,\mathrm{CE}\big(y_i, \mathrm{softmax}(W x_i + b)\big)
        + \frac{\lambda}{2} \lVert W \rVert^2, \qquad \lambda = \frac{1}{C \sum_i s_i},

    which is the optimum of scikit-learn's ``LogisticRegression`` with the same ``C``, ``class_weight`` and
    ``sample_weight``. Two classes are one penalised vector of weights.

    Parameters
    ----------
    C : float, default=1.0
        Inverse strength of the penalty, positive; ``inf`` means no penalty.
    fit_intercept : bool, default=True
    class_weight : dict, "balanced" or None, default=None
        Factors on the rows' weights by class; "balanced" makes every class weigh the same.
    tol : float, default=1e-4
        The fit has converged when ``gap_ <= tol * max(objective_, 1e-10)``. Without a penalty no finite bound on the
        gap exists, and the decrease that the solver's quadratic model predicts takes its place.
    max_iter : int, default=1000
        Iterations of the solver at most.
    warm_start : bool, default=False
        Start from the coefficients of the previous fit, where classes and features are the same.
    checkpoint : str or path-like, default=None
        A file in which a fit leaves its state every few passes. A fit that finds it, after the process was killed, goes
        on from there and ends with the same coefficients to the last bit; one on other rows or with other parameters
        is refused (a larger `max_iter` is not). The file is removed when a fit ends, but kept where `max_iter` or
        Ctrl-C ended it.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    coef_ : ndarray of shape (n_classes, n_features), or (1, n_features) for two classes
    intercept_ : ndarray of shape (n_classes,), or (1,) for two classes
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Where the features had names that are all strings.
    n_iter_ : ndarray of shape (1,)
    n_passes_ : float
        Reads of the data; one that takes only logits counts half.
    objective_ : float
        The value of F at the fitted coefficients, from float64 products.
    gap_ : float
        A certified upper bound on ``objective_`` minus the minimum of F, from a point of the Fenchel dual; ``inf``
        without a penalty.
    temperature_ : float
        What the logits are divided by for probabilities: 1.0 after a fit; `calibrate` finds a better one.
    status_ : str
        "converged", "precision_limit" (rounding in the dtype of the coefficients allows no more), "max_iter",
        "interrupted", or "imported" after `from_torch`.

    Warns
    -----
    ConvergenceWarning
        If a fit ends with another status than "converged".

    Notes
    -----
    float32 features give float32 coefficients; the certificate holds for these. Memory beyond the features is one
    block of rows and some arrays of the size of the coefficients, never rows times classes; a sparse matrix of at most
    2,048 columns is made dense where that takes at most 1 GB. Ctrl-C during a fit leaves
    the best model so far in the fitted attributes, with ``status_`` "interrupted", and raises KeyboardInterrupt.
    scikit-learn callbacks see one task an iteration, whose ``fitted_estimator`` is the model so far: it predicts, and
    has ``n_passes_``, ``objective_`` and ``gap_``.

    Tensors of PyTorch on the CPU are read where they are. Under ``sklearn.set_config(array_api_dispatch=True)`` what is
    fitted and predicted are tensors as well, on the device of X. Rows on another device than the CPU stay there, and so
    does all that is as long: float32 products are taken in TF32 on CUDA until these show no more, then in float64, on
    which the certificate rests. `checkpoint` serves there too, for the same kind of device and version of PyTorch.

    References
    ----------
    Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2nd ed., section 4.4.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from softhead import SoftmaxClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = SoftmaxClassifier(tol=1e-8).fit(X, y)
    >>> model.status_, bool(model.gap_ <= 1e-8 * model.objective_)
    ('converged', True)
    >>> model.predict_proba(X[:2]).round(3)
    array([[0.982, 0.018, 0.   ],
           [0.971, 0.029, 0.   ]])
    """

    def __init__(
        self,
        C: float = 1.0,
        *,
        fit_intercept: bool = True,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        tol: float = 1e-4,
        max_iter: int = 1000,
        warm_start: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        self.C = C
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.checkpoint = checkpoint

    @fits_tensors
    @with_callbacks  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the model to rows and their classes.

        Parameters
        ----------
        X : array-like, sparse matrix or dataframe of shape (n_rows, n_features), or RowSource
            Finite numbers; float32 stays float32, anything else is computed in float64. A `RowSource`, of `open_rows`
            for instance, is read block by block, once for each pass: its rows need not fit in memory. A dask array or
            dataframe is kept on its workers, and every pass is made there; predictions for one are dask arrays.
        y : array-like of shape (n_rows,)
            Classes: strings, integers or booleans. None for a `RowSource`, whose blocks have them. A dask array or
            series beside a dask collection, divided as this is.
        sample_weight : array-like of shape (n_rows,), optional
            Non-negative weights with a positive sum; 1 by default.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            On features that are not finite, fewer than two classes, or invalid weights or parameters.
        """
        self._check_parameters()
        if is_elsewhere(X):
            rows = read_elsewhere(self, X, y, sample_weight)
            objective = rows.objective(C=float(self.C), fit_intercept=bool(self.fit_intercept))
            return self._solve(objective, rows.classes, {"X": X, "y": y})
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=(np.float64, np.float32))
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        weight = row_weights(sample_weight, X)
        by_class = class_factors(self.class_weight, classes, y, weight)
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        seen = {"X": X, "y": y, "metadata": metadata}
        return self._fit(X, codes, weight * by_class[codes], classes, seen)

    @fits_tensors
    @with_callbacks  # type: ignore[untyped-decorator]
    def fit_proba(self, X: Any, probabilities: Any, *, classes: Any = None, sample_weight: Any = None) -> Self:
        """Fit the model to rows and distributions over the classes: soft labels.

        Equals `fit` on every row repeated once a class, with the probabilities as weights.

        Parameters
        ----------
        X : array-like, sparse matrix or dataframe of shape (n_rows, n_features)
        probabilities : array-like of shape (n_rows, n_classes)
            Non-negative; every row sums to 1 (up to 1e-4, then normalised).
        classes : array-like of shape (n_classes,), optional
            The sorted labels of the columns; 0 to n_classes - 1 by default.
        sample_weight : array-like of shape (n_rows,), optional

        Returns
        -------
        self

        Raises
        ------
        ValueError
            As `fit`, and on probabilities that are negative or do not sum to 1, or classes that are not sorted and
            different.
        """
        self._check_parameters()
        if is_on_device(X):
            rows = DeviceRows.read_distributions(self, X, probabilities, classes, sample_weight)
            objective = rows.objective(C=float(self.C), fit_intercept=bool(self.fit_intercept))
            return self._solve(objective, rows.classes, {"X": X})
        if is_elsewhere(X):
            raise TypeError(f"X: a {type(X).__name__}; accepted for probabilities are rows in memory")
        X = validate_data(self, X, accept_sparse="csr", dtype=(np.float64, np.float32))
        targets = check_array(probabilities, dtype=X.dtype, input_name="probabilities", copy=True)
        if len(targets) != X.shape[0]:
            raise ValueError(f"probabilities: {len(targets)} rows for {X.shape[0]} rows of X")
        total = targets.sum(axis=1, dtype=np.float64)
        wrong = (targets < 0.0).any(axis=1) | (np.abs(total - 1.0) > 1e-4)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"probabilities: row {row} has the minimum {targets[row].min():g} and the sum {total[row]:g}; "
                "rows must be non-negative and sum to 1"
            )
        labels = sorted_labels(classes, targets.shape[1])
        weight = row_weights(sample_weight, X)
        by_class = factors_of_counts(self.class_weight, labels, (weight / total) @ targets)
        targets *= by_class  # -sum_c w_c q_c log p_c is the loss of the distribution w q / sum(w q), times sum(w q)
        mass = targets.sum(axis=1, dtype=np.float64)
        np.divide(targets, mass[:, None], out=targets, where=mass[:, None] > 0.0, casting="same_kind")
        return self._fit(X, targets, weight * mass / total, labels, {"X": X})

    @answers_tensors
    def decision_function(self, X: Any) -> np.ndarray:
        """Return the logits.

        Parameters
        ----------
        X : array-like, sparse matrix or dataframe of shape (n_rows, n_features)

        Returns
        -------
        ndarray of shape (n_rows, n_classes), or (n_rows,) for two classes: the logit of the second one.
        """
        if is_elsewhere(X):
            return apply_elsewhere(self, "decision_function", X)
        X = self._check_rows(X)
        scores = np.empty((X.shape[0], len(self.coef_)), np.result_type(X.dtype, self.coef_.dtype))
        for rows, block in logits_by_block(X, self.coef_, self.intercept_):
            scores[rows] = block
        return scores[:, 0] if len(self.classes_) == 2 else scores

    @answers_tensors
    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of each row, in bounded memory.

        Parameters
        ----------
        X : array-like, sparse matrix or dataframe of shape (n_rows, n_features)

        Returns
        -------
        ndarray of shape (n_rows,), of the type of `classes_`
        """
        if is_elsewhere(X):
            return apply_elsewhere(self, "predict", X)
        X = self._check_rows(X)
        best = np.empty(X.shape[0], np.intp)
        for rows, scores in logits_by_block(X, self.coef_, self.intercept_):
            best[rows] = scores[:, 0] > 0.0 if scores.shape[1] == 1 else scores.argmax(axis=1)
        return self.classes_[best]

    @answers_tensors
    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of the classes: the softmax of the logits over `temperature_`.

        Parameters
        ----------
        X : array-like, sparse matrix or dataframe of shape (n_rows, n_features)

        Returns
        -------
        ndarray of shape (n_rows, n_classes)
        """
        return apply_elsewhere(self, "predict_proba", X) if is_elsewhere(X) else self._map(softmax, X)

    @answers_tensors
    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithms of the probabilities, exact also where these are close to 0 or 1.

        Parameters
        ----------
        X : array-like, sparse matrix or dataframe of shape (n_rows, n_features)

        Returns
        -------
        ndarray of shape (n_rows, n_classes)
        """
        return apply_elsewhere(self, "predict_log_proba", X) if is_elsewhere(X) else self._map(log_softmax, X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the accuracy: the share of the rows whose class is predicted.

        Parameters
        ----------
        X : array-like, sparse matrix or dataframe of shape (n_rows, n_features), or RowSource
        y : array-like of shape (n_rows,)
            Their classes; None for a `RowSource`.
        sample_weight : array-like of shape (n_rows,), optional

        Returns
        -------
        float
        """
        if is_elsewhere(X):
            return accuracy(self, X, y, sample_weight)
        return float(super().score(X, y, sample_weight))

    def to_state(self) -> dict[str, object]:
        """Return the fitted model as plain values and arrays, for the model file."""
        check_is_fitted(self)
        return classifier_to_state(on_host(self))

    @classmethod
    def from_state(cls, state: object) -> Self:
        """Return the model that `to_state` described; ValueError on a state that it could not have given."""
        model = classifier_from_state(cls, state)
        model._check_parameters()
        return model

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags

    def _check_parameters(self) -> None:
        """Raise on parameters outside their ranges."""
        check_scalar(self.C, "C", Real, min_val=0.0, include_boundaries="neither")
        if np.isnan(self.C):
            raise ValueError("C == nan, must be a number")
        check_stopping(self.tol, self.max_iter)
        check_flag(self.fit_intercept, "fit_intercept")
        check_flag(self.warm_start, "warm_start")

    def _check_rows(self, X: Any) -> Any:
        check_is_fitted(self)
        return validate_data(self, X, accept_sparse="csr", dtype=(np.float64, np.float32), reset=False)

    def _map(self, function: Callable[..., np.ndarray], X: Any) -> np.ndarray:
        """Return softmax or its logarithm of the logits, one a class, for two classes as well."""
        X = self._check_rows(X)
        result = np.empty((X.shape[0], len(self.classes_)), np.result_type(X.dtype, self.coef_.dtype))
        for rows, scores in logits_by_block(X, self.coef_, self.intercept_):
            logits = np.concatenate([np.zeros_like(scores), scores], axis=1) if scores.shape[1] == 1 else scores
            result[rows] = function(logits, temperature=self.temperature_)
        return result

    def _fit(self, X: Any, targets: np.ndarray, weight: np.ndarray, classes: np.ndarray, seen: dict[str, Any]) -> Self:
        """Solve for `coef_` and `intercept_` and set the fitted attributes; callbacks are shown `seen`."""
        objective = linear_problem(X, targets, weight, classes, C=float(self.C), fit_intercept=bool(self.fit_intercept))
        return self._solve(objective, classes, seen)

    def _solve(self, objective: Objective, classes: np.ndarray, seen: dict[str, Any]) -> Self:
        """Solve, and set the fitted attributes; callbacks are shown `seen`."""
        start = self._start(objective, classes)
        checkpoint = None if self.checkpoint is None else self._checkpoint(objective, classes, start)
        context = self._init_callback_context(max_subtasks=None).call_on_fit_task_begin(estimator=self, **seen)
        solution = solve(
            objective,
            objective.placed(start),
            tol=float(self.tol),
            max_iter=int(self.max_iter),
            callback=self._report_to(context, objective, classes, seen) if hasattr(self, "_skl_callbacks") else None,
            checkpoint=checkpoint,
        )
        progress = Progress(solution.passes, solution.value, solution.gap)
        fitted = fitted_attributes(objective, solution.coef, classes, solution.n_iter, progress, solution.status)
        for name, value in fitted.items():
            setattr(self, name, value)
        context.call_on_fit_task_end(estimator=self, **seen, reconstruction_attributes=fitted)
        logger.info(
            "%s after %d iterations, %.1f passes: objective %.9g, gap %.2g",
            *(solution.status, solution.n_iter, solution.passes, solution.value, solution.gap),
        )
        if checkpoint is not None and solution.status in ("converged", "precision_limit"):
            checkpoint.remove()
        if solution.status == "interrupted":
            raise KeyboardInterrupt
        if solution.status != "converged":
            wider = "or float64 features help" if objective.dtype == np.float32 else "helps"
            reason, cure = {
                "max_iter": (f"stopped at max_iter={self.max_iter}", "More iterations or a larger tol help"),
                "precision_limit": (f"reached the limit of {objective.dtype}", f"A larger tol {wider}"),
            }[solution.status]
            warnings.warn(
                f"SoftmaxClassifier {reason} with objective_={solution.value:.6g} and gap_={solution.gap:.2g}, above "
                f"tol={self.tol:g} times the objective. {cure}; without a penalty (C=inf), classes that a hyperplane "
                "separates have no optimum.",
                ConvergenceWarning,
                stacklevel=6,
            )
        return self

    def _start(self, objective: Objective, classes: np.ndarray) -> np.ndarray:
        """Return the first coefficients: those of the last fit in a warm start, else zeros."""
        start = np.zeros(objective.shape)
        if self.warm_start and hasattr(self, "coef_") and np.array_equal(self.classes_, classes):
            coef, intercept = self.coef_, self.intercept_
            if len(classes) == 2:
                coef, intercept = np.concatenate([-coef, coef]) / 2.0, np.concatenate([-intercept, intercept]) / 2.0
            weights, intercepts = objective.split(start)
            if coef.shape == weights.shape:
                weights[...] = coef
                intercepts[...] = intercept
        return start

    def _checkpoint(self, objective: Objective, classes: np.ndarray, start: np.ndarray) -> CheckpointFile:
        """Return the file for the states of a fit, with what these depend on."""
        settings = {
            "the number of rows": objective.n_rows,
            "the number of features": objective.n_features,
            "the classes": repr(classes.tolist()) if len(classes) <= 20 else f"{len(classes)}, {digest(classes)}",
            "the dtype": objective.precision,
            "C": float(self.C),
            "fit_intercept": bool(self.fit_intercept),
            "class_weight": repr(self.class_weight),
            "tol": float(self.tol),
            "the penalty": objective.l2,
            "the start": digest(start) if start.any() else "zero",
        }
        assert self.checkpoint is not None
        return CheckpointFile(self.checkpoint, settings)

    def _report_to(self, context: Any, objective: Objective, classes: np.ndarray, seen: dict[str, Any]) -> Callback:
        """Return a solver callback that shows scikit-learn's callbacks the model of every iteration."""
        counter = itertools.count()

        def report(progress: Progress, coef: np.ndarray) -> None:
            task = context.subcontext(task_name="iteration")
            state = partial(fitted_attributes, objective, coef, classes, next(counter), progress, "interrupted")
            task.call_on_fit_task_begin(estimator=self, **seen, reconstruction_attributes=state)
            task.call_on_fit_task_end(estimator=self, **seen, reconstruction_attributes=state)

        return report


def fitted_attributes(
    objective: Objective,
    coef: np.ndarray,
    classes: np.ndarray,
    n_iter: int,
    progress: Progress,
    status: Status,
) -> dict[str, Any]:
    """Return the fitted attributes of an estimator with these coefficients."""
    coef, intercept = public_coefficients(objective, coef)
    return {
        "classes_": classes,
        "coef_": coef,
        "intercept_": intercept,
        "n_iter_": np.array([n_iter], np.int32),
        "n_passes_": progress.passes,
        "objective_": progress.value,
        "gap_": progress.gap,
        "status_": status,
        "temperature_": 1.0,
    }
