"""The classifier that chooses its penalty: cross-validation over a path of them."""

import logging
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import check_cv
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from softhead._device_folds import DeviceFolds, score_on_device, score_on_host
from softhead._lazy import LazyRows
from softhead._problem import check_flag, check_stopping, linear_problem, penalty, penalty_grid
from softhead._scoring import Scorer, scorer_of
from softhead._series import is_lazy
from softhead._streamed import is_elsewhere
from softhead._tensors import fits_tensors, is_on_device
from softhead._weights import class_factors, row_weights
from softhead.estimator import SoftmaxClassifier, fitted_attributes
from softhead.linear.contract import Objective
from softhead.linear.objective import LinearSoftmaxObjective
from softhead.linear.path import solve_path
from softhead.linear.path_metric import PathMetric
from softhead.linear.solution import Progress, Solution
from softhead.linear.solver import solve

logger = logging.getLogger("softhead")


class SoftmaxClassifierCV(CallbackSupportMixin, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A `SoftmaxClassifier` with the inverse penalty C chosen by cross-validation.

    On the training rows of every fold the classifier is fitted under every penalty, to a certified optimum, and scored
    on the other rows. The C of the best mean score (the smallest such) is then fitted to all rows. It stands in for
    scikit-learn's ``LogisticRegressionCV`` with an L2 penalty, whose names and shapes of attributes it has (those of
    ``use_legacy_attributes=False``; the axis of the L1 ratios has the length 1).

    Parameters
    ----------
    Cs : int or array-like of shape (n_Cs,), default=10
        Inverse strengths of the penalty, positive; ``inf`` means none. An integer stands for as many from 1e-4 to 1e4,
        evenly in their logarithm.
    cv : int, splitter, iterable of (train, test) or None, default=None
        As everywhere in scikit-learn: None is 5 stratified folds, an integer as many. With a ``PredefinedSplit`` one
        validation set decides.
    scoring : str, callable or None, default="neg_log_loss"
        What is maximised: a name or a scorer ``f(estimator, X, y)`` of scikit-learn; None is the accuracy. The log
        loss is taken from log-probabilities, of which none counts as less than log(2.2e-16).
    refit : bool, default=True
        Whether to fit all rows under the chosen C. Otherwise, as in scikit-learn, the coefficients of the best C of
        each fold are averaged, and so are these C.
    fit_intercept : bool, default=True
    class_weight : dict, "balanced" or None, default=None
        Factors on the rows' weights by class; "balanced" makes every class weigh the same over all rows.
    tol : float, default=1e-4
        Relative gap of every fit, as of `SoftmaxClassifier`.
    max_iter : int, default=1000
        Iterations of every fit at most.

    Attributes
    ----------
    C_ : float
        The chosen C.
    Cs_ : ndarray of shape (n_Cs,)
    scores_ : ndarray of shape (n_folds, 1, n_Cs)
    n_iter_ : ndarray of shape (n_folds, 1, n_Cs)
    gaps_ : ndarray of shape (n_folds, 1, n_Cs)
        Certified distances to the optimum, relative to the objective.
    coef_norms_ : ndarray of shape (n_folds, 1, n_Cs)
        Euclidean norms of the coefficients without the intercepts.
    statuses_ : ndarray of str of shape (n_folds, 1, n_Cs)
    classes_ : ndarray of shape (n_classes,)
    coef_ : ndarray of shape (n_classes, n_features), or (1, n_features) for two classes
    intercept_ : ndarray of shape (n_classes,), or (1,) for two classes
    objective_, gap_, status_, temperature_
        Of the coefficients on all rows, as of `SoftmaxClassifier`. Averaged ones are no optimum: "max_iter".
    n_passes_ : float
        Reads of the data in all fits.
    best_estimator_ : SoftmaxClassifier
        The fitted classifier, which predicts; it is what `save` writes.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Where the features had names that are all strings.

    Warns
    -----
    ConvergenceWarning
        Once, if fits ended with another status than "converged".

    Notes
    -----
    Memory beyond the features is a copy of the rows of one fold, its fit, and one path of coefficients.
    Tensors are taken as `SoftmaxClassifier` takes them, folds on their device; what predicts are tensors then, and the
    figures of the fits NumPy's. There the log loss and the accuracy are computed beside the rows; for any other
    `scoring` those to score are copied to the host. A splitter sees labels and no features.
    scikit-learn callbacks see one task for each fold and C, whose ``fitted_estimator`` predicts.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from softhead import SoftmaxClassifierCV
    >>> X, y = load_iris(return_X_y=True)
    >>> model = SoftmaxClassifierCV(Cs=[0.1, 1.0, 10.0, 100.0, 1000.0]).fit(X, y)
    >>> model.C_, model.scores_.shape
    (100.0, (5, 1, 5))
    >>> model.scores_.mean(axis=(0, 1)).round(2)
    array([-0.33, -0.14, -0.07, -0.06, -0.07])
    """

    def __init__(
        self,
        Cs: int | Sequence[float] | np.ndarray = 10,
        *,
        cv: Any = None,
        scoring: str | Scorer | None = "neg_log_loss",
        refit: bool = True,
        fit_intercept: bool = True,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        tol: float = 1e-4,
        max_iter: int = 1000,
    ) -> None:
        self.Cs = Cs
        self.cv = cv
        self.scoring = scoring
        self.refit = refit
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter

    @fits_tensors
    @with_callbacks  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, groups: Any = None) -> Self:
        """Choose C by cross-validation and fit all rows.

        Parameters
        ----------
        X : array-like, sparse matrix, dataframe, dask array or dask dataframe of shape (n_rows, n_features)
            Finite numbers; float32 stays float32, anything else is computed in float64. Of a dask collection, fold k
            of the `cv` (an integer, 5 by default) is scored on every `cv`-th row from row k on, by the log loss or the
            accuracy (`scoring`: None).
        y : array-like of shape (n_rows,)
            Classes: strings, integers or booleans.
        sample_weight : array-like of shape (n_rows,), optional
            Non-negative weights with a positive sum, for fits and scores; 1 by default.
        groups : array-like of shape (n_rows,), optional
            Given to the splitter: rows of a group stay together in splitters that heed them.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            On features that are not finite, fewer than two classes, or invalid weights or parameters.
        """
        check_stopping(self.tol, self.max_iter)
        check_flag(self.fit_intercept, "fit_intercept")
        check_flag(self.refit, "refit")
        Cs = penalty_grid(self.Cs)
        rows: _Rows | LazyRows | DeviceFolds
        if is_lazy(X):
            rows = LazyRows.read(self, X, y, sample_weight)
        elif is_on_device(X):
            rows = DeviceFolds.read(self, X, y, sample_weight)
        else:
            if is_elsewhere(X):
                raise TypeError(f"X: a {type(X).__name__}; accepted are rows in memory and dask collections")
            X, y = validate_data(self, X, y, accept_sparse="csr", dtype=(np.float64, np.float32))
            rows = _Rows.of(self, X, y, sample_weight)
        classes = rows.classes
        # Finds what is wrong with all rows before they are split.
        objective = rows.objective(C=np.inf, fit_intercept=bool(self.fit_intercept))
        folds = list(rows.folds(self.cv, groups))
        if not folds:
            raise ValueError(f"cv: {self.cv!r} gives no folds (an iterator can be used once only)")
        self.__dict__.pop("best_estimator_", None)  # what an interrupted fit leaves is not fitted
        self.classes_, self.Cs_ = classes, Cs
        shape = (len(folds), 1, len(Cs))
        self.scores_, self.gaps_, self.coef_norms_ = np.empty(shape), np.empty(shape), np.empty(shape)
        self.n_iter_, self.statuses_ = np.empty(shape, np.int32), np.empty(shape, "U15")
        self.n_passes_ = 0.0

        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        seen = {"X": X, "y": y, "metadata": metadata}
        context = self._init_callback_context(max_subtasks=self.scores_.size)
        context.call_on_fit_task_begin(estimator=self, **seen)

        def report(model: SoftmaxClassifier) -> None:
            task = context.subcontext(task_name=f"fit with C={model.C:g}")
            attributes = {"best_estimator_": model, "C_": model.C, "classes_": classes, "n_passes_": self.n_passes_}
            attributes |= {name: getattr(model, name) for name in _OF_BEST}
            task.call_on_fit_task_begin(estimator=self, **seen)
            task.call_on_fit_task_end(estimator=self, **seen, reconstruction_attributes=attributes)

        metric, bests, reference = PathMetric(), [], None
        for fold, members in enumerate(folds):
            keep: list[np.ndarray] | None = [] if fold == 0 < len(folds) - 1 else None
            bests.append(self._fit_fold(fold, rows, members, metric, reference, keep, report))
            reference = keep if reference is None else reference
        chosen = self._choose(objective, bests, reference, metric)
        self._set_best(chosen)
        fitted = {name: value for name, value in vars(self).items() if name.endswith("_") and not name.endswith("__")}
        context.call_on_fit_task_end(estimator=self, **seen, reconstruction_attributes=fitted)
        self._warn()
        return self

    def _fit_fold(
        self,
        fold: int,
        rows: "_Rows | LazyRows | DeviceFolds",
        members: Any,
        metric: PathMetric,
        reference: list[np.ndarray] | None,
        keep: list[np.ndarray] | None,
        report: Callable[[SoftmaxClassifier], None],
    ) -> tuple[int, np.ndarray]:
        """Fit and score the path on one fold; return the index and the coefficients of its best C, `keep` them all."""
        fitted, score, n_scored = rows.fold(members, self.scoring)
        objective = fitted.objective(C=np.inf, fit_intercept=bool(self.fit_intercept))
        order = np.argsort(self.Cs_, kind="stable")
        l2s = [penalty(C, objective.total_weight, len(rows.classes)) for C in self.Cs_[order]]
        path = solve_path(objective, l2s, tol=self.tol, max_iter=int(self.max_iter), metric=metric, reference=reference)
        best, best_coef = -1, np.empty(0)
        for index, solution in zip(order, path, strict=False):
            if solution.status == "interrupted":
                raise KeyboardInterrupt
            model = self._classifier(float(self.Cs_[index]), objective, solution)
            at = (fold, 0, index)
            self.scores_[at] = score(model)
            if np.isnan(self.scores_[at]):
                raise ValueError(
                    f"scoring: {self.scoring!r} is NaN at C={model.C:g} in fold {fold}, of {n_scored} validation rows; "
                    "no C can be chosen by it"
                )
            self.n_iter_[at], self.statuses_[at] = solution.n_iter, solution.status
            self.coef_norms_[at] = np.linalg.norm(model.coef_)
            self.gaps_[at] = solution.gap / solution.value if solution.value > 0.0 else solution.gap
            self.n_passes_ += solution.passes
            if best < 0 or self.scores_[at] > self.scores_[fold, 0, best]:
                best, best_coef = int(index), solution.coef
            if keep is not None:
                keep.append(objective.stored(solution.coef))
            report(model)
            logger.info("fold %d, C=%g: %s, score %.6g", fold, model.C, solution.status, self.scores_[at])
        return best, best_coef

    def _choose(
        self,
        objective: Objective,
        bests: list[tuple[int, np.ndarray]],
        reference: list[np.ndarray] | None,
        metric: PathMetric,
    ) -> SoftmaxClassifier:
        """Return the classifier of the best mean score, fitted to all rows, or the average of each fold's best."""
        if self.refit:
            order = np.argsort(self.Cs_, kind="stable")
            place = int(np.argmax(self.scores_[:, 0, order].mean(axis=0)))
            C = float(self.Cs_[order[place]])
            start = bests[0][1] if reference is None else reference[place]
        else:
            C = float(np.mean([self.Cs_[index] for index, _ in bests]))
            start = reduce(operator.add, (coef for _, coef in bests)) / len(bests)
        l2 = penalty(C, objective.total_weight, objective.n_classes)
        current = objective.with_l2(l2)
        solution = solve(
            current,
            current.representable(start),
            tol=self.tol,
            max_iter=int(self.max_iter) if self.refit else 0,
            metric=metric,
        )
        if solution.status == "interrupted":
            raise KeyboardInterrupt
        self.n_passes_ += solution.passes
        return self._classifier(C, objective, solution)

    def _classifier(self, C: float, objective: Objective, solution: Solution) -> SoftmaxClassifier:
        """Return the fitted classifier of a solution."""
        model = SoftmaxClassifier(
            C=C,
            fit_intercept=self.fit_intercept,
            class_weight=self.class_weight,
            tol=self.tol,
            max_iter=self.max_iter,
        )
        progress = Progress(solution.passes, solution.value, solution.gap)
        attributes = fitted_attributes(
            objective, solution.coef, self.classes_, solution.n_iter, progress, solution.status
        )
        for name, value in attributes.items():
            setattr(model, name, value)
        model.n_features_in_ = objective.n_features
        return model

    def _set_best(self, model: SoftmaxClassifier) -> None:
        if hasattr(self, "feature_names_in_"):
            model.feature_names_in_ = self.feature_names_in_
        self.best_estimator_, self.C_ = model, float(model.C)
        for name in _OF_BEST:
            setattr(self, name, getattr(model, name))

    def _warn(self) -> None:
        """Tell of fits that did not converge."""
        statuses = self.statuses_.ravel().tolist() + ([self.status_] if self.refit else [])
        failed = {name: statuses.count(name) for name in ("max_iter", "precision_limit") if name in statuses}
        if failed:
            what = " and ".join(f"{count} with the status {name}" for name, count in failed.items())
            warnings.warn(
                f"SoftmaxClassifierCV: of {len(statuses)} fits, {what} ended above tol={self.tol:g}; statuses_ and "
                "gaps_ tell which and how far. A larger tol, more iterations or float64 features help.",
                ConvergenceWarning,
                stacklevel=5,
            )

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the logits; see `SoftmaxClassifier.decision_function`."""
        check_is_fitted(self, "best_estimator_")
        return self.best_estimator_.decision_function(X)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of each row; see `SoftmaxClassifier.predict`."""
        check_is_fitted(self, "best_estimator_")
        return self.best_estimator_.predict(X)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of the classes; see `SoftmaxClassifier.predict_proba`."""
        check_is_fitted(self, "best_estimator_")
        return self.best_estimator_.predict_proba(X)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithms of the probabilities; see `SoftmaxClassifier.predict_log_proba`."""
        check_is_fitted(self, "best_estimator_")
        return self.best_estimator_.predict_log_proba(X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the score of the predictions for X, by `scoring`.

        Parameters
        ----------
        X : array-like, sparse matrix or dataframe of shape (n_rows, n_features)
        y : array-like of shape (n_rows,)
        sample_weight : array-like of shape (n_rows,), optional

        Returns
        -------
        float
        """
        check_is_fitted(self, "best_estimator_")
        score = score_on_device if is_on_device(X) else score_on_host
        return score(self.scoring, self.best_estimator_, X, y, sample_weight)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


_OF_BEST = ("coef_", "intercept_", "objective_", "gap_", "status_", "temperature_")


class _Rows(NamedTuple):
    """The checked rows: what is fitted, and what is scored."""

    X: Any
    y: np.ndarray
    codes: np.ndarray
    weight: np.ndarray  # for fits: with the factors of the classes
    sample_weight: np.ndarray | None  # for scores
    classes: np.ndarray

    @classmethod
    def of(cls, estimator: SoftmaxClassifierCV, X: Any, y: np.ndarray, sample_weight: Any) -> "_Rows":
        """Return checked rows with the weights of an estimator's classes."""
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        weight = row_weights(sample_weight, X)
        factors = class_factors(estimator.class_weight, classes, y, weight)
        return cls(X, y, codes, weight * factors[codes], None if sample_weight is None else weight, classes)

    def objective(self, *, C: float, fit_intercept: bool) -> LinearSoftmaxObjective:
        """Return the objective of the rows."""
        return linear_problem(self.X, self.codes, self.weight, self.classes, C=C, fit_intercept=fit_intercept)

    def folds(self, cv: Any, groups: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the rows to fit and those to score of each fold."""
        yield from check_cv(cv, self.y, classifier=True).split(self.X, self.y, groups)

    def fold(
        self, members: tuple[np.ndarray, np.ndarray], scoring: str | Scorer | None
    ) -> tuple["_Rows", Callable[[SoftmaxClassifier], float], int]:
        """Return a copy of the rows to fit, and what scores a model on the others, with their number."""
        train, test = members
        scorer, X, y = scorer_of(scoring, self.classes), self.X[test], self.y[test]
        weight = None if self.sample_weight is None else self.sample_weight[test]
        fitted = _Rows(self.X[train], self.y, self.codes[train], self.weight[train], None, self.classes)
        return fitted, lambda model: scorer(model, X, y, weight), len(y)
