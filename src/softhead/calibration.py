"""One temperature for all logits, so that probabilities are frequencies: fitted exactly, on rows not trained on."""

import copy
import logging
import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, column_or_1d, indexable
from sklearn.utils.validation import check_is_fitted

from softhead import _checks as check
from softhead.cross_validation import SoftmaxClassifierCV
from softhead.estimator import SoftmaxClassifier
from softhead.functional import softmax
from softhead.kernels.tempering import moments

logger = logging.getLogger("softhead")

_WIDEST = math.log(1e6)  # of the temperature over the largest spread of a row's logits, and its inverse
_LARGEST_SPREAD = 1e100  # of the logits of a row: their squares are summed
_SMALLEST_STEP = 1e-13  # of Newton's method, in the logarithm of the temperature
_ENTRIES_AT_ONCE = 2**18


class TemperatureScaler(BaseEstimator):  # type: ignore[misc]
    r"""The temperature T under which softmax(logits / T) has the least log loss.

    With :math:`\beta = 1 / T` the loss of a row is convex in :math:`\beta`:

    .. math:: \ell_i = \log \sum_c e^{\beta z_{ic}} - \beta \sum_c q_{ic} z_{ic}, \qquad
        \ell_i' = \mathrm{E}_p z_i - \mathrm{E}_q z_i, \qquad \ell_i'' = \mathrm{Var}_p z_i \ge 0

    for a target distribution q. The root of the mean of :math:`\ell'` is found by Newton's method on
    the logarithms of its two terms, taken relative to the largest logit of a row, inside a bracket.

    Attributes
    ----------
    temperature_ : float
    status_ : str
        "converged"; or "lower_bound" or "upper_bound", where the loss falls as far as the temperature is let go: below
        where every row has its class on top, above where the logits tell nothing. The bounds are the largest difference
        between two logits of a row, times 1e-6 and 1e6.
    n_iter_ : int
        Passes over the logits.

    Notes
    -----
    The order of the classes stays, and with it every prediction. Logits may be of any floating type; sums are float64,
    and beyond the logits only a few numbers a row are held.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017, section 4.2.

    Examples
    --------
    >>> import numpy as np
    >>> from softhead import TemperatureScaler
    >>> logits = np.array([[4.0, 0.0], [0.0, 4.0], [4.0, 0.0], [4.0, 0.0]])
    >>> scaler = TemperatureScaler().fit(logits, [0, 1, 0, 1])  # three of four are right, so p should be 3/4
    >>> scaler.predict_proba(logits)[0].round(12), round(scaler.temperature_, 6)
    (array([0.75, 0.25]), 3.640957)
    """

    temperature_: float
    status_: Literal["converged", "lower_bound", "upper_bound"]

    def fit(self, logits: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the temperature to logits and classes.

        Parameters
        ----------
        logits : array_like of shape (n_rows, n_classes), or (n_rows,)
            As ``decision_function`` gives them; one dimension holds the logits of the second of two classes. A class
            that a row cannot have may have the logit -inf.
        y : array_like of int of shape (n_rows,)
            The columns of the true classes, from 0 on.
        sample_weight : array_like of shape (n_rows,), optional

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError, IndexError
            On logits that are NaN or infinite, more than 1e100 apart in a row, or without rows; classes that are no
            columns, or have the logit -inf; negative weights, or weights that sum to 0.
        """
        z, top, spread = _checked_logits(logits)
        if np.shape(y) != z.shape[:1]:
            raise ValueError(f"y has shape {np.shape(y)}; it must be one class a row, {z.shape[:1]}")
        classes = check.classes("y", y, z.shape[1])
        true = z[np.arange(len(z)), classes].astype(np.float64) - top
        return self._fit(z, top, spread, true, np.ones(len(z)), sample_weight)

    def fit_proba(self, logits: ArrayLike, probabilities: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the temperature to logits and distributions over the classes: soft labels.

        Parameters
        ----------
        logits : array_like of shape (n_rows, n_classes), or (n_rows,)
        probabilities : array_like of shape (n_rows, n_classes)
            Finite and not negative; a row counts by its sum.
        sample_weight : array_like of shape (n_rows,), optional

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            As `fit`, and on probabilities that are negative or of another shape.
        """
        z, top, spread = _checked_logits(logits)
        q = check.probabilities(check.same_shape("probabilities", probabilities, "logits", z.shape))
        mean, mass = np.empty((2, len(z)))
        for start in range(0, len(z), step := max(1, _ENTRIES_AT_ONCE // z.shape[1])):
            rows = slice(start, start + step)
            share = q[rows].astype(np.float64)
            difference = z[rows].astype(np.float64) - top[rows, None]
            mass[rows] = share.sum(axis=1)
            mean[rows] = np.multiply(share, difference, out=np.zeros_like(share), where=share > 0.0).sum(axis=1)
        return self._fit(z, top, spread, mean, mass, sample_weight)

    def transform(self, logits: ArrayLike) -> np.ndarray:
        """Return ``logits / temperature_``, of the same shape."""
        check_is_fitted(self, "temperature_")
        z = check.real_array("logits", logits)
        return z / z.dtype.type(self.temperature_)

    def predict_proba(self, logits: ArrayLike) -> np.ndarray:
        """Return ``softmax(logits / temperature_)``, of shape (n_rows, n_classes)."""
        check_is_fitted(self, "temperature_")
        return softmax(one_a_class(check.real_array("logits", logits)), temperature=self.temperature_)

    def _fit(
        self,
        z: np.ndarray,
        top: np.ndarray,
        spread: float,
        target: np.ndarray,
        mass: np.ndarray,
        sample_weight: ArrayLike | None,
    ) -> Self:
        """Fit to checked logits, the targets' means of logits - maximum, and the sums of the targets."""
        weight = check.relative_weights(check.broadcast_weight("sample_weight", sample_weight, (len(z),)))
        mass, target = weight * mass, np.multiply(weight, target, out=np.zeros(len(z)), where=weight > 0.0)
        if not mass.sum() > 0.0:
            raise ValueError("sample_weight and targets have a sum of 0; at least one row needs a positive weight")
        if not np.isfinite(target).all():
            row = int((~np.isfinite(target)).argmax())
            raise ValueError(f"logits: row {row} gives its true class the logit -inf, which no temperature can mend")
        moment = np.empty((len(z), 2))
        self.n_iter_ = 0

        def below_top(log_beta: float) -> tuple[float, float]:
            """Return how far below its maximum the model expects a logit, summed over rows, and minus its slope."""
            moments(z, top, float(np.exp(log_beta)), moment)
            self.n_iter_ += 1
            return -float(mass @ moment[:, 0]), float(mass @ moment[:, 1])

        wanted = -float(target.sum())
        log_spread = float(np.log(spread))
        low, high = -log_spread - _WIDEST, -log_spread + _WIDEST
        if wanted == 0.0:  # every row has its class on top: the loss falls for as long as beta grows
            log_beta, self.status_ = high, "lower_bound"
        elif below_top(low)[0] <= wanted:
            log_beta, self.status_ = low, "upper_bound"
        else:
            log_beta, self.status_ = _root(below_top, wanted, low, high), "converged"
        self.temperature_ = float(np.exp(-log_beta))
        logger.info("temperature %.6g after %d passes: %s", self.temperature_, self.n_iter_, self.status_)
        return self


def _root(function: Callable[[float], tuple[float, float]], wanted: float, low: float, high: float) -> float:
    """Return the log beta at which a falling function has the value wanted, in a bracket that shrinks.

    Newton's method is applied to the logarithm of the function, which falls exponentially where most rows are right.
    """
    at = min(max(0.0, low), high)
    for _ in range(200):
        value, fall = function(at)
        if value == wanted:
            break
        low, high = (at, high) if value > wanted else (low, at)
        after = np.inf
        if value > 0.0 and fall > 0.0:
            step = value / fall * math.log(value / wanted) * math.exp(-at)  # relative to beta
            after = at + math.log1p(step) if step > -1.0 else -np.inf
        if not low < after < high:
            after = (low + high) / 2.0
        if abs(after - at) <= _SMALLEST_STEP:
            break
        at = after
    return at


def one_a_class(logits: np.ndarray) -> np.ndarray:
    """Return one logit a class, for two classes as well."""
    return np.stack([np.zeros_like(logits), logits], axis=1) if logits.ndim == 1 else logits


def _checked_logits(logits: ArrayLike) -> tuple[np.ndarray, np.ndarray, float]:
    """Return logits, one a class, the maxima of their rows in float64, and the largest difference in a row."""
    z = one_a_class(check.real_array("logits", logits))
    if z.ndim != 2 or z.shape[1] < 2 or not len(z):
        raise ValueError(
            f"logits has shape {np.shape(logits)}; it must be (n_rows, n_classes) or (n_rows,), of one row and two "
            "classes at least"
        )
    top = z.max(axis=1).astype(np.float64)
    if not np.isfinite(top).all():
        row = int((~np.isfinite(top)).argmax())
        raise ValueError(f"logits: row {row} has the maximum {top[row]}; the largest logit of a row must be finite")
    spread = _largest_spread(z, top)
    if spread > _LARGEST_SPREAD:
        raise ValueError(f"logits: two in a row differ by {spread:g}; accepted are differences up to 1e100")
    return z, top, spread


@np.errstate(over="ignore")
def _largest_spread(z: np.ndarray, top: np.ndarray) -> float:
    """Return the largest difference between the finite logits of a row, 1 where there is none."""
    largest = 0.0
    for start in range(0, len(z), step := max(1, _ENTRIES_AT_ONCE // z.shape[1])):
        block = z[start : start + step]
        least = block.min(axis=1, where=np.isfinite(block), initial=np.inf).astype(np.float64)
        largest = max(largest, float((top[start : start + step] - least).max()))
    return largest or 1.0


def calibrate(model: Any, X: Any, y: Any, *, cv: Any = 5, sample_weight: ArrayLike | None = None) -> Any:
    """Return the model with a temperature from rows that it was not fitted to.

    With folds, a copy of the model is fitted to all rows but those of a fold and gives these their logits; the
    temperature is fitted to all of them, and the model that is returned to all rows. With ``cv=None`` the model is
    fitted already and stays as it is: X and y are held-out rows, for the temperature alone.

    Parameters
    ----------
    model : SoftmaxClassifier, SoftmaxClassifierCV or Pipeline that ends in one
        Left as it is. Encoders are fitted anew for each fold, and so is the choice of a penalty.
    X : array-like, sparse matrix or dataframe of shape (n_rows, n_features)
    y : array-like of shape (n_rows,)
    cv : int, splitter, iterable of (train, test) or None, default=5
        As everywhere in scikit-learn, but for None.
    sample_weight : array-like of shape (n_rows,), optional
        For the fits and the temperature.

    Returns
    -------
    SoftmaxClassifier, SoftmaxClassifierCV or Pipeline
        Its classifier has the temperature as ``temperature_``; ``predict_proba`` applies it, `save` keeps it.

    Raises
    ------
    TypeError
        If `model` is something else.
    ValueError
        As the fits, and if no row has a class that its fold was trained on.

    Warns
    -----
    UserWarning
        If the rows do not bound the temperature, because each has its class on top or the logits tell nothing: it stays
        1. Also where rows are left out, because no other fold has their class.

    Notes
    -----
    A model of four fifths of the rows is a little worse than the one that is returned, so that a temperature from folds
    errs, if at all, on the side of caution.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017, section 4.2. Folds: Platt,
    Probabilistic Outputs for Support Vector Machines, 1999, section 2.2.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from softhead import SoftmaxClassifier, calibrate
    >>> X, y = load_digits(return_X_y=True)
    >>> model = calibrate(SoftmaxClassifier(C=100.0), X[:1000] / 16, y[:1000])
    >>> raw = SoftmaxClassifier(C=100.0).fit(X[:1000] / 16, y[:1000])
    >>> from softhead import log_loss
    >>> [round(log_loss(m.predict_log_proba(X[1000:] / 16), y[1000:]).value, 2) for m in (raw, model)]
    [0.36, 0.29]
    """
    if not isinstance(_head(model), SoftmaxClassifier | SoftmaxClassifierCV):
        raise TypeError(
            f"model is a {type(_head(model)).__name__}; accepted are SoftmaxClassifier, SoftmaxClassifierCV and "
            "pipelines that end in one"
        )
    X, y, sample_weight = indexable(X, column_or_1d(y, warn=True), sample_weight)
    if cv is None:
        check_is_fitted(model)
        logits = one_a_class(model.decision_function(X))
        return tempered(model, fit_temperature(logits, y, _head(model).classes_, sample_weight))
    logits, classes = out_of_fold_logits(model, X, y, cv=cv, sample_weight=sample_weight)
    temperature = fit_temperature(logits, y, classes, sample_weight)
    return tempered(_fitted(model, X, y, sample_weight), temperature)


def out_of_fold_logits(
    model: Any, X: Any, y: np.ndarray, *, cv: Any, sample_weight: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each row the logits of a model that was fitted to the other folds, and the classes of the columns.

    A class that a fold was not trained on has the logit -inf; a row that is in no fold has NaN throughout.
    """
    classes = np.unique(y)
    logits = np.full((len(y), len(classes)), np.nan, np.float32)
    for train, test in check_cv(cv, y, classifier=True).split(X, y):
        weight = None if sample_weight is None else np.asarray(sample_weight)[train]
        fold = _fitted(model, _safe_indexing(X, train), y[train], weight)
        scores = one_a_class(fold.decision_function(_safe_indexing(X, test)))
        if scores.dtype == np.float64 and logits.dtype == np.float32:
            logits = logits.astype(np.float64)
        part = np.full((len(test), len(classes)), -np.inf, logits.dtype)
        part[:, np.searchsorted(classes, _head(fold).classes_)] = scores
        logits[test] = part
    return logits, classes


def fit_temperature(
    logits: np.ndarray, y: np.ndarray, classes: np.ndarray, sample_weight: ArrayLike | None = None
) -> float:
    """Return the temperature for the rows whose label has a logit; 1 where they do not bound it."""
    codes = np.searchsorted(classes, y).clip(max=len(classes) - 1)
    usable = np.isfinite(logits[np.arange(len(y)), codes]) & (classes[codes] == y)
    if not usable.all():
        warnings.warn(
            f"calibration: {np.count_nonzero(~usable)} of {len(y)} rows are left out, because the model that gave "
            "their logits was not trained on their class",
            UserWarning,
            stacklevel=3,
        )
        if not usable.any():
            raise ValueError("y: no row has a class that the model was trained on; there is nothing to calibrate with")
        logits, codes = logits[usable], codes[usable]
        sample_weight = None if sample_weight is None else np.asarray(sample_weight)[usable]
    scaler = TemperatureScaler().fit(logits, codes, sample_weight)
    if scaler.status_ == "converged":
        return scaler.temperature_
    why = "each has its class on top" if scaler.status_ == "lower_bound" else "the logits tell nothing of their classes"
    warnings.warn(
        f"calibration: {len(codes)} rows do not bound the temperature, for {why}; it stays 1",
        UserWarning,
        stacklevel=3,
    )
    return 1.0


def tempered(model: Any, temperature: float) -> Any:
    """Return a shallow copy of a fitted model whose classifier has another temperature."""
    same = copy.copy(model)
    if isinstance(model, Pipeline):
        name, head = model.steps[-1]
        same.steps = [*model.steps[:-1], (name, tempered(head, temperature))]
        return same
    same.temperature_ = temperature
    if isinstance(model, SoftmaxClassifierCV):
        same.best_estimator_ = tempered(model.best_estimator_, temperature)
    return same


def _head(model: Any) -> Any:
    """Return the last step of a pipeline, or the model itself."""
    return model.steps[-1][1] if isinstance(model, Pipeline) else model


def _fitted(model: Any, X: Any, y: np.ndarray, sample_weight: ArrayLike | None) -> Any:
    """Return a fitted copy of a model; weights go to its classifier."""
    if sample_weight is None:
        return clone(model).fit(X, y)
    name = f"{model.steps[-1][0]}__sample_weight" if isinstance(model, Pipeline) else "sample_weight"
    return clone(model).fit(X, y, **{name: sample_weight})
