"""Line charts as rows of styled text: y axis at the left, x axis below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tui.charts.braille import Canvas
from tui.charts.series import Series
from tui.format import number

Segment = tuple[str, str]
"""(text, style name); the widget maps names to colors."""
ChartRow = list[Segment]

AXIS = 7
"""Columns of the y labels, including one space."""
MARK_DISTANCE = 12
"""Minimum distance of marks in dots (six columns)."""
FLAT = 1e-9
"""Relative spread below which a curve counts as constant."""
MIN_SIZE = (12, 3)
"""Minimum columns and rows of a chart."""


@dataclass(frozen=True)
class Curve:
    """One series and its style."""

    series: Series
    style: str
    marks: bool = False
    """Draw separate marks instead of a line, for evaluations."""
    ghost: bool = False
    """An earlier run: drawn first, below the others, and ignored by the axes."""


@dataclass(frozen=True)
class ChartStyle:
    """Options of a chart."""

    log: bool = False
    smooth: float = 0.0
    """Weight of the exponential moving average, 0 to 1; 0 disables smoothing."""
    ascii: bool = False


def draw(
    curves: Sequence[Curve],
    columns: int,
    rows: int,
    style: ChartStyle,
    until: float | None = None,
    first: float | None = None,
) -> list[ChartRow]:
    """Draw a chart of `rows` rows and `columns` columns; blank without a finite point or below MIN_SIZE.

    `until` is the end of the x axis of a growing curve; both axes then have rounded ends that rarely change. `first` is
    the start of the x axis, for charts that share it.
    """
    if columns < MIN_SIZE[0] or rows < MIN_SIZE[1]:
        return [[(" " * max(0, columns), "")] for _ in range(max(0, rows))]
    wide, high = columns - AXIS, rows - 1
    shown = [curve for curve in curves if curve.series.buckets]
    span, bounds = _span(shown), _bounds(shown, style)
    if span is None or bounds is None:
        return [[(" " * columns, "")] for _ in range(rows)]
    if until is not None:
        span, bounds = (
            (span[0] if first is None else first, max(span[1], until)),
            steady(bounds, style.log and bounds[0] > 0),
        )
    canvas = Canvas(wide, high)
    scale = Scale(bounds, canvas.height, style.log and bounds[0] > 0)
    for place in sorted(range(len(shown)), key=lambda n: not shown[n].ghost):
        _plot(shown[place], canvas, span, scale, style, place)
    return [*_body(canvas, scale, shown, style), _foot(span, columns)]


@dataclass(frozen=True)
class Scale:
    """Maps values to dot rows."""

    bounds: tuple[float, float]
    height: int
    log: bool

    def __call__(self, value: float) -> int:
        low, high = (self._fold(bound) for bound in self.bounds)
        if self.log and value <= 0:
            return self.height - 1
        share = (self._fold(value) - low) / (high - low)
        return round((1 - min(2.0, max(-1.0, share))) * (self.height - 1))  # far outside, where nothing is drawn

    def value(self, share: float) -> float:
        """The value at a share of the height, 0 at the bottom."""
        low, high = (self._fold(bound) for bound in self.bounds)
        place = low + share * (high - low)
        return float(10**place) if self.log else place

    def _fold(self, value: float) -> float:
        return math.log10(value) if self.log else value


NICE = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
"""Rounded ends of an axis, in powers of ten."""


def reach(last: float, most: float) -> float:
    """End of the x axis of a growing curve: the next rounded value after its last point, at most `most`.

    An axis that ends at the last point would shift every column at every step, and the whole chart would have to be
    sent to the terminal each time.
    """
    if last < 10:
        return min(10.0, max(last, most))
    power: float = 10.0 ** math.floor(math.log10(last))
    nice = next((one * power for one in NICE if one * power >= last), 10.0 * power)
    return min(nice, max(last, most))


def steady(bounds: tuple[float, float], log: bool) -> tuple[float, float]:
    """Rounded bounds around these, so that the y axis of a growing curve rarely changes."""
    if log:
        low, high = (math.log10(bound) * 5 for bound in bounds)
        return 10 ** (math.floor(low) / 5), 10 ** (math.ceil(high) / 5)
    rough = (bounds[1] - bounds[0]) / 10
    power: float = 10.0 ** math.floor(math.log10(rough))
    step = next(one * power for one in (1, 2, 5, 10) if one * power >= rough)
    return math.floor(bounds[0] / step) * step, math.ceil(bounds[1] / step) * step


def _span(curves: Sequence[Curve]) -> tuple[float, float] | None:
    live = [curve for curve in curves if not curve.ghost] or list(curves)
    spans = [span for curve in live if (span := curve.series.span())]
    return (min(a for a, _ in spans), max(b for _, b in spans)) if spans else None


def _bounds(curves: Sequence[Curve], style: ChartStyle) -> tuple[float, float] | None:
    """Bounds of the y axis, from the ghosts where there are no other curves; never of zero height."""
    live = [curve for curve in curves if not curve.ghost] or list(curves)
    found = [bounds for curve in live if (bounds := _smoothed(curve, style).bounds())]
    if not found:
        return None
    low, high = min(a for a, _ in found), max(b for _, b in found)
    if high - low > abs(high) * FLAT:
        return low, high
    margin = abs(low) * 0.05 or 1.0
    return low - margin, high + margin


def _smoothed(curve: Curve, style: ChartStyle) -> Series:
    return curve.series.smoothed(style.smooth) if style.smooth and not curve.marks else curve.series


def _plot(curve: Curve, canvas: Canvas, span: tuple[float, float], scale: Scale, style: ChartStyle, owner: int) -> None:
    width = canvas.width
    columns = list(_smoothed(curve, style).columns(*span, width))
    if curve.marks:
        if len(columns) > width // MARK_DISTANCE:  # too many marks would hide the curve: show means of neighbors
            blocks = curve.series.columns(*span, width // MARK_DISTANCE)
            columns = [(block * MARK_DISTANCE + MARK_DISTANCE // 2, bucket) for block, bucket in blocks]
        for x, bucket in columns:
            y = scale(bucket.mean)
            for at_x, at_y in ((x, y), (x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)):
                canvas.dot(at_x, at_y, owner)
        return
    canvas.path([(x, scale(bucket.mean)) for x, bucket in columns], owner)
    for x, bucket in columns:  # also show the range of the points in a column
        if bucket.count > 1:
            canvas.line(x, scale(bucket.low), x, scale(bucket.high), owner)


def _body(canvas: Canvas, scale: Scale, curves: Sequence[Curve], style: ChartStyle) -> list[ChartRow]:
    rows: list[ChartRow] = []
    labeled = {0: 1.0, canvas.rows - 1: 0.0}
    if canvas.rows >= 5:
        labeled[(canvas.rows - 1) // 2] = 1 - ((canvas.rows - 1) // 2) / (canvas.rows - 1)
    for row in range(canvas.rows):
        label = number(scale.value(labeled[row])) if row in labeled else ""
        line: ChartRow = [(f"{label:>{AXIS - 1}} ", "axis")]
        line += [(text, curves[owner].style if owner >= 0 else "") for text, owner in canvas.text(row, style.ascii)]
        rows.append(line)
    return rows


def _foot(span: tuple[float, float], columns: int) -> ChartRow:
    left, right = number(span[0]), number(span[1])
    gap = columns - AXIS - len(left) - len(right)
    text = f"{'':{AXIS}}{left}{' ' * max(1, gap)}{right}"
    return [(text[:columns].ljust(columns), "axis")]
