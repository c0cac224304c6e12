"""The drawings of the report, as numbers: shapes in the units of a picture, which the template writes out as SVG.

Nothing here is markup, so that every text is escaped in one place, the template, and colours follow the page's theme.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from unicodedata import east_asian_width

import numpy as np
from numpy.typing import ArrayLike

from softhead._reliability import ReliabilityTable

_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 20, 12, 40  # room for the axes' texts
_MOST_POINTS = 200  # of a curve: no screen shows more
_NUMBERS_UP_TO = 12  # classes of a confusion matrix whose cells hold their counts
LABELS_UP_TO = 24  # and beside which their labels find room
_LABEL = 90.0  # pixels
_SHADES = 5
_MOST_CELLS = 20_000  # 0.5 MB
_BELOW = "confidence; below, the share of rows in each bin"


class Mark(NamedTuple):
    """A path by its commands, or where `text` is set a text at (x, y); `style` is a class of the style sheet."""

    style: str
    path: str = ""
    text: str = ""
    x: float = 0.0
    y: float = 0.0
    anchor: str = "middle"
    turn: int = 0  # degrees


@dataclass
class Chart:
    """A drawing with a title and a description for readers who do not see it."""

    title: str
    description: str
    width: int = 360
    height: int = 270
    marks: list[Mark] = field(default_factory=list)


class _Axis:
    """A range of values on a range of the picture."""

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool = False) -> None:
        self.log = log
        if not high > low:
            low, high = (low / 2.0, low * 2.0) if log else (low - 0.5, low + 0.5)
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        share = ((math.log(value) if self.log else value) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Return round values inside the range and their texts, about five."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            if last > first:
                every = max(1, math.ceil((last - first) / 5))
                return [(10.0**k, _power(k)) for k in range(first, last + 1, every)]
            return [(value, f"{value:.3g}") for value in (self.low, self.high)]
        raw = (self.high - self.low) / 4
        power = 10.0 ** math.floor(math.log10(raw))
        step = power * min((1.0, 2.0, 2.5, 5.0, 10.0), key=lambda factor: abs(math.log(factor * power / raw)))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(k * step, f"{k * step:.6g}") for k in range(first, last + 1)]


def _power(exponent: int) -> str:
    """Return a power of ten as text, plain where that is short."""
    if -3 <= exponent <= 4:
        return f"{10.0**exponent:g}"
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _at(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _line(xs: Sequence[float], ys: Sequence[float]) -> str:
    return "M" + "L".join(f"{_at(x)} {_at(y)}" for x, y in zip(xs, ys, strict=True))


def _box(x: float, y: float, width: float, height: float) -> str:
    return f"M{_at(x)} {_at(y)}h{_at(width)}v{_at(height)}h{_at(-width)}z"


def _dot(x: float, y: float, radius: float = 3.0) -> str:
    r = _at(radius)
    return f"M{_at(x - radius)} {_at(y)}a{r} {r} 0 1 0 {_at(2 * radius)} 0a{r} {r} 0 1 0 {_at(-2 * radius)} 0z"


def _axes(chart: Chart, x: _Axis, y: _Axis, x_label: str, y_label: str) -> None:
    """Draw the grid, the ticks' texts and the names of the axes."""
    for value, text in y.ticks():
        chart.marks.append(Mark("grid", _line([x.start, x.end], [y(value)] * 2)))
        chart.marks.append(Mark("tick", text=text, x=x.start - 7, y=y(value) + 4, anchor="end"))
    for value, text in x.ticks():
        chart.marks.append(Mark("axis", _line([x(value)] * 2, [y.start, y.start + 4])))
        chart.marks.append(Mark("tick", text=text, x=x(value), y=y.start + 17))
    chart.marks.append(Mark("axis", _line([x.start, x.end], [y.start] * 2)))
    chart.marks.append(Mark("name", text=x_label, x=(x.start + x.end) / 2, y=chart.height - 5))
    chart.marks.append(Mark("name", text=y_label, x=12, y=(y.start + y.end) / 2, turn=-90))


