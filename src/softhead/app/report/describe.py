"""Words for a reader of a report: numbers, values and columns of data."""

import math
import re
from typing import Any

import numpy as np

_LONGEST = 80  # characters of a value, a name or a label
_LONGEST_TEXT = 400
MOST_COLUMNS = 100


def short(value: object, longest: int = _LONGEST) -> str:
    """Return a value as text of a bounded length; line ends and control characters are spaces."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "missing"
    text = f"{value:.10g}" if isinstance(value, float | np.floating) else str(value)
    text = "".join(c if c.isprintable() else " " for c in text[: longest + 1]).strip() or "(empty)"
    return text if len(text) <= longest else text[: longest - 1] + "…"


def parts(name: str) -> list[str]:
    """Return the parts of a name, between which a narrow screen may break it."""
    return re.split(r"(?<=[_./:=-])(?=\w)", name)


def passage(text: object) -> str:
    """Return a text to read, as one paragraph, its end cut off where it is long."""
    return short(" ".join(str(text or "")[: 4 * _LONGEST_TEXT].split()), _LONGEST_TEXT)


def figure(value: float) -> str:
    """Return a number with four significant digits, with a true minus sign."""
    if value != 0.0 and not 1e-4 <= abs(value) < 1e7:
        text = f"{value:.2e}" if math.isfinite(value) else str(value)
    elif abs(value) >= 1e4:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.4g}"
    return text.replace("-", "\N{MINUS SIGN}")


def coefficient(value: float) -> str:
    """Return a number with three significant digits and its sign, such as +1.23."""
    return f"{value:+#.3g}".rstrip(".").replace("-", "\N{MINUS SIGN}")


def decimal(value: float) -> str:
    """Return a score with four decimals, so that scores of a column can be compared, or as `figure` does."""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 100.0 else figure(value)


def percent(share: float) -> str:
    """Return a share as a percentage that does not claim 0 or 100 where it is neither."""
    if math.isnan(share):
        return "\N{EN DASH}"
    if share in (0.0, 1.0):
        return f"{100 * share:.0f}%"
    usual = 1 if 0.01 <= share <= 0.99 else 2
    digits = next((digits for digits in (usual, 3) if 0.0 < round(100 * share, digits) < 100.0), None)
    if digits is None:
        return "< 0.001%" if share < 0.5 else "> 99.999%"
    return f"{100 * share:.{digits}f}%"


def count(number: int, singular: str, plural: str | None = None) -> str:
    """Return a number with a noun."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def columns(table: Any) -> list[dict[str, str]]:
    """Return what the columns of a table hold: name, kind, share of missing values, and values."""
    return [_column(name, table[name]) for name in table.column_names[:MOST_COLUMNS]]


def _column(name: str, column: Any) -> dict[str, str]:
    from pyarrow import compute, types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    missing = compute.is_null(column, nan_is_null=types.is_floating(kind))
    absent = compute.sum(missing).as_py() or 0
    held = column.filter(compute.invert(missing)) if absent else column
    known = {
        "number": (types.is_integer, types.is_floating, types.is_decimal),
        "yes or no": (types.is_boolean,),
        "time": (types.is_temporal,),
        "text": (types.is_string, types.is_large_string, types.is_string_view),
    }
    word = next((word for word, tests in known.items() if any(test(kind) for test in tests)), str(kind))
    if not len(held):
        shown = "none"
    elif word in ("number", "time"):
        low, high = compute.min_max(held).as_py().values()
        shown = short(low) if low == high else f"{short(low)} to {short(high)}"
        if word == "number":
            shown = shown.replace("-", "\N{MINUS SIGN}")
    elif word in ("text", "yes or no"):
        shown = _frequent(held)
    else:
        shown = ""
    return {
        "name": short(name),
        "kind": word,
        "missing": percent(absent / max(1, len(column))) if absent else "",
        "shown": shown,
    }


def _frequent(column: Any) -> str:
    """Return how many different values a column has, and its most frequent ones."""
    found = sorted(
        ((pair["counts"], str(pair["values"])) for pair in column.value_counts().to_pylist()),
        key=lambda pair: (-pair[0], pair[1]),
    )
    if len(found) == len(column) > 1:
        return f"{count(len(found), 'value')}, all different"
    top = ", ".join(f"{short(value, 24)} {percent(number / len(column))}" for number, value in found[:3])
    return top if len(found) <= 3 else f"{count(len(found), 'value')}: {top}, …"
