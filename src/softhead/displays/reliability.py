"""`ReliabilityDisplay`: how often predictions are right, against how sure the classifier was."""

from typing import Any, Literal, Self

import numpy as np

from softhead._reliability import reliability
from softhead.displays.common import axes, checked, name_of
from softhead.metrics import checked_rows


class ReliabilityDisplay:
    """Reliability diagram for any number of classes, with the mass of the bins and intervals.

    In each bin of the probability, the share of rows that turned out so, over the mean probability. By default the
    probability is that of the predicted class; with `pos_label` it is that of one class. It is made by `from_estimator`
    or `from_predictions`. All parameters are stored as attributes.

    Parameters
    ----------
    prob_true : ndarray of shape (n_bins,)
        The share of rows that were predicted right, or are of the class; NaN in bins without rows.
    prob_pred : ndarray of shape (n_bins,)
        The mean probability.
    y_prob : ndarray of shape (n_rows,)
        The probability of every row that has weight.
    low, high : ndarray of shape (n_bins,)
        Intervals of `prob_true`.
    mass : ndarray of shape (n_bins,)
        The bins' shares of the rows' weight.
    edges : ndarray of shape (n_bins + 1,)
        Where the bins begin and end.
    estimator_name : str, default=None
        Name of the curve.
    pos_label : int, bool or str, default=None
        The class that is shown; None where it is the predicted one.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    line_ : matplotlib Line2D
        `prob_true` over `prob_pred`.
    intervals_ : matplotlib LineCollection
        From `low` to `high` at each `prob_pred`.
    bars_ : matplotlib BarContainer
        `mass` over `edges`.

    See Also
    --------
    sklearn.calibration.CalibrationDisplay : The same for two classes.

    References
    ----------
    Niculescu-Mizil and Caruana, Predicting Good Probabilities With Supervised Learning, ICML 2005, section 3. Wilson,
    Probable Inference, the Law of Succession, and Statistical Inference, JASA 22, 1927 (the intervals).

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from softhead import ReliabilityDisplay
    >>> probabilities = [[0.9, 0.1], [0.1, 0.9], [0.4, 0.6], [0.8, 0.2]]
    >>> ax = Figure().add_subplot()
    >>> display = ReliabilityDisplay.from_predictions([0, 1, 0, 0], probabilities, n_bins=2, ax=ax)
    >>> display.prob_pred.round(3), display.prob_true
    (array([nan, 0.8]), array([ nan, 0.75]))
    """

    def __init__(
        self,
        prob_true: np.ndarray,
        prob_pred: np.ndarray,
        y_prob: np.ndarray,
        *,
        low: np.ndarray,
        high: np.ndarray,
        mass: np.ndarray,
        edges: np.ndarray,
        estimator_name: str | None = None,
        pos_label: Any = None,
    ) -> None:
        self.prob_true = prob_true
        self.prob_pred = prob_pred
        self.y_prob = y_prob
        self.low = low
        self.high = high
        self.mass = mass
        self.edges = edges
        self.estimator_name = estimator_name
        self.pos_label = pos_label

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        n_bins: int = 15,
        strategy: Literal["uniform", "quantile"] = "uniform",
        confidence: float = 0.95,
        pos_label: Any = None,
        name: str | None = None,
        ax: Any = None,
        ref_line: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Draw the diagram of a classifier on rows.

        Parameters
        ----------
        estimator : fitted classifier, or pipeline that ends with one
            With ``classes_`` and ``predict_proba``.
        X : as the estimator takes it
        y : array-like of shape (n_rows,)
            The true classes.
        sample_weight, n_bins, strategy, confidence, pos_label, ax, ref_line, **kwargs
            As of `from_predictions`.
        name : str, default=None
            Name of the curve; by default that of the estimator.

        Returns
        -------
        ReliabilityDisplay

        Raises
        ------
        ValueError
            As `from_predictions`.
        """
        return cls.from_predictions(
            y,
            estimator.predict_proba(X),
            labels=estimator.classes_,
            sample_weight=sample_weight,
            n_bins=n_bins,
            strategy=strategy,
            confidence=confidence,
            pos_label=pos_label,
            name=name_of(estimator, name),
            ax=ax,
            ref_line=ref_line,
            **kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_prob: Any,
        *,
        labels: Any = None,
        sample_weight: Any = None,
        n_bins: int = 15,
        strategy: Literal["uniform", "quantile"] = "uniform",
        confidence: float = 0.95,
        pos_label: Any = None,
        name: str | None = None,
        ax: Any = None,
        ref_line: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Draw the diagram of probabilities.

        Parameters
        ----------
        y_true : array-like of shape (n_rows,)
            The true classes.
        y_prob : array-like of shape (n_rows, n_classes), or (n_rows,) of the greater of two classes
        labels : array-like of shape (n_classes,), default=None
            The class of each column; by default the classes of `y_true` in their order.
        sample_weight : array-like of shape (n_rows,), default=None
        n_bins : int, default=15
        strategy : {"uniform", "quantile"}, default="uniform"
            Bins of equal width, or of equal weight of rows.
        confidence : float, default=0.95
            Of the intervals, which are Wilson's.
        pos_label : int, bool or str, default=None
            The class whose probability is shown; by default that of the predicted class.
        name : str, default=None
            Name of the curve.
        ax, ref_line, **kwargs
            As of `plot`.

        Returns
        -------
        ReliabilityDisplay

        Raises
        ------
        ValueError
            If columns and classes do not fit together, if a label or `pos_label` is not among the classes, on numbers
            that are no probabilities, or an option that is not listed.
        """
        codes, p, classes = checked(y_true, y_prob, labels)
        p, codes, weight = checked_rows(p, codes, sample_weight)
        if pos_label is None:
            top = p.argmax(axis=1)
            shown, hits = p[np.arange(len(p)), top], top == codes
        elif (at := np.flatnonzero(classes == pos_label)).size:
            shown, hits = p[:, at[0]], codes == at[0]
        else:
            raise ValueError(f"pos_label: {pos_label!r} is not among the classes {classes.tolist()}")
        table = reliability(shown, hits, weight, n_bins=n_bins, strategy=strategy, confidence=confidence)
        display = cls(
            table.accuracy,
            table.confidence,
            shown,
            low=table.low,
            high=table.high,
            mass=table.mass,
            edges=np.append(table.lower, table.upper[-1]),
            estimator_name=name,
            pos_label=pos_label,
        )
        return display.plot(ax=ax, ref_line=ref_line, **kwargs)

    def plot(self, *, ax: Any = None, name: str | None = None, ref_line: bool = True, **kwargs: Any) -> Self:
        """Draw the diagram.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; a new figure if None.
        name : str, default=None
            Name of the curve; by default `estimator_name`.
        ref_line : bool, default=True
            Whether to draw the line of a perfectly calibrated classifier.
        **kwargs : dict
            Keywords of matplotlib's ``plot`` for the curve.

        Returns
        -------
        self

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        self.ax_, self.figure_ = axes(ax)
        name = self.estimator_name if name is None else name
        if ref_line and "perfectly calibrated" not in self.ax_.get_legend_handles_labels()[1]:
            self.ax_.plot([0, 1], [0, 1], "k:", label="perfectly calibrated")
        filled = self.mass > 0.0
        x = self.prob_pred[filled]
        style = {"marker": "s"} | ({} if name is None else {"label": name}) | kwargs
        (self.line_,) = self.ax_.plot(x, self.prob_true[filled], **style)
        colour = self.line_.get_color()
        self.intervals_ = self.ax_.vlines(x, self.low[filled], self.high[filled], color=colour, alpha=0.5)
        known = self.ax_.get_legend_handles_labels()[1]
        self.bars_ = self.ax_.bar(
            self.edges[:-1],
            self.mass,
            np.diff(self.edges),
            align="edge",
            color=colour,
            alpha=0.15,
            linewidth=0,
            label=None if "share of rows" in known else "share of rows",
        )
        self.ax_.legend(loc="lower right")
        if self.pos_label is None:
            of, what = "the predicted class", "share of correct predictions"
        else:
            of, what = f"class {self.pos_label}", f"share of rows of class {self.pos_label}"
        self.ax_.set(xlabel=f"probability of {of}", ylabel=what, xlim=(0, 1), ylim=(0, 1.02))
        return self