def curve(
    title: str,
    description: str,
    xs: ArrayLike,
    ys: ArrayLike,
    *,
    x_label: str,
    y_label: str,
    spread: ArrayLike | None = None,
    marked: int | None = None,
    log_x: bool = False,
    log_y: bool = False,
    from_zero: bool = False,
    points: bool = False,
) -> Chart:
    """Draw y over x, in increasing x: a line, a band of `spread` to either side, and one marked point."""
    chart = Chart(title, description)
    x_values, y_values = np.asarray(xs, float), np.asarray(ys, float)
    widths = np.zeros(len(y_values)) if spread is None else np.asarray(spread, float)
    low, high = float((y_values - widths).min()), float((y_values + widths).max())
    if from_zero:
        low, high = min(0.0, low), high if high > 0.0 else 0.01
    if not log_y:
        room = 0.06 * (high - low)
        low, high = (low if from_zero else low - room), high + room
    x = _Axis(float(x_values[0]), float(x_values[-1]), _LEFT, chart.width - _RIGHT, log=log_x)
    y = _Axis(low, high, chart.height - _BOTTOM, _TOP, log=log_y)
    _axes(chart, x, y, x_label, y_label)
    if len(x_values) > _MOST_POINTS:
        kept = np.unique(np.linspace(0, len(x_values) - 1, _MOST_POINTS).astype(int))
        x_values, y_values, widths = x_values[kept], y_values[kept], widths[kept]
    across = [x(value) for value in x_values]
    if spread is not None:
        above = [y(value) for value in y_values + widths]
        below = [y(value) for value in y_values - widths]
        chart.marks.append(Mark("band", _line(across + across[::-1], above + below[::-1]) + "z"))
    up = [y(value) for value in y_values]
    chart.marks.append(Mark("line", _line(across, up)))
    if points:
        chart.marks.append(Mark("dots", "".join(_dot(a, u, 2.5) for a, u in zip(across, up, strict=True))))
    if marked is not None:
        chart.marks.append(Mark("marker", _line([across[marked]] * 2, [y.start, y.end])))
        chart.marks.append(Mark("chosen", _dot(across[marked], up[marked], 5.0)))
    return chart


def reliability(
    title: str,
    description: str,
    table: ReliabilityTable,
) -> Chart:
    """Draw the accuracy of each bin over its mean confidence, with intervals, and below it the bins' shares of rows."""
    filled = table.mass > 0.0
    confidence, accuracy, mass = table.confidence[filled], table.accuracy[filled], table.mass[filled]
    chart = Chart(title, description, height=340)
    x = _Axis(0.0, 1.0, _LEFT, chart.width - _RIGHT)
    y = _Axis(0.0, 1.0, chart.height - 100, _TOP)
    _axes(chart, x, y, "", "accuracy")
    chart.marks.append(Mark("diagonal", _line([x(0.0), x(1.0)], [y(0.0), y(1.0)])))
    intervals = zip(confidence, table.low[filled], table.high[filled], strict=True)
    whiskers = [_line([x(c)] * 2, [y(bottom), y(top)]) for c, bottom, top in intervals]
    chart.marks.append(Mark("whisker", "".join(whiskers)))
    chart.marks.append(Mark("thread", _line([x(c) for c in confidence], [y(a) for a in accuracy])))
    sizes = [2.2 + 3.8 * math.sqrt(share) for share in mass]  # a bin of few rows says little
    dots = [_dot(x(c), y(a), size) for c, a, size in zip(confidence, accuracy, sizes, strict=True)]
    chart.marks.append(Mark("dots", "".join(dots)))
    floor, tallest = chart.height - _BOTTOM + 10.0, 34.0
    largest = float(mass.max())
    bars = [
        _box(x(left) + 0.5, floor - tallest * m / largest, x(right) - x(left) - 1.0, tallest * m / largest)
        for left, right, m in zip(table.lower[filled], table.upper[filled], mass, strict=True)
    ]
    chart.marks.append(Mark("mass", "".join(bars)))
    chart.marks.append(Mark("axis", _line([x.start, x.end], [floor] * 2)))
    chart.marks.append(Mark("tick", text=f"{100 * largest:.0f}%", x=x.start - 7, y=floor - tallest + 8, anchor="end"))
    chart.marks.append(
        Mark(
            "name", text="confidence; below, the share of rows in each bin", x=(x.start + x.end) / 2, y=chart.height - 8
        )
    )
    return chart


