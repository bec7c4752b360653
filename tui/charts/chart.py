"""Draws curves into rows of styled text, without an app: axes at the left and below, dots in between."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tui.charts.braille import Canvas
from tui.charts.series import Series
from tui.format import number

Segment = tuple[str, str]
"""(text, style name); the widget turns names into colours."""
Row = list[Segment]

AXIS = 7
"""Columns of the y labels, with the space behind them."""
APART = 12
"""Dots between marks, at least: six columns."""
FLAT = 1e-9
"""Of a value: a spread below this is rounding."""
SMALLEST = (12, 3)
"""Columns and rows below which there is nothing to draw into."""


@dataclass(frozen=True)
class Curve:
    """One series and how it looks."""

    series: Series
    style: str
    marks: bool = False
    """Single marks and no line: evaluations."""
    ghost: bool = False
    """An earlier run: drawn first, never smoothed over, and not what the axes are made for."""


@dataclass(frozen=True)
class ChartStyle:
    """What one may switch."""

    log: bool = False
    smooth: float = 0.0
    """Weight of the moving average, 0 to 1; 0 draws what was measured."""
    ascii: bool = False


def draw(curves: Sequence[Curve], columns: int, rows: int, look: ChartStyle, until: float | None = None) -> list[Row]:
    """`rows` rows of `columns` columns. Without a finite point, or without room, the rows are empty.

    `until` is where the x axis of a growing curve ends; both axes then stay still as long as they can.
    """
    if columns < SMALLEST[0] or rows < SMALLEST[1]:
        return [[(" " * max(0, columns), "")] for _ in range(max(0, rows))]
    wide, high = columns - AXIS, rows - 1
    shown = [curve for curve in curves if curve.series.buckets]
    span, bounds = _span(shown), _bounds(shown, look)
    if span is None or bounds is None:
        return [[(" " * columns, "")] for _ in range(rows)]
    if until is not None:
        span, bounds = (span[0], max(span[1], until)), steady(bounds, look.log and bounds[0] > 0)
    canvas = Canvas(wide, high)
    scale = Scale(bounds, canvas.height, look.log and bounds[0] > 0)
    for place in sorted(range(len(shown)), key=lambda n: not shown[n].ghost):
        _plot(shown[place], canvas, span, scale, look, place)
    return [*_body(canvas, scale, shown, look), _foot(span, columns)]


@dataclass(frozen=True)
class Scale:
    """From values to dot rows."""

    bounds: tuple[float, float]
    height: int
    log: bool

    def __call__(self, value: float) -> int:
        low, high = (self._fold(bound) for bound in self.bounds)
        if self.log and value <= 0:
            return self.height - 1
        share = (self._fold(value) - low) / (high - low)
        return round((1 - min(2.0, max(-1.0, share))) * (self.height - 1))  # what lies far outside is drawn nowhere

    def value(self, share: float) -> float:
        """The value at a share of the height, 0 at the bottom."""
        low, high = (self._fold(bound) for bound in self.bounds)
        place = low + share * (high - low)
        return float(10**place) if self.log else place

    def _fold(self, value: float) -> float:
        return math.log10(value) if self.log else value


NICE = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
"""Where an axis may end, in powers of ten."""


def reach(last: float, most: float) -> float:
    """Where the x axis of a growing curve ends: beyond its last point, at most at the last there will be.

    It moves only now and then. An axis that ended with the last point would move every column at every step, and the
    whole chart would go over the line each time.
    """
    if last < 10:
        return min(10.0, max(last, most))
    power: float = 10.0 ** math.floor(math.log10(last))
    nice = next((one * power for one in NICE if one * power >= last), 10.0 * power)
    return min(nice, max(last, most))


def steady(bounds: tuple[float, float], log: bool) -> tuple[float, float]:
    """Round bounds around these, for the y axis of a growing curve: it too moves only now and then."""
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


def _bounds(curves: Sequence[Curve], look: ChartStyle) -> tuple[float, float] | None:
    """The axis: of the live curves, or of the ghosts where there are no others. Never of no height."""
    live = [curve for curve in curves if not curve.ghost] or list(curves)
    found = [bounds for curve in live if (bounds := _smoothed(curve, look).bounds())]
    if not found:
        return None
    low, high = min(a for a, _ in found), max(b for _, b in found)
    if high - low > abs(high) * FLAT:
        return low, high
    margin = abs(low) * 0.05 or 1.0
    return low - margin, high + margin


def _smoothed(curve: Curve, look: ChartStyle) -> Series:
    return curve.series.smoothed(look.smooth) if look.smooth and not curve.marks else curve.series


def _plot(curve: Curve, canvas: Canvas, span: tuple[float, float], scale: Scale, look: ChartStyle, owner: int) -> None:
    width = canvas.width
    columns = list(_smoothed(curve, look).columns(*span, width))
    if curve.marks:
        if len(columns) > width // APART:  # so many would hide the curve: the means of neighbours
            blocks = curve.series.columns(*span, width // APART)
            columns = [(block * APART + APART // 2, bucket) for block, bucket in blocks]
        for x, bucket in columns:
            y = scale(bucket.mean)
            for at_x, at_y in ((x, y), (x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)):
                canvas.dot(at_x, at_y, owner)
        return
    canvas.path([(x, scale(bucket.mean)) for x, bucket in columns], owner)
    for x, bucket in columns:  # what a column hides between its lowest and highest point is shown as well
        if bucket.count > 1:
            canvas.line(x, scale(bucket.low), x, scale(bucket.high), owner)


def _body(canvas: Canvas, scale: Scale, curves: Sequence[Curve], look: ChartStyle) -> list[Row]:
    rows: list[Row] = []
    labelled = {0: 1.0, canvas.rows - 1: 0.0}
    if canvas.rows >= 5:
        labelled[(canvas.rows - 1) // 2] = 1 - ((canvas.rows - 1) // 2) / (canvas.rows - 1)
    for row in range(canvas.rows):
        label = number(scale.value(labelled[row])) if row in labelled else ""
        line: Row = [(f"{label:>{AXIS - 1}} ", "axis")]
        line += [(text, curves[owner].style if owner >= 0 else "") for text, owner in canvas.text(row, look.ascii)]
        rows.append(line)
    return rows


def _foot(span: tuple[float, float], columns: int) -> Row:
    left, right = number(span[0]), number(span[1])
    gap = columns - AXIS - len(left) - len(right)
    text = f"{'':{AXIS}}{left}{' ' * max(1, gap)}{right}"
    return [(text[:columns].ljust(columns), "axis")]
