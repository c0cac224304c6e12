"""DATA on the command line: a file or the name of a bundled data set, read into features and labels."""

import bz2
import difflib
import gzip
import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from softhead.app.csv_table import ContentError, read_csv
from softhead.app.json_lines import read_json_lines
from softhead.rows.arrow import is_index

BUNDLED = ("digits", "iris", "wine", "breast_cancer")
TargetKind: TypeAlias = Literal["string", "int", "bool"]

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_TEXTUAL = (*_DELIMITERS, ".jsonl")
_PACKINGS = ("", ".gz", ".bz2", ".zip")
_ACCEPTED = ".csv, .tsv and .jsonl (also with .gz, .bz2 or .zip after it), .parquet and .npz"
_DTYPES: dict[TargetKind, type[np.generic]] = {"string": np.object_, "int": np.int64, "bool": np.bool_}
_LABELS = "accepted as labels are strings, whole numbers and bools"

# What decompressors and NumPy raise of data that are not what they should be.
_DAMAGE = (EOFError, OSError, ValueError, RuntimeError, MemoryError, KeyError, zlib.error, zipfile.BadZipFile)

# Tells where row i (from 0) is.
_Place: TypeAlias = Callable[..., str]


class DataError(ValueError):
    """Data that cannot be used; the message is one line that names the file, and row and column where there are any."""


@dataclass(frozen=True)
class KnownColumns:
    """What a model knows about the columns of its table.

    Attributes
    ----------
    categories : frozenset of str
        Columns to read as text from CSV files, so that "02139" stays what it is.
    target_kind : {"string", "int", "bool"} or None
        The type of the labels in training, which the labels are given back with.
    text : str or None
        The only column that is read, as text.
    used : frozenset of str or None
        The only columns that are read of JSON Lines, where others may hold anything; None for all.
    """

    categories: frozenset[str] = frozenset()
    target_kind: TargetKind | None = None
    text: str | None = None
    used: frozenset[str] | None = None


@dataclass(frozen=True)
class Dataset:
    """Features and labels, row by row.

    Attributes
    ----------
    name : str
        Name of the data set, or of the file without folder and suffixes.
    features : pyarrow.Table or ndarray of shape (n_rows, ...)
        A table of all columns but the target; an array for image data and .npz files.
    target : ndarray of shape (n_rows,) or None
        Labels as int64, bool, or objects that are str.
    target_name, features_name : str or None
        Name of the target's column or array, and of the features' array (.npz files only).
    """

    name: str
    features: Any
    target: NDArray[Any] | None
    target_name: str | None
    features_name: str | None = None

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return len(self.features)


def load_data(
    source: str | Path,
    *,
    target: str | None,
    features: str | None = None,
    known: KnownColumns | None = None,
) -> Dataset:
    """Read a data set.

    Parameters
    ----------
    source : str or Path
        The name of a bundled data set as a str, or else a path. A bundled name is never taken for a file, since files
        are told by their suffixes; "./digits" is always a path.
    target : str or None
        The column (in .npz files: the array) with the labels; None for rows without labels. For bundled data sets None
        means their own, which is named "target".
    features : str or None, default=None
        In .npz files the array with the features; by default the only other array as long as the target, or without a
        target the only array of two or more dimensions.
    known : KnownColumns or None, default=None
        What the model that is to be applied knows about the columns.

    Returns
    -------
    data : Dataset

    Raises
    ------
    DataError
        Where the data cannot be read or used.

    Examples
    --------
    >>> from softhead.app.datasets import load_data
    >>> data = load_data("digits", target=None)
    >>> data.features.shape, data.target[:3].tolist()
    ((1797, 8, 8), [0, 1, 2])
    """
    if isinstance(source, str) and source in BUNDLED:
        load: Callable[..., Dataset] = _load_bundled
    else:
        load = _load_file
    try:
        return load(source, target, features, known or KnownColumns())
    except ContentError as fault:
        raise DataError(f"{source}: {fault}") from None
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror or error}") from None


