"""Predicting and evaluating from a Parquet file that memory does not hold: bit for bit what its table in memory gives.

Its rows are read and encoded block by block. Of each row, `evaluate` holds its label's place and its outcomes.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.pipeline import Pipeline

from softhead.app.csv_table import ContentError
from softhead.app.datasets import DataError, Dataset, only_text
from softhead.app.evaluation import Evaluation, evaluation_of_blocks, rows_at_once
from softhead.app.streaming import TableFile, wants_blocks
from softhead.app.training import Record, encoded, known_columns, predicted, refuse_unknown


def opened(model: Pipeline, data: str, target: str | None, *, wanted: bool | None) -> "ScoredFile | None":
    """Return the file whose rows are to be read in blocks, None where it is read as a whole."""
    if wants_blocks(data, wanted=wanted, alone=True, quiet=False):
        return ScoredFile(model, Path(data), target)
    return None


class ScoredFile:
    """A Parquet file whose rows a model is applied to.

    Parameters
    ----------
    model : Pipeline
    path : Path
    target : str, optional
        The column with the labels.
    """

    def __init__(self, model: Pipeline, path: Path, target: str | None = None) -> None:
        self._model, self._known = model, known_columns(model)
        used = self._known.used if self._known.text is None else {self._known.text}
        self.table = TableFile(path, target, used)
        self._rows = rows_at_once(model[-1])

    def predictions(self, *, probabilities: bool) -> Iterator[dict[str, np.ndarray]]:
        """Yield the columns of a prediction, some rows after the other."""
        for matrix in self._encoded():
            yield predicted(self._model[-1], matrix, probabilities=probabilities)

    def evaluate(self, record: Record | None) -> tuple[Evaluation, bool]:
        """Return the scores of the model, and whether these are only the held-out rows of its own training table."""
        codes = self._codes()
        held_out = self._held_out(record, codes)
        if held_out is not None:
            codes = codes[held_out]
        return evaluation_of_blocks(self._model[-1], self._encoded(held_out), codes), held_out is not None

    def _encoded(self, only: np.ndarray | None = None) -> Iterator[Any]:
        """Yield blocks of rows as the classifier takes them, cut as those of a table in memory are."""
        import pyarrow as pa

        for first, table in self.table.tables(self._rows, only=only):
            features = table if self.table.target is None else table.drop_columns([self.table.target])
            try:
                if self._known.text is not None:
                    features = only_text(features, self._known.text, self.table.target)
                block = encoded(self._model, Dataset(self.table.name, features, None, None))
            except (TypeError, ValueError, ContentError) as error:
                if not first:
                    raise DataError(str(error)) from error
                raise DataError(f"in the rows from {first + 1} on, counted from there: {error}") from error
            yield block
            del block
        pa.default_memory_pool().release_unused()  # some 50 MB, beside which the figures would be computed

    def _codes(self) -> np.ndarray:
        """Return the places of all labels among the classes."""
        classifier = self._model[-1]
        name = self.table.target
        codes, first = np.empty(self.table.n_rows, np.int32), 0
        for first, table in self.table.targets():
            labels = self.table.labels(table, self._known.target_kind)
            refuse_unknown(classifier, labels, name, first)
            codes[first : first + len(labels)] = np.searchsorted(
                classifier.classes_, labels.astype(classifier.classes_.dtype)
            )
        return codes

    def _held_out(self, record: Record | None, codes: np.ndarray) -> np.ndarray | None:
        """Return which rows were held out, where this is the very table that the model was trained from."""
        if record is None or record.rows != self.table.n_rows or not record.fingerprint:
            return None
        mask = record.mask()
        return mask if mask.any() and record.fingerprint == self._fingerprint(codes) else None

    def _fingerprint(self, codes: np.ndarray) -> str:
        """Return what `training.fingerprint` does; of sparse rows, each of their three arrays takes a pass."""
        digest = hashlib.sha256()
        counts, n_entries = [], 0
        for matrix in self._encoded():
            if sparse.issparse(matrix):
                counts.append(np.diff(matrix.indptr))
                n_entries += matrix.nnz
            else:
                digest.update(np.ascontiguousarray(matrix).view(np.uint8))
        if counts:
            kind = np.int32 if n_entries <= np.iinfo(np.int32).max else np.int64
            digest.update(np.concatenate([[0], np.cumsum(np.concatenate(counts), dtype=np.int64)]).astype(kind))
            for name, dtype in (("indices", kind), ("data", None)):
                for matrix in self._encoded():
                    digest.update(np.ascontiguousarray(getattr(matrix, name), dtype))
        classes = self._model[-1].classes_
        for start in range(0, len(codes), self._rows):
            labels = classes[codes[start : start + self._rows]]
            if labels.dtype == object:
                digest.update((b"\0" if start else b"") + "\0".join(labels).encode())
            else:
                digest.update(np.ascontiguousarray(labels).view(np.uint8))
        return digest.hexdigest()
