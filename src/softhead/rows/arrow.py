"""Blocks of rows from Parquet and Arrow IPC files: columns to the rows of a matrix."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from softhead.kernels.threads import several
from softhead.linear.columns import Columns, fits

BLOCK_BYTES = 2**25  # by default: decoded in about 10 ms, and some four of them are in memory at once

Encode = Callable[[Any], Any]


def batches_of(path: Path, columns: list[str], rows: int) -> Iterator[Any]:
    """Yield the record batches of a file, with `columns` alone."""
    import pyarrow as pa
    from pyarrow import parquet

    if path.suffix.lower() == ".parquet":
        # Columns are decoded a batch at a time, however long their row groups are. A row group of about the size of a
        # block is read at once: through buffers it takes 6% longer.
        metadata = parquet.read_metadata(path)
        sizes = (metadata.row_group(k).total_byte_size for k in range(metadata.num_row_groups))
        buffer = 2**20 if max(sizes, default=0) > 2 * BLOCK_BYTES else 0
        with parquet.ParquetFile(path, metadata=metadata, buffer_size=buffer, pre_buffer=False) as file:
            yield from file.iter_batches(batch_size=rows, columns=columns, use_threads=several())
        return
    with pa.memory_map(str(path)) as stream, pa.ipc.open_file(stream) as file:
        for index in range(file.num_record_batches):
            yield file.get_batch(index).select(columns)


def is_index(name: str) -> bool:
    """Return whether a column is one that pandas keeps its index in, where that has no name: no column of a frame."""
    return name.startswith("__index_level_") and name.endswith("__")


def schema_of(path: Path) -> Any:
    """Return the schema of a file."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        if path.suffix.lower() == ".parquet":
            return parquet.read_schema(path)
        with pa.memory_map(str(path)) as stream, pa.ipc.open_file(stream) as file:
            return file.schema
    except ValueError as error:
        raise ValueError(f"{path}: {_line(error)}") from error


