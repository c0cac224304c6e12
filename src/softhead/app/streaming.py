"""Training on a Parquet file that memory does not hold: its rows are read and encoded block by block, in every pass."""

import hashlib
import sys
import time
import warnings
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import typer
from scipy import sparse
from sklearn.pipeline import make_pipeline

from softhead.app.csv_table import ContentError
from softhead.app.datasets import DataError, Dataset, TargetKind, table_labels, unwanted, with_plain_strings
from softhead.app.evaluation import evaluation
from softhead.app.training import Record, Trained
from softhead.estimator import SoftmaxClassifier
from softhead.rows.arrow import batches_of, grouped, schema_of
from softhead.rows.source import RowSource
from softhead.tables import TableEncoder

_BLOCK_BYTES = 2**24  # of the numbers of a block
_STORED_BYTES = 2**26  # of a block in its file, before compression: strings may be long
_ENCODER_ROWS = 100_000  # from which the encoding is learned
_MOST_HELD_OUT = 100_000  # rows, which are held in memory
_CHUNK = 2**20  # rows of which the held-out ones are drawn together
_LABELS = 2**17  # that are read at a time


class Needs(NamedTuple):
    """The bytes that training in memory would take, and those that there are."""

    needed: float
    available: float

    def __str__(self) -> str:
        return (
            f"it would take about {self.needed / 1e9:.1f} GB in memory, of which {self.available / 1e9:.1f} GB are free"
        )


def damaged(error: BaseException) -> DataError:
    """Return what to say of a file that is no Parquet file."""
    return DataError(f"is truncated, damaged or not a .parquet file ({str(error).splitlines()[0]})")


def needs(path: Path) -> Needs:
    """Return the memory for a table, its encoded rows and those of them to train on, and what there is of it."""
    from pyarrow import parquet

    try:
        file = parquet.read_metadata(path)
    except (OSError, ValueError) as error:
        raise damaged(error) from None
    numbers = 4.0 * file.num_rows * file.num_columns
    table = float(sum(file.row_group(k).total_byte_size for k in range(file.num_row_groups)))
    return Needs(max(table, numbers) + 2.0 * numbers, available_memory(Path("/")))