def _load_bundled(name: str, target: str | None, features: str | None, known: KnownColumns) -> Dataset:
    """Load a data set that comes with scikit-learn."""
    import pyarrow as pa
    from sklearn import datasets

    if target not in (None, "target"):
        raise ContentError(_absent("target", target, ["target"]))
    if features is not None:
        raise ContentError(f"features can be named only for .npz files; found {features!r}")
    if known.text is not None:
        raise ContentError(f"a text can be named only for files; found {known.text!r}")
    bunch = getattr(datasets, f"load_{name}")()
    if name == "digits":
        values, labels = bunch.images, bunch.target
    else:
        values = pa.table(dict(zip(map(str, bunch.feature_names), bunch.data.T, strict=True)))
        labels = bunch.target_names[bunch.target]
    return Dataset(name, values, _labels("target", labels, known.target_kind, _row), "target")


def _load_file(source: str | Path, target: str | None, features: str | None, known: KnownColumns) -> Dataset:
    """Load a file by its suffix."""
    path = Path(source)
    name, suffix, packing = _split_name(path)
    if suffix == ".npz":
        if known.text is not None:
            raise ContentError(f"a text can be named only for tables; found {known.text!r}")
        return _load_npz(path, name, target, features, known)
    if features is not None:
        raise ContentError(f"features can be named only for .npz files; found {features!r}")
    text = known.text
    if suffix == ".parquet":
        table = with_plain_strings(_read_parquet(path))
        table = table.drop_columns(unwanted(table.column_names, target, known.used))
        place: _Place = _row
    elif suffix == ".jsonl":
        used = known.used if text is None else {text}
        only = None if used is None else used | ({target} if target else set())
        table, place = read_json_lines(_unpacked(path, packing), only)
    else:
        text_columns = (
            known.categories
            | ({text} if text else set())
            | ({target} if target and known.target_kind == "string" else set())
        )
        table, place = read_csv(_unpacked(path, packing), _DELIMITERS[suffix], text_columns)
    if repeated := [column for column, count in Counter(table.column_names).items() if count > 1]:
        raise ContentError(f"more than one column is named {repeated[0]!r}")
    if not table.num_rows:
        raise ContentError("has no rows")
    labels = None if target is None else table_labels(table, target, known.target_kind, place)
    if text is not None:
        return Dataset(name, only_text(table, text, target), labels, target)
    if target is None:
        return Dataset(name, table, None, None)
    if len(table.column_names) == 1:
        raise ContentError(f"has no column beside the target {target!r}")
    return Dataset(name, table.drop_columns([target]), labels, target)


def _split_name(path: Path) -> tuple[str, str, str]:
    """Split the name of a file, which must exist, into stem, suffix and suffix of the packing."""
    if path.is_dir():
        raise ContentError(f"is a folder; accepted are files: {_ACCEPTED}")
    if not path.exists():
        raise ContentError("no such file" if path.suffix else _absent("file or bundled data set", str(path), BUNDLED))
    name = path.name.lower()
    for suffix, packings in ((".parquet", ("",)), (".npz", ("",)), *((known, _PACKINGS) for known in _TEXTUAL)):
        for packing in packings:
            if name.endswith(suffix + packing):
                return path.name[: -len(suffix + packing)], suffix, packing
    raise ContentError(f"has the unknown suffix {path.suffix!r}; accepted are {_ACCEPTED}")


def _unpacked(path: Path, packing: str) -> bytes:
    """Return the contents of a file that may be compressed."""
    data = path.read_bytes()
    try:
        if packing == ".gz":
            return gzip.decompress(data)
        if packing == ".bz2":
            return bz2.decompress(data)
        if packing == ".zip":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                members = [member for member in archive.namelist() if not member.endswith("/")]
                if len(members) != 1:
                    raise ContentError(f"holds {len(members)} files; accepted are archives of one")
                return archive.read(members[0])
    except _DAMAGE as error:
        raise _unreadable("is", packing, error) from None
    return data