def confusion(title: str, description: str, counts: np.ndarray, labels: Sequence[str]) -> Chart:
    """Draw a confusion matrix: rows are true classes, columns predictions, shades the share of the true class."""
    n = len(counts)
    few = n <= LABELS_UP_TO
    names = [_short(label) for label in labels] if few else []
    widest = max(map(_width, names), default=10.0)
    side = 340.0 if few else 400.0
    cell = side / n
    left, turned = int(14 + widest), few and widest > cell
    chart = Chart(title, description, width=int(left + side + 4), height=int(side + (left if turned else 24) + 6))
    top = chart.height - side - 4
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    share[share < _smallest_drawn(share)] = 0.0
    shade = np.ceil(np.sqrt(share) * _SHADES).clip(max=_SHADES).astype(int)  # roots: a few percent are to be seen
    size = cell - 1.0 if few else max(cell, 4.0)  # one of 150 classes would be a speck
    for kind, where in (("right", np.eye(n, dtype=bool)), ("wrong", ~np.eye(n, dtype=bool))):
        for level in range(1, _SHADES + 1):
            cells = np.argwhere(where & (shade == level))
            boxes = [
                _box(left + cell * (j + 0.5) - size / 2, top + cell * (i + 0.5) - size / 2, size, size)
                for i, j in cells
            ]
            if boxes:
                chart.marks.append(Mark(f"{kind} shade-{level}", "".join(boxes)))
    chart.marks.append(Mark("frame", _box(left, top, side, side)))
    if few:
        for i, j in np.argwhere((counts > 0) & (n <= _NUMBERS_UP_TO)):
            at = {"x": left + cell * (j + 0.5), "y": top + cell * (i + 0.5) + 4}
            chart.marks.append(Mark("count", text=_count(int(counts[i, j])), **at))
        for i, name in enumerate(names):
            place = cell * (i + 0.5)
            chart.marks.append(Mark("tick", text=name, x=left - 6, y=top + place + 4, anchor="end"))
            if turned:
                above = Mark("tick", text=name, x=left + place + 4, y=top - 6, anchor="start", turn=-90)
            else:
                above = Mark("tick", text=name, x=left + place, y=top - 6)
            chart.marks.append(above)
    else:
        chart.marks.append(Mark("name", text="predicted", x=left + side / 2, y=top - 8))
        chart.marks.append(Mark("name", text="true", x=left - 9, y=top + side / 2, turn=-90))
    return chart


def _smallest_drawn(share: np.ndarray) -> float:
    """Return the share from which cells are drawn: of thousands of classes, the largest only."""
    cells = share[share > 0.0]
    return float(np.partition(cells, -_MOST_CELLS)[-_MOST_CELLS]) if len(cells) > _MOST_CELLS else 0.0


def _short(label: str) -> str:
    """Return a label with its middle left out where it is long: labels of a kind often begin alike."""
    if _width(label) <= _LABEL:
        return label
    head = next(n for n in range(1, len(label)) if _width(label[: n + 1]) > 0.4 * _LABEL)
    tail = next(n for n in range(1, len(label)) if _width(label[-n - 1 :]) > 0.45 * _LABEL)
    return f"{label[:head]}…{label[-tail:]}"


def _width(label: str) -> float:
    """Return about how wide a text of 12 pixels is."""
    return sum(12.5 if east_asian_width(c) in "WF" else 8.5 if c.isupper() or c in "mwMW@%" else 7.0 for c in label)


def _count(value: int) -> str:
    """Return a count in at most four characters."""
    if value < 10_000:
        return str(value)
    return f"{value / 1e3:.0f}k" if value < 999_500 else f"{value / 1e6:.0f}M"
