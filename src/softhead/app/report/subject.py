"""What a report is of."""

from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.pipeline import Pipeline

from softhead.app.datasets import Dataset
from softhead.app.report.describe import short
from softhead.app.training import Record, Scored


class Subject(NamedTuple):
    """What a report is of: a model, data, and the rows of it that are scored.

    Attributes
    ----------
    path : Path
        The model's file.
    model : Pipeline
    record : Record or None
    data : Dataset
    matrix : ndarray or csr_array of shape (n_scored, n_features)
        The encoded rows that are scored.
    truth : ndarray of shape (n_scored,)
        Codes of their classes.
    rows : ndarray of shape (n_scored,)
        Their places in the data.
    held_out : bool
        Whether they are the rows held out from the training on this data.
    """

    path: Path
    model: Pipeline
    record: Record | None
    data: Dataset
    matrix: Any
    truth: np.ndarray
    rows: np.ndarray
    held_out: bool

    @classmethod
    def of(cls, path: Path, model: Pipeline, record: Record | None, data: Dataset, scored: Scored) -> Self:
        """Return the subject of a report on the rows that are scored."""
        classes = model[-1].classes_
        truth = np.searchsorted(classes, scored.target.astype(classes.dtype))
        return cls(path, model, record, data, scored.matrix, truth, scored.rows, scored.held_out)

    @property
    def classifier(self) -> Any:
        """The classifier at the end of the pipeline."""
        return self.model[-1]

    @property
    def encoder(self) -> Any:
        """The encoder before it, None where there is none."""
        return self.model[0] if len(self.model) > 1 else None

    @property
    def labels(self) -> list[str]:
        """The names of the classes, as a reader sees them."""
        return [short(label, 60) for label in self.classifier.classes_.tolist()]