def _read_parquet(path: Path) -> Any:
    """Read a Parquet file as a table."""
    import pyarrow as pa
    from pyarrow import parquet

    with path.open("rb") as file:
        try:
            return parquet.ParquetFile(file).read()
        except (pa.ArrowException, OSError) as error:
            raise _unreadable("is", ".parquet", error) from None


def unwanted(names: list[str], target: str | None, used: Collection[str] | None) -> list[str]:
    """Return the columns of a Parquet file with an index that pandas has left there, and that was not asked for."""
    return [name for name in names if is_index(name) and name != target and name not in (used or ())]


def with_plain_strings(rows: Any) -> Any:
    """Return a table or a batch whose strings Arrow can filter, which it cannot where they are views."""
    import pyarrow as pa

    schema = rows.schema
    for k, field in enumerate(schema):
        if pa.types.is_string_view(field.type):
            schema = schema.set(k, field.with_type(pa.large_string()))
    return rows if schema.equals(rows.schema) else rows.cast(schema)


def _load_npz(path: Path, name: str, target: str | None, features: str | None, known: KnownColumns) -> Dataset:
    """Load an array of features and one of labels from an .npz file."""
    with path.open("rb") as file:
        try:
            archive = np.lib.npyio.NpzFile(file, allow_pickle=False)
        except _DAMAGE as error:
            raise _unreadable("is", ".npz", error) from None
        labels = None if target is None else _array(archive, target)
        features = features or _only_candidate(archive, target, labels)
        values = _array(archive, features)
    if values.ndim < 2 or values.dtype.kind not in "biuf":
        raise ContentError(
            f"array {features!r} is of type {values.dtype} and shape {values.shape}; "
            "accepted as features are numbers and bools of two or more dimensions"
        )
    if not values.size:
        raise ContentError(f"array {features!r} is of shape {values.shape}; it is empty")
    if labels is None:
        return Dataset(name, values, None, None, features)
    if labels.ndim != 1:
        raise ContentError(f"target {target!r} is of shape {labels.shape}; accepted is one dimension")
    if len(labels) != len(values):
        raise ContentError(f"array {features!r} has {len(values)} rows, but target {target!r} has {len(labels)}")
    return Dataset(name, values, _labels(str(target), labels, known.target_kind, _row), target, features)


def _array(archive: Any, name: str) -> NDArray[Any]:
    """Load one array of an .npz file."""
    if name not in archive.files:
        raise ContentError(_absent("array", name, archive.files))
    try:
        return archive[name]
    except _DAMAGE as error:
        if "allow_pickle" in str(error):
            raise ContentError(f"array {name!r} holds Python objects, which are not loaded") from None
        raise _unreadable(f"array {name!r} is", ".npy", error) from None


def _only_candidate(archive: Any, target: str | None, labels: NDArray[Any] | None) -> str:
    """Return the name of the one array that can be the features."""
    found = []
    for name in archive.files:
        if name != target:
            array = _array(archive, name)
            if array.ndim >= 2 if labels is None else array.shape[:1] == labels.shape[:1]:
                found.append(name)
    if len(found) == 1:
        return found[0]
    wanted = "of two or more dimensions" if labels is None else f"as long as the target {target!r}"
    count = len(found) or "no"
    raise ContentError(
        f"{count} arrays are {wanted}, so the features must be named; there are {_listed(archive.files)}"
    )


def only_text(table: Any, text: str, target: str | None) -> Any:
    """Return the table of one column, which must be text."""
    from pyarrow import types

    if text not in table.column_names:
        raise ContentError(_absent("column", text, table.column_names))
    if text == target:
        raise ContentError(f"column {text!r} cannot be both text and target")
    column = table[text]
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (types.is_string(column.type) or types.is_large_string(column.type) or types.is_string_view(column.type)):
        raise ContentError(f"column {text!r} is of type {column.type}; accepted as text are strings")
    return table.select([]).append_column(text, column)


