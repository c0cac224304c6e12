"""What the displays share: axes to draw on, and probabilities with the codes of the true classes."""

from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array, check_consistent_length, column_or_1d

from softhead import _checks as check


def axes(ax: Any) -> tuple[Any, Any]:
    """Return axes to draw on and their figure; a new one where none is given."""
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots()
    return ax, ax.figure


def name_of(estimator: Any, name: str | None) -> str:
    """Return the name of a curve: by default that of the estimator's class, of a pipeline that of its last step."""
    last = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    return type(last).__name__ if name is None else name


def checked(y_true: Any, y_prob: Any, labels: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the codes of the true classes, their probabilities as float64, and the classes of the columns."""
    y_true = column_or_1d(y_true)
    p = check_array(y_prob, dtype=np.float64, input_name="y_prob", ensure_2d=False)
    check.unit_interval("y_prob", p)
    if p.ndim == 1:
        p = np.column_stack([1.0 - p, p])
    check_consistent_length(y_true, p)
    classes = np.unique(y_true) if labels is None else column_or_1d(labels)
    if len(classes) != p.shape[1]:
        where = "y_true" if labels is None else "labels"
        raise ValueError(
            f"y_prob has {p.shape[1]} columns, but {where} has {len(classes)} classes; give the class of every column "
            "as labels"
        )
    order = np.argsort(classes, kind="stable")
    if (twice := classes[order[1:]] == classes[order[:-1]]).any():
        raise ValueError(f"labels: {classes[order[1:]][twice].tolist()[0]!r} is given more than once")
    places = np.searchsorted(classes[order], y_true).clip(max=len(classes) - 1)
    codes = order[places]
    if (unknown := classes[codes] != y_true).any():
        raise ValueError(f"y_true: the label {y_true[unknown].tolist()[0]!r} is not among the classes of y_prob")
    return codes, p, classes