def open_tables(
    path: Path, target: str | None, features: Any, weight: str | None, encode: Encode | None, rows: int | None
) -> "tuple[ArrowBlocks, list[str] | None]":
    """Return the blocks of a file or a folder, and the names of the features where each is one number."""
    files = [path]
    if path.is_dir():
        hidden = (".", "_")
        found = (file for file in path.rglob("*.parquet") if not file.name.startswith(hidden))
        files = sorted(found)
        if not files:
            raise ValueError(f"path: {path} is a folder without .parquet files")
    schema = schema_of(files[0])
    names = [features] if isinstance(features, str) else features
    if names is None:
        names = [name for name in schema.names if name not in (target, weight) and not is_index(name)]
    for name in (*names, target, weight):
        if name is not None and name not in schema.names:
            raise ValueError(f"{files[0]}: no column {name!r}; there are {', '.join(map(repr, schema.names[:20]))}")
    if not names:
        raise ValueError(f"{files[0]}: no column beside the target and the weights")
    chosen = [name for name in (*names, target, weight) if name is not None]
    if twice := sorted({name for name in chosen if chosen.count(name) > 1}):
        raise ValueError(
            f"{files[0]}: the column {twice[0]!r} is named twice among the features, the target and the weights"
        )
    kinds = [schema.field(name).type for name in names]
    if encode is None:
        for name, kind in zip(names, kinds, strict=True):
            if not _is_number(kind.value_type if is_list(kind) else kind):
                raise ValueError(
                    f"{files[0]}: column {name!r} is of type {kind}; features are numbers, or encode= makes them"
                )
    narrow = all(str(kind.value_type if is_list(kind) else kind) in ("float", "halffloat") for kind in kinds)
    dtype = np.dtype(np.float32 if narrow else np.float64)
    width = sum(getattr(kind, "list_size", 512) if is_list(kind) else 1 for kind in kinds)
    rows = rows or max(16, BLOCK_BYTES // (dtype.itemsize * width))
    blocks = ArrowBlocks(files, target=target, weight=weight, features=names, encode=encode, rows=rows, dtype=dtype)
    named = encode is None and not any(map(is_list, kinds))
    return blocks, names if named else None


def _is_number(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


class ArrowBlocks:
    """Blocks of `rows` rows of some files, in order; only the last one is shorter.

    Parameters
    ----------
    files : sequence of Path
        Of one schema.
    target, weight : str or None
    features : list of str
        Columns of numbers or bools, or lists of numbers of one length.
    encode : callable or None
        Turns a table of the features into a matrix; without it they are numbers.
    rows : int
    dtype : dtype
        Of the matrix, without `encode`.
    """

    def __init__(
        self,
        files: Sequence[Path],
        *,
        target: str | None,
        weight: str | None,
        features: list[str],
        encode: Encode | None,
        rows: int,
        dtype: np.dtype,
    ) -> None:
        self.files, self.rows, self.dtype = files, rows, dtype
        self.target, self.weight, self.features, self.encode = target, weight, features, encode
        self.columns = [*features, *(name for name in (target, weight) if name is not None)]

    def __iter__(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield ``(X, y, weight)``."""
        for X, y, weight in self.by_columns():
            yield X.rows() if isinstance(X, Columns) else X, y, weight

    def by_columns(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield the same, the features as `Columns` where they lie so."""
        import pyarrow as pa

        for batches in grouped(self._batches(), self.rows):
            table = pa.Table.from_batches(batches)
            # Labels and weights are copied out: the buffers of a batch are the size of a block.
            y = None if self.target is None else labels_of(table[self.target])
            weight = None if self.weight is None else np.array(table[self.weight].to_numpy(), np.float64)
            X = self._matrix(batches) if self.encode is None else self.encode(table.select(self.features))
            yield X, y, weight

    def _batches(self) -> Iterator[Any]:
        kinds: dict[str, Any] = {}
        known = None
        for path in self.files:
            try:
                for batch in batches_of(path, self.columns, self.rows):
                    if known is not None and batch.schema.equals(known):
                        yield batch
                        continue
                    known = batch.schema
                    found = dict(zip(known.names, known.types, strict=True))
                    kinds = kinds or found
                    # Another type would be cast to that of the first file, at a loss.
                    for name, kind in kinds.items():
                        if found.get(name) != kind:
                            raise ValueError(
                                f"column {name!r} is {found.get(name, 'not there')}; in {self.files[0]} it is {kind}"
                            )
                    yield batch
            except (OSError, ValueError, KeyError) as error:
                raise ValueError(f"{path}: {_line(error)}") from error

    def _matrix(self, batches: list[Any]) -> "np.ndarray | Columns":
        """Return the columns of numbers as a matrix; a missing number is NaN."""
        parts = [batch.select(self.features) for batch in batches]
        kinds = [field.type for field in parts[0].schema]
        if len(kinds) == 1 and is_list(kinds[0]):
            return np.concatenate([flat(part.column(0), self.dtype) for part in parts])
        found = [list(self._columns(part, kinds)) for part in parts]
        if all(fits(len(part), len(columns), self.dtype) for part, columns in zip(parts, found, strict=True)):
            addresses = [[_address(column, self.dtype.itemsize) for column in columns] for columns in found]
            return Columns(np.array(addresses, np.int64), [len(part) for part in parts], self.dtype, found)
        rows, first = np.empty((sum(map(len, parts)), len(found[0])), self.dtype), 0
        for part, columns in zip(parts, found, strict=True):
            for j, column in enumerate(columns):
                rows[first : first + len(part), j] = column
            first += len(part)
        return rows

    def _columns(self, part: Any, kinds: list[Any]) -> Iterator[Any]:
        """Yield the columns of a batch, as arrays, or as Arrow has them where that is the same numbers."""
        import pyarrow as pa

        stored = pa.from_numpy_dtype(self.dtype)
        for column, kind in zip(part.columns, kinds, strict=True):
            if kind.equals(stored) and not column.null_count:
                yield column
            elif is_list(kind):
                yield from np.ascontiguousarray(flat(column, self.dtype).T)
            else:
                yield np.ascontiguousarray(column.to_numpy(zero_copy_only=False), self.dtype)


def _address(column: Any, size: int) -> int:
    """Return where the first number of a column lies."""
    if isinstance(column, np.ndarray):
        return int(column.__array_interface__["data"][0])
    return int(column.buffers()[1].address) + size * int(column.offset)


def grouped(batches: Iterable[Any], rows: int) -> Iterator[list[Any]]:
    """Yield lists of batches that hold `rows` rows together; the last one holds what is left."""
    block: list[Any] = []
    room = rows
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            part = batch.slice(start, min(room, batch.num_rows - start))
            block.append(part)
            start, room = start + part.num_rows, room - part.num_rows
            if not room:
                yield block
                block, room = [], rows
    if block:
        yield block


def flat(column: Any, dtype: np.dtype) -> np.ndarray:
    """Return a column of lists of one length as a matrix."""
    values = column.flatten()
    n = len(column)
    if (
        column.null_count
        or (n and len(values) % n)
        or (hasattr(column, "value_lengths") and n and len(set(column.value_lengths().to_pylist())) > 1)
    ):
        raise ValueError(f"a column of type {column.type} has lists that are missing or of different lengths")
    return np.array(values.to_numpy(zero_copy_only=False), dtype).reshape(n, -1)


def is_list(kind: Any) -> bool:
    """Return whether an Arrow type is one of lists."""
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def labels_of(column: Any) -> np.ndarray:
    """Return a column as labels: strings as objects, a missing one as None or NaN."""
    from pyarrow import types

    kind = column.type
    if types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    if types.is_decimal(kind):
        column = column.cast("float64")
    return np.array(column.to_numpy())


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