def table_labels(table: Any, target: str, kind: TargetKind | None, place: _Place) -> NDArray[Any]:
    """Return the target of a table as labels."""
    from pyarrow import types

    if target not in table.column_names:
        raise ContentError(_absent("column", target, table.column_names))
    column = table[target]
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    _refuse_missing(target, column.is_null().to_numpy(), place)
    if types.is_decimal(column.type):
        column = column.cast("float64")
    accepted = (types.is_string, types.is_large_string, types.is_boolean, types.is_integer, types.is_floating)
    if not any(accept(column.type) for accept in accepted):
        raise ContentError(f"target {target!r} is of type {column.type}; {_LABELS}")
    return _labels(target, column.to_numpy(), kind, place)


def _labels(name: str, values: NDArray[Any], kind: TargetKind | None, place: _Place) -> NDArray[Any]:
    """Return labels as int64, bool or objects that are str; of the kind of a model's labels if that is known."""
    if values.dtype.kind == "f":
        _refuse_missing(name, np.isnan(values), place)
        odd = (values != np.floor(values)) | (np.abs(values) >= 2.0**63)
        if odd.any():
            row = int(odd.argmax())
            raise ContentError(
                f"target {name!r}, {place(row)}: found {values[row]}, which is not a whole number; {_LABELS}"
            )
    elif values.dtype.kind not in "biuUO":
        raise ContentError(f"target {name!r} is of type {values.dtype}; {_LABELS}")
    elif values.dtype == np.uint64 and (values > np.iinfo(np.int64).max).any():
        raise ContentError(f"target {name!r} is of type uint64, and not all of it fits into int64")
    kinds: dict[str, TargetKind] = {"b": "bool", "U": "string", "O": "string"}
    held = kinds.get(values.dtype.kind, "int")
    if kind is not None and kind != held:
        return _converted(name, values, kind, place)
    return values.astype(_DTYPES[held])


def _converted(name: str, values: NDArray[Any], kind: TargetKind, place: _Place) -> NDArray[Any]:
    """Convert labels one by one to the kind of a model's labels."""
    convert: dict[str, Callable[[Any], object]] = {"string": str, "int": int, "bool": _as_bool}
    converted = np.empty(len(values), dtype=_DTYPES[kind])
    for row, value in enumerate(values.tolist()):
        try:
            converted[row] = convert[kind](value)
        except (ValueError, OverflowError):
            raise ContentError(
                f"target {name!r}, {place(row)}: expected a label of type {kind}, found {value!r}"
            ) from None
    return converted


def _as_bool(value: object) -> bool:
    """Convert 0 or 1 to a bool."""
    if value not in (0, 1):
        raise ValueError
    return bool(value)


def _refuse_missing(name: str, missing: NDArray[np.bool_], place: _Place) -> None:
    """Raise a ContentError if labels are missing."""
    if missing.any():
        count, first = np.count_nonzero(missing), place(int(missing.argmax()), name)
        raise ContentError(f"target {name!r} has missing labels: {count} of {len(missing)} rows, the first {first}")


def _row(row: int, column: str | None = None) -> str:
    """Tell where a row of a file without lines is."""
    return f"row {row + 1}"


def _unreadable(what: str, suffix: str, error: BaseException) -> ContentError:
    """Say that something is not what its suffix says."""
    detail = (str(error).splitlines() or [type(error).__name__])[0]
    return ContentError(f"{what} truncated, damaged or not a {suffix} file ({detail})")


def _absent(what: str, name: object, names: Iterable[str]) -> str:
    """Say that something does not exist, what does, and what may have been meant."""
    names = list(names)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"no {what} {name!r}{hint}; there are {_listed(names)}"


def _listed(names: list[str]) -> str:
    """List names, at most 20 of them."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(map(repr, names[:20])) + more