def available_memory(root: Path) -> float:
    """Return the bytes that the system and the control groups of this process grant; inf where neither says."""
    found = [np.inf]
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        found += [1024.0 * float(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError, IndexError):
        return float(min(found))
    own = [PurePosixPath(line[3:].lstrip("/")) for line in groups if line.startswith("0::")]
    for folder in (part for group in own for part in (group, *group.parents)):
        try:
            most, used = (
                int((root / "sys/fs/cgroup" / folder / f"memory.{k}").read_text()) for k in ("max", "current")
            )
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
        found.append(float(max(most - used, 0)))
    return float(min(found))


class TableFile:
    """A Parquet file whose rows are read in blocks.

    Parameters
    ----------
    path : Path
    target : str or None
        The column with the labels.
    used : collection of str, optional
        The columns that are read beside the target; all where one of them is missing, or by default.

    Attributes
    ----------
    name, target : str
    n_rows : int
    """

    def __init__(self, path: Path, target: str | None, used: Collection[str] | None = None) -> None:
        from pyarrow import parquet

        self.path, self.name, self.target = path, path.stem, target
        try:
            metadata = parquet.read_metadata(path)
            self.n_rows: int = metadata.num_rows
            self._bytes = sum(metadata.row_group(k).total_byte_size for k in range(metadata.num_row_groups))
            self._columns = list(schema_of(path).names)
        except (OSError, ValueError) as error:
            raise damaged(error) from None
        if target is not None and target not in self._columns:
            raise DataError(f"no column {target!r}; there are {', '.join(map(repr, self._columns[:20]))}")
        if repeated := [column for column, count in Counter(self._columns).items() if count > 1]:
            raise DataError(f"more than one column is named {repeated[0]!r}")
        self._columns = [name for name in self._columns if name not in unwanted(self._columns, target, used)]
        if not self.n_rows:
            raise DataError("has no rows")
        if target is not None and len(self._columns) == 1:
            raise DataError(f"has no column beside the target {target!r}")
        if used and set(used) <= set(self._columns):
            self._columns = [name for name in self._columns if name in used or name == target]

    def tables(self, rows: int | None = None, *, only: np.ndarray | None = None) -> Iterator[tuple[int, Any]]:
        """Yield blocks of so many rows as tables, with the number of the first row: of `only` those of a mask."""
        import pyarrow as pa

        if rows is None:
            rows = max(1024, _BLOCK_BYTES // (8 * len(self._columns)))
            rows = min(rows, 1 + _STORED_BYTES * self.n_rows // max(1, self._bytes))
        first = 0
        for batches in grouped(self._batches(self._columns, rows, only), rows):
            table = pa.Table.from_batches(batches)
            yield first, table
            first += table.num_rows

    def targets(self) -> Iterator[tuple[int, Any]]:
        """Yield blocks of rows as tables of the target alone, with the number of the first row."""
        import pyarrow as pa

        first = 0
        for batch in self._batches([str(self.target)], _LABELS, None):
            yield first, pa.Table.from_batches([batch])
            first += batch.num_rows

    def split(self, table: Any) -> tuple[Any, np.ndarray]:
        """Return the features and the labels of a block."""
        return table.drop_columns([self.target]), self.labels(table, None)

    def labels(self, table: Any, kind: TargetKind | None) -> np.ndarray:
        """Return the labels of a block, of the kind of a model's if that is known; errors are of the whole column."""
        import pyarrow as pa

        def place(row: int, column: str | None = None) -> str:
            return f"row {row + 1}"

        try:
            try:
                return table_labels(table, str(self.target), kind, place)
            except ContentError:
                table_labels(pa.concat_tables(part for _, part in self.targets()), str(self.target), kind, place)
                raise
        except ContentError as fault:
            raise DataError(str(fault)) from None

    def _batches(self, columns: list[str], rows: int, only: np.ndarray | None) -> Iterator[Any]:
        import pyarrow as pa

        first = 0
        try:
            for batch in batches_of(self.path, columns, rows):
                last = first + batch.num_rows
                batch = with_plain_strings(batch)
                yield batch if only is None else batch.filter(pa.array(only[first:last]))
                first = last
        except (OSError, ValueError) as error:
            raise DataError(f"cannot be read from row {first + 1} on: {str(error).splitlines()[0]}") from None


def wants_blocks(data: str, *, wanted: bool | None, alone: bool, quiet: bool, but: str = "") -> bool:
    """Return whether the rows of a file are to be read in blocks: as `wanted`, else by its size, of which it tells.

    They are not with other options that need all rows, which `but` names: then it is not `alone`.
    """
    possible = alone and Path(data).suffix.lower() == ".parquet"
    if wanted and not possible:
        raise typer.BadParameter(f"only for .parquet files{but}", param_hint="--stream")
    if not (possible and Path(data).is_file()):
        return False
    if wanted is None:
        need = needs(Path(data))
        wanted = need.needed > need.available
        if wanted and not quiet:
            print(f"softhead: {data} is read block by block: {need}", file=sys.stderr)
    return bool(wanted)


def train(
    file: TableFile, *, classifier: SoftmaxClassifier, encoder: TableEncoder, test_size: float, seed: int
) -> tuple[Dataset, Trained]:
    """Do what `training.train` does, in bounded memory; return the data's description and the result.

    Held out are at most 100,000 rows, drawn without regard to their classes. The encoding is learned from as many
    rows at most, at a fixed stride among the others.
    """
    start = time.perf_counter()
    packed = held_out_rows(file.n_rows, test_size=test_size, seed=seed)
    rows = _encoder_rows(file, packed)
    if not rows.num_rows:
        raise DataError(f"all of its {file.n_rows} rows are held out by --test-size {test_size:g}; accepted is less")
    encoder.fit(rows)

    def blocks() -> Iterator[tuple[Any, np.ndarray]]:
        for first, table in file.tables():
            features, labels = file.split(table)
            kept = ~_mask(packed, first, len(labels))
            yield encoder.transform(features.filter(kept)), labels[kept]

    try:
        classifier.fit(RowSource(blocks))
    except ValueError as error:
        if isinstance(error.__cause__, DataError):  # names its row itself
            raise error.__cause__ from None
        raise
    matrix, target, print_ = _held_out(file, packed, encoder)
    known = np.isin(target, classifier.classes_)  # one that no other row has cannot be scored
    record = Record(file.name, str(file.target), None, test_size, seed, file.n_rows, packed, print_)
    if not known.all():
        lost = target[~known][0]
        warnings.warn(f"the label {lost!r} is only in rows held out: the model does not know it", stacklevel=2)
    scores = evaluation(classifier, matrix[known], target[known]) if known.any() else None
    data = Dataset(file.name, range(file.n_rows), None, file.target)
    return data, Trained(make_pipeline(encoder, classifier), record, scores, time.perf_counter() - start, [])


def held_out_rows(n_rows: int, *, test_size: float, seed: int) -> np.ndarray:
    """Draw the rows to test on: a mask, eight rows a byte."""
    share = min(test_size, _MOST_HELD_OUT / n_rows)
    rng = np.random.default_rng(seed)
    sizes = (min(_CHUNK, n_rows - first) for first in range(0, n_rows, _CHUNK))
    return np.concatenate([np.packbits(rng.random(size) < share) for size in sizes])


def _mask(packed: np.ndarray, first: int, n: int) -> np.ndarray:
    """Return the mask of some of the rows."""
    start = first // 8
    bits = np.unpackbits(packed[start : (first + n + 7) // 8])
    return bits[first - 8 * start :][:n].astype(bool)


def _encoder_rows(file: TableFile, packed: np.ndarray) -> Any:
    """Return the features of rows at a fixed stride, without those held out."""
    import pyarrow as pa

    stride = max(1, -(-file.n_rows // _ENCODER_ROWS))
    parts = []
    for first, table in file.tables():
        numbers = np.arange(first, first + table.num_rows)
        chosen = (numbers % stride == 0) & ~_mask(packed, first, table.num_rows)
        parts.append(table.drop_columns([file.target]).filter(pa.array(chosen)))
    return pa.concat_tables(parts)


def _held_out(file: TableFile, packed: np.ndarray, encoder: TableEncoder) -> tuple[Any, np.ndarray, str]:
    """Return the held-out rows, encoded, their labels, and the fingerprint of all rows where they are dense."""
    digest = hashlib.sha256()
    parts, targets, every = [], [], []
    for first, table in file.tables():
        features, labels = file.split(table)
        mask = _mask(packed, first, len(labels))
        if encoder.sparse_output_:  # the arrays of a sparse matrix are not those of its blocks, one after the other
            matrix = encoder.transform(features.filter(mask))
        else:
            whole = encoder.transform(features)
            digest.update(np.ascontiguousarray(whole).view(np.uint8))
            matrix = whole[mask]
            every.append("\0".join(labels).encode() if labels.dtype == object else labels.tobytes())
        parts.append(matrix)
        targets.append(labels[mask])
    joint = b"\0" if targets[0].dtype == object else b""
    digest.update(joint.join(every))
    stacked = sparse.csr_array(sparse.vstack(parts)) if encoder.sparse_output_ else np.concatenate(parts)
    return stacked, np.concatenate(targets), "" if encoder.sparse_output_ else digest.hexdigest()
