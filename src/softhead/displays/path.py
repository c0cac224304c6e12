"""`RegularizationPathDisplay`: a score and the size of the coefficients against the penalty."""

from typing import Any, Self

import numpy as np
from sklearn.metrics import check_scoring
from sklearn.utils.validation import check_is_fitted

from softhead.cross_validation import SoftmaxClassifierCV
from softhead.displays.common import axes
from softhead.paths import SoftmaxPath


class RegularizationPathDisplay:
    """How a score and the size of the coefficients change with the penalty; the chosen penalty is marked.

    It is made by `from_estimator`. All parameters are stored as attributes.

    Parameters
    ----------
    Cs : array-like of shape (n_Cs,)
        Inverse strengths of the penalty, in any order; an infinite one has no place on the axis and is not drawn.
    coef_norms : array-like of shape (n_Cs,)
        Euclidean norms of the coefficients.
    scores : array-like of shape (n_Cs, n_folds) or None, default=None
        Scores, of which the greater is the better; None draws the coefficients alone.
    C : float or None, default=None
        The C to mark.
    score_name : str or None, default=None
        What the axis of the scores is called; "score" if None.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the scores, or of the norms where there are no scores.
    norm_ax_ : matplotlib Axes
        Axes of the norms, which shares the horizontal axis with `ax_`.
    figure_ : matplotlib Figure
    line_ : matplotlib Line2D or None
        The mean scores.
    fill_between_ : matplotlib PolyCollection or None
        One standard deviation of the folds to either side.
    norm_line_ : matplotlib Line2D
    chosen_line_ : matplotlib Line2D or None
        The vertical line at `C`.

    See Also
    --------
    softhead.SoftmaxClassifierCV : Chooses C by cross-validation.
    softhead.softmax_path : Fits many C.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from sklearn.datasets import load_iris
    >>> from softhead import RegularizationPathDisplay, SoftmaxClassifierCV
    >>> X, y = load_iris(return_X_y=True)
    >>> search = SoftmaxClassifierCV(Cs=5).fit(X, y)
    >>> display = RegularizationPathDisplay.from_estimator(search, ax=Figure().add_subplot())
    >>> display.C == search.C_, display.ax_.get_xscale()
    (True, 'log')
    """

    def __init__(
        self,
        *,
        Cs: Any,
        coef_norms: Any,
        scores: Any = None,
        C: float | None = None,
        score_name: str | None = None,
    ) -> None:
        self.Cs = Cs
        self.coef_norms = coef_norms
        self.scores = scores
        self.C = C
        self.score_name = score_name

    @classmethod
    def from_estimator(
        cls,
        estimator: SoftmaxClassifierCV | SoftmaxPath,
        X: Any = None,
        y: Any = None,
        *,
        scoring: Any = "neg_log_loss",
        score_name: str | None = None,
        ax: Any = None,
        line_kw: dict[str, Any] | None = None,
        fill_between_kw: dict[str, Any] | None = None,
        norm_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the path of a search, or of `softmax_path`.

        Parameters
        ----------
        estimator : SoftmaxClassifierCV or SoftmaxPath
            A fitted search brings its scores and its choice with it. Of a path, the classifiers are scored on `X` and
            `y`, and the best is marked.
        X : array-like or sparse matrix of shape (n_rows, n_features), optional
            For a path only: rows to score on; without them the coefficients alone are drawn.
        y : array-like of shape (n_rows,), optional
        scoring : str or callable, default="neg_log_loss"
            For a path only: a name or a scorer of scikit-learn.
        score_name : str or None, default=None
            What the axis of the scores is called; by default from `scoring`.
        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure if None.
        line_kw, fill_between_kw, norm_kw : dict or None, default=None
            As of `plot`.

        Returns
        -------
        RegularizationPathDisplay

        Raises
        ------
        TypeError
            If `estimator` is neither a search nor a path.
        ValueError
            If `X` and `y` are given with a search, or only one of them with a path.
        sklearn.exceptions.NotFittedError
            If the search is not fitted.
        """
        Cs: Any
        scores: Any = None
        C: float | None = None
        if isinstance(estimator, SoftmaxClassifierCV):
            check_is_fitted(estimator, "best_estimator_")
            if X is not None or y is not None:
                raise ValueError("X, y: given with a search, whose scores are those of its own folds; accepted is None")
            Cs, norms = estimator.Cs_, estimator.coef_norms_.mean(axis=(0, 1))
            scores, C, scoring = estimator.scores_[:, 0, :].T, estimator.C_, estimator.scoring
        elif isinstance(estimator, SoftmaxPath):
            if (X is None) != (y is None):
                raise ValueError("X, y: only one of them is given; accepted are both or neither")
            Cs, norms = estimator.Cs, np.linalg.norm(estimator.coefs, axis=(1, 2))
            if X is not None:
                models = [estimator.classifier(index) for index in range(len(Cs))]
                scores = np.array([[check_scoring(model, scoring=scoring)(model, X, y)] for model in models])
                C = float(min(Cs[scores[:, 0] == scores.max()]))
        else:
            raise TypeError(
                f"estimator: a {type(estimator).__name__}; accepted are a SoftmaxClassifierCV and a SoftmaxPath"
            )
        if score_name is None:
            score_name = scoring.replace("neg_", "negative ").replace("_", " ") if isinstance(scoring, str) else None
        display = cls(Cs=Cs, coef_norms=norms, scores=scores, C=C, score_name=score_name)
        return display.plot(ax=ax, line_kw=line_kw, fill_between_kw=fill_between_kw, norm_kw=norm_kw)

    def plot(
        self,
        ax: Any = None,
        *,
        score_name: str | None = None,
        line_kw: dict[str, Any] | None = None,
        fill_between_kw: dict[str, Any] | None = None,
        norm_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the path.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure if None.
        score_name : str or None, default=None
            What the axis of the scores is called.
        line_kw : dict or None, default=None
            Keywords of matplotlib's ``plot`` for the mean scores.
        fill_between_kw : dict or None, default=None
            Keywords of matplotlib's ``fill_between`` for the spread of the folds.
        norm_kw : dict or None, default=None
            Keywords of matplotlib's ``plot`` for the norms.

        Returns
        -------
        self

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        Cs = np.asarray(self.Cs, dtype=float)
        order = np.argsort(Cs)
        order = order[np.isfinite(Cs[order])]
        self.ax_, self.figure_ = axes(ax)
        self.line_ = self.fill_between_ = self.chosen_line_ = None
        self.norm_ax_ = self.ax_
        if self.scores is not None:
            scores = np.asarray(self.scores, dtype=float)[order]
            mean, spread = scores.mean(axis=1), scores.std(axis=1)
            style = {"marker": ".", "color": "C0", "label": score_name or self.score_name or "score"}
            (self.line_,) = self.ax_.plot(Cs[order], mean, **style | (line_kw or {}))
            if scores.shape[1] > 1:
                fill = {"alpha": 0.25, "color": self.line_.get_color(), "linewidth": 0} | (fill_between_kw or {})
                self.fill_between_ = self.ax_.fill_between(Cs[order], mean - spread, mean + spread, **fill)
            self.ax_.set_ylabel(style["label"])
            self.norm_ax_ = self.ax_.twinx()
        style = {"linestyle": "--", "color": "C1", "label": "norm of the coefficients"} | (norm_kw or {})
        (self.norm_line_,) = self.norm_ax_.plot(Cs[order], np.asarray(self.coef_norms, dtype=float)[order], **style)
        self.norm_ax_.set_ylabel("norm of the coefficients")
        if (self.norm_line_.get_ydata() > 0.0).all():
            self.norm_ax_.set_yscale("log")
        drawn = [self.norm_line_] if self.line_ is None else [self.line_, self.norm_line_]
        if self.C is not None and np.isfinite(self.C):
            self.chosen_line_ = self.ax_.axvline(self.C, color="0.5", linestyle=":", label=f"C = {self.C:.3g}")
            drawn.append(self.chosen_line_)
        self.ax_.set(xlabel="C (inverse strength of the penalty)", xscale="log")
        self.ax_.legend(handles=drawn, loc="best")
        return self
