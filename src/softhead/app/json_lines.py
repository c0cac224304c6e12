"""JSON Lines to an Arrow table: one object a line, with the line and key of whatever is wrong."""

import codecs
import json
from collections.abc import Callable, Iterable
from typing import Any

from softhead.app.csv_table import ContentError

_KINDS = {str: "a string", bool: "true or false", int: "a whole number", float: "a number"}


def read_json_lines(data: bytes, columns: Iterable[str] | None) -> tuple[Any, Callable[..., str]]:
    """Read JSON Lines as an Arrow table of strings, bools and numbers; a key that a line lacks is missing there.

    Only the named columns are looked at, where there are any names: others may hold anything. Returns the table and a
    function that tells where row i (from 0) is. Raises ContentError.
    """
    import pyarrow as pa

    wanted = None if columns is None else set(columns)
    objects, lines = [], []
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).splitlines(), start=1):
        if line.strip():
            objects.append(_object(line, number))
            lines.append(number)
    if not objects:
        raise ContentError("is empty")
    names = dict.fromkeys(key for one in objects for key in one)
    table = {}
    for name in names:
        if wanted is not None and name not in wanted:
            table[name] = pa.nulls(len(objects))
            continue
        values = [one.get(name) for one in objects]
        _check_kinds(name, values, lines)
        try:
            table[name] = pa.array(values)
        except (pa.ArrowException, OverflowError) as error:
            raise ContentError(f"column {name!r} cannot be read: {str(error).splitlines()[0]}") from None

    def place(row: int, column: str = "") -> str:
        return f"row {row + 1} (line {lines[row]})"

    return pa.table(table), place


class _DuplicateError(ValueError):
    """A key that an object has twice."""


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON as a dict, or raise: the last value of a key would silently win."""
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateError(next(key for key in keys if keys.count(key) > 1))
    return value


def _object(line: bytes, number: int) -> dict[str, Any]:
    """Return the object in a line."""
    try:
        value = json.loads(line.decode(), object_pairs_hook=_without_duplicates)
    except UnicodeDecodeError:
        raise ContentError(f"line {number}: is not UTF-8 text") from None
    except _DuplicateError as error:
        raise ContentError(f"line {number}: has the key {error.args[0]!r} twice") from None
    except (ValueError, RecursionError) as error:
        raise ContentError(f"line {number}: is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ContentError(f"line {number}: is not a JSON object")
    return value


def _check_kinds(name: str, values: list[Any], lines: list[int]) -> None:
    """Refuse values of several kinds in one column, and such as a table cannot hold."""
    first: tuple[str, int] | None = None
    for value, line in zip(values, lines, strict=True):
        if value is None:
            continue
        kind = _KINDS.get(type(value))
        if kind is None:
            what = "a list" if isinstance(value, list) else "an object"
            raise ContentError(f"line {line}, column {name!r}: found {what}; accepted are strings, numbers and bools")
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ContentError(f"line {line}, column {name!r}: holds half of a surrogate pair") from None
        if first is None:
            first = kind, line
        elif kind != first[0] and not {kind, first[0]} <= {_KINDS[int], _KINDS[float]}:
            raise ContentError(f"line {line}, column {name!r}: found {kind}, after {first[0]} in line {first[1]}")
