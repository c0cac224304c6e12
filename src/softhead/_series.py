"""The columns of a data frame as plain arrays: which kind a column is, and its values as that kind."""

import datetime as dt
import reprlib
from collections.abc import Callable
from decimal import Decimal
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Kind: TypeAlias = Literal["number", "category", "datetime", "time"]

# Looked up in this order: an Integral is a Real too. A bool is an Integral, NumPy's is not; a datetime is a date.
_OBJECT_KINDS: tuple[tuple[tuple[type, ...], str], ...] = (
    ((str,), "text"),
    ((Integral, np.bool_), "count"),
    ((Real, Decimal, dt.timedelta), "number"),
    ((dt.date,), "datetime"),
    ((dt.time,), "time"),
)


def is_lazy(X: Any) -> bool:
    """Return whether `X` is a dask collection."""
    return type(X).__module__.partition(".")[0] == "dask"


def kind_of(series: Any, name: str) -> Kind:
    """Tell the kind of a narwhals series from its type, or from its values where the type does not say."""
    import narwhals.stable.v2 as nw

    dtype = series.dtype
    if dtype.is_numeric() or dtype in (nw.Boolean, nw.Duration):
        return "number"
    if dtype in (nw.String, nw.Categorical, nw.Enum) or series.is_null().all():
        return "category"
    if dtype in (nw.Date, nw.Datetime):
        return "datetime"
    if dtype == nw.Time:
        return "time"
    if dtype in (nw.Object, nw.Unknown):
        return _kind_of_objects(series, name)
    raise _unusable(name, f"is of type {dtype}")


def values_of(series: Any, kind: Kind, name: str) -> Any:
    """Read a narwhals series as `kind`.

    Categories are a list of strings, None where missing. The other kinds are a float64 array of shape (n, 1), NaN where
    missing: numbers (durations in seconds), seconds since 1970-01-01 UTC (naive datetimes taken as UTC), seconds since
    midnight.
    """
    if kind == "category":
        return _texts(series)
    values = {"number": _numbers, "datetime": _datetimes, "time": _times}[kind](series, name)[:, np.newaxis]
    refuse_infinity(values, [name])
    return values


def refuse_infinity(values: NDArray[Any], names: list[str], first_row: int = 0) -> None:
    """Raise a ValueError that names the first infinite entry of a 2-D array, if there is one."""
    infinite = np.isinf(values)
    if infinite.any():
        row, column = np.argwhere(infinite)[0]
        raise ValueError(
            f"column {names[column]!r}, row {first_row + row + 1}: found {values[row, column]}; "
            "accepted are finite numbers, and NaN for a missing value"
        )


def _kind_of_objects(series: Any, name: str) -> Kind:
    """Tell the kind of a column of Python objects; whole numbers and bools in such a column are categories."""
    import narwhals.stable.v2 as nw

    types = {type(value) for value in series.drop_nulls().to_list()}
    kinds = {next((kind for bases, kind in _OBJECT_KINDS if issubclass(t, bases)), "other") for t in types}
    if kinds <= {"count", "number"}:
        # An unknown type that yields numbers is a numeric extension type, such as pandas' sparse columns.
        return "number" if "number" in kinds or series.dtype == nw.Unknown else "category"
    if kinds <= {"text", "count"}:
        return "category"
    if kinds == {"datetime"}:
        return "datetime"
    if kinds == {"time"}:
        return "time"
    raise _unusable(name, f"holds objects of type {', '.join(sorted(t.__name__ for t in types))}")


def _unusable(name: str, what: str) -> TypeError:
    """Say that a column's type has no use as features."""
    return TypeError(
        f"column {name!r} {what}; accepted are columns of numbers, bools, durations, strings, categories, dates, "
        "datetimes or times, each of one kind"
    )


def _texts(series: Any) -> list[str | None]:
    """Return every value as a string, None where it is missing."""
    missing = series.is_null().to_list()
    texts = [None if absent else _text(value) for value, absent in zip(series.to_list(), missing, strict=True)]
    if series.dtype.is_float():  # polars and Arrow tell NaN from null; here both are missing values
        texts = [None if text == "nan" else text for text in texts]
    return texts


def _text(value: Any) -> str:
    """Return a value as text; a whole float as the integer that it was before a value was missing beside it."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _numbers(series: Any, name: str) -> NDArray[np.float64]:
    """Read numbers, bools and durations (in seconds); text that spells numbers is read as numbers."""
    import narwhals.stable.v2 as nw

    if series.dtype.is_integer():  # Arrow refuses to cast what float64 rounds, such as identifiers above 2**53
        values = series.fill_null(0).to_numpy().astype(np.float64)
        values[series.is_null().to_numpy()] = np.nan
        return values
    if series.dtype.is_numeric() or series.dtype == nw.Boolean:
        return series.cast(nw.Float64).to_numpy()
    if series.dtype == nw.Duration:
        return series.dt.total_microseconds().cast(nw.Float64).to_numpy() / 1e6
    return _parsed(series, _number, "a number", name)


def _datetimes(series: Any, name: str) -> NDArray[np.float64]:
    """Read dates and datetimes; text in ISO 8601 form is read as such."""
    import narwhals.stable.v2 as nw

    if series.dtype in (nw.Date, nw.Datetime):
        return series.dt.timestamp("ms").cast(nw.Float64).to_numpy() / 1e3  # in microseconds the year 2255 overflows
    return _parsed(series, _seconds_since_epoch, "a date or datetime", name)


def _times(series: Any, name: str) -> NDArray[np.float64]:
    """Read times of day; text in ISO 8601 form is read as such."""
    return _parsed(series, _seconds_since_midnight, "a time of day", name)


def _parsed(series: Any, convert: Callable[[Any], float], expected: str, name: str) -> NDArray[np.float64]:
    """Convert a column value by value; the first that cannot be converted is named in a ValueError."""
    result = np.full(len(series), np.nan)
    missing = series.is_null().to_list()
    for row, (value, absent) in enumerate(zip(series.to_list(), missing, strict=True)):
        if not absent:
            try:
                result[row] = convert(value)
            except (TypeError, ValueError, OverflowError):
                found = reprlib.repr(value)
                raise ValueError(f"column {name!r}, row {row + 1}: expected {expected}, found {found}") from None
    return result


def _number(value: Any) -> float:
    """Convert a number, a bool, a duration or text that spells a number (not with Python's underscores)."""
    if isinstance(value, str) and "_" in value:
        raise ValueError
    return value.total_seconds() if isinstance(value, dt.timedelta) else float(value)


def _seconds_since_epoch(value: Any) -> float:
    """Convert a date, a datetime or either in ISO 8601 form."""
    moment = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(moment, dt.datetime):
        moment = dt.datetime.combine(moment, dt.time())
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()


def _seconds_since_midnight(value: Any) -> float:
    """Convert a time of day, or one in ISO 8601 form."""
    time = dt.time.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(time, dt.time):
        raise TypeError
    return time.hour * 3600 + time.minute * 60 + time.second + time.microsecond / 1e6
