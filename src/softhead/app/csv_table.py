"""CSV text to an Arrow table, with the row, line and column of whatever is wrong."""

import codecs
import csv
import io
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

_BLOCK = 1 << 24  # bytes that Arrow reads at once; no row may be longer
_END = "\0"  # stands after the last line while rows are counted; text that contains it is refused


class ContentError(Exception):
    """What is wrong with the contents of a file, without its name."""


def read_csv(data: bytes, delimiter: str, text_columns: Iterable[str]) -> tuple[Any, Callable[..., str]]:
    """Read CSV text as an Arrow table; `text_columns` stay text whatever they look like.

    Returns the table and a function that tells where row i (from 0) is, such as "row 3 (line 4)"; given the name of a
    column too, what is written there if it is not empty. Raises ContentError.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ContentError("is UTF-16 text; accepted is UTF-8")
    if _END.encode() in data:
        raise ContentError("is not a text file: it contains zero bytes")
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(data),
            read_options=arrow_csv.ReadOptions(block_size=_BLOCK),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                strings_can_be_null=True, column_types=dict.fromkeys(text_columns, pa.string())
            ),
        )
        kinds = dict(zip(table.column_names, table.schema.types, strict=True))  # decodes the names
    except (pa.ArrowException, UnicodeDecodeError) as error:
        _find_fault(data, delimiter)
        raise ContentError(f"cannot be read as CSV: {str(error).splitlines()[0]}") from None
    # Arrow reads bytes that are not UTF-8 as binary, and lets the end of the file close a quote.
    if data.count(b'"') % 2 or any(map(pa.types.is_binary, kinds.values())) or not table.num_rows:
        _find_fault(data, delimiter)

    def place(row: int, column: str | None = None) -> str:
        line, cells = next((line, cells) for number, line, cells in _records(data, delimiter) if number == row + 1)
        cell = "" if column is None else cells[table.column_names.index(column)]
        return f"row {row + 1} (line {line})" + (f", where {cell!r} stands for a missing value" if cell else "")

    return table, place


def _find_fault(data: bytes, delimiter: str) -> None:
    """Raise a ContentError for the first fault of a CSV text, if there is one."""
    header: list[str] | None = None
    number = 0
    for number, line, cells in _records(data, delimiter):
        if header is None:
            header = cells
        if len(cells) != len(header):
            raise ContentError(
                f"row {number} (line {line}): expected {len(header)} fields as in the header, found {len(cells)}"
            )
        for position, cell in enumerate(cells):
            if not cell.isascii() and any("\udc80" <= letter <= "\udcff" for letter in cell):
                where = f"row {number} (line {line}), column {header[position]!r}" if number else "the header"
                raise ContentError(f"{where}: is not UTF-8 text")
    if header is None:
        raise ContentError("is empty")
    if number == 0:
        raise ContentError("has a header but no rows")


def _records(data: bytes, delimiter: str) -> Iterator[tuple[int, int, list[str]]]:
    """Yield number (0 for the header), first line and fields of each row; blank lines are no rows.

    Slower than Arrow, and used only once a fault is known. Bytes that are not UTF-8 become lone surrogates.
    """
    lines = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(chain(lines, [_END + delimiter]), delimiter=delimiter)
    limit = csv.field_size_limit(2**31 - 1)
    try:
        number, line = 0, 1
        for cells in reader:
            if cells == [_END, ""]:
                return
            if cells and _END in cells[-1]:  # the last line is part of a quoted field
                raise ContentError(f"row {number} (line {line}): a quote is opened and never closed")
            if cells:
                yield number, line, cells
                number += 1
            line = reader.line_num + 1
    finally:
        csv.field_size_limit(limit)
