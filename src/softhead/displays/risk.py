"""`RiskCoverageDisplay`: the error rate of the rows that are answered, against their share."""

from typing import Any, Self

import numpy as np

from softhead.displays.common import axes, checked, name_of
from softhead.metrics import risk_coverage


class RiskCoverageDisplay:
    """What abstaining buys: the error rate among the most confident rows, against their share.

    It is made by `from_estimator` or `from_predictions`. All parameters are stored as attributes.

    Parameters
    ----------
    coverage : ndarray of shape (n_thresholds,)
        Shares of the rows' weight that are answered, rising.
    risk : ndarray of shape (n_thresholds,)
        Shares of wrong predictions among these.
    area : float, default=None
        The mean risk over all coverages, which the legend shows.
    name : str, default=None
        Name of the curve.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    line_ : matplotlib Line2D

    See Also
    --------
    softhead.risk_coverage : The numbers that are drawn.

    References
    ----------
    Geifman and El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS 2017, equations 1 and 2.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from softhead import RiskCoverageDisplay
    >>> probabilities = [[0.9, 0.1], [0.1, 0.9], [0.4, 0.6], [0.7, 0.3]]
    >>> display = RiskCoverageDisplay.from_predictions([0, 1, 0, 0], probabilities, ax=Figure().add_subplot())
    >>> display.coverage, display.risk
    (array([0.5 , 0.75, 1.  ]), array([0.  , 0.  , 0.25]))
    """

    def __init__(
        self, coverage: np.ndarray, risk: np.ndarray, *, area: float | None = None, name: str | None = None
    ) -> None:
        self.coverage = coverage
        self.risk = risk
        self.area = area
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        score: Any = None,
        sample_weight: Any = None,
        name: str | None = None,
        ax: Any = None,
        curve_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the curve of a classifier on rows.

        Parameters
        ----------
        estimator : fitted classifier, or pipeline that ends with one
            With ``classes_`` and ``predict_proba``.
        X : as the estimator takes it
        y : array-like of shape (n_rows,)
            The true classes.
        score, sample_weight, ax, curve_kwargs
            As of `from_predictions`.
        name : str, default=None
            Name of the curve; by default that of the estimator.

        Returns
        -------
        RiskCoverageDisplay

        Raises
        ------
        ValueError
            As `from_predictions`.
        """
        return cls.from_predictions(
            y,
            estimator.predict_proba(X),
            labels=estimator.classes_,
            score=score,
            sample_weight=sample_weight,
            name=name_of(estimator, name),
            ax=ax,
            curve_kwargs=curve_kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_prob: Any,
        *,
        labels: Any = None,
        score: Any = None,
        sample_weight: Any = None,
        name: str | None = None,
        ax: Any = None,
        curve_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the curve of probabilities.

        Parameters
        ----------
        y_true : array-like of shape (n_rows,)
            The true classes.
        y_prob : array-like of shape (n_rows, n_classes), or (n_rows,) of the greater of two classes
        labels : array-like of shape (n_classes,), default=None
            The class of each column; by default the classes of `y_true` in their order.
        score : array-like of shape (n_rows,), default=None
            Large where a prediction is trusted; by default the largest probability.
        sample_weight : array-like of shape (n_rows,), default=None
        name : str, default=None
            Name of the curve.
        ax, curve_kwargs
            As of `plot`.

        Returns
        -------
        RiskCoverageDisplay

        Raises
        ------
        ValueError
            If columns and classes do not fit together, or a label is not among the classes.
        """
        codes, p, _ = checked(y_true, y_prob, labels)
        curve = risk_coverage(p, codes, score=score, sample_weight=sample_weight)
        display = cls(curve.coverage, curve.risk, area=curve.area.value, name=name)
        return display.plot(ax=ax, curve_kwargs=curve_kwargs)

    def plot(self, ax: Any = None, *, name: str | None = None, curve_kwargs: dict[str, Any] | None = None) -> Self:
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure if None.
        name : str, default=None
            Name of the curve.
        curve_kwargs : dict, default=None
            Keywords of matplotlib's ``plot``.

        Returns
        -------
        self

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        self.ax_, self.figure_ = axes(ax)
        name = self.name if name is None else name
        area = None if self.area is None else f"area = {self.area:.3g}"
        label = f"{name} ({area})" if name and area else name or area
        style = {"drawstyle": "steps-pre"} | ({} if label is None else {"label": label}) | (curve_kwargs or {})
        (self.line_,) = self.ax_.plot(self.coverage, self.risk, **style)
        if self.ax_.get_legend_handles_labels()[1]:
            self.ax_.legend(loc="upper left")
        self.ax_.set(xlabel="coverage: share of rows answered", ylabel="risk: error rate among them", xlim=(0, 1))
        self.ax_.set_ylim(bottom=0.0)
        return self
