"""Line charts as rows of styled text: y axis at the left, x axis below, curves of braille dots or ASCII."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from tui.charts.series import Series
from tui.format import number

# Unicode's braille block numbers the dots of a cell column by column, with the lowest row last.
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
BLANK = 0x2800
ASCII = " .':"
"""Characters for a cell with no dots, dots in the lower half, in the upper half, in both."""
SOLID = (1, 1)
DASHES = (SOLID, (6, 10), (2, 4), (2, 8), (10, 14))
"""(dots drawn, period) along the x axis: lines of several runs differ without color."""
ASCII_SERIES = ("", "1", "2", "3", "4")
"""The same in ASCII, where a cell has no dots: the line consists of the run's number."""


class Canvas:
    """`columns` by `rows` cells of 2 by 4 dots each; a cell has the style of the series that drew into it last.

    Written by hand because textual-plotext requires plotext < 6, while plotext 6 is an incompatible rewrite, and
    neither has an ASCII fallback. Its updates are no smaller: for a full pane at 160x50 plotext sends 20 KB and this
    canvas 26 KB, of which `FrameDiff` sends only the cells that changed.
    """

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.width, self.height = columns * 2, rows * 4
        self.cells = [[0] * columns for _ in range(rows)]
        self.owners: list[list[int]] = [[-1] * columns for _ in range(rows)]
        self.letters: dict[int, str] = {}
        """In ASCII: what the cells of an owner show instead of dots."""

    def dot(self, x: int, y: int, owner: int) -> None:
        """Set a dot, (0, 0) at the upper left; dots outside are ignored."""
        if 0 <= x < self.width and 0 <= y < self.height:
            row, column = y // 4, x // 2
            self.cells[row][column] |= DOTS[y % 4][x % 2]
            self.owners[row][column] = owner

    def line(self, x0: int, y0: int, x1: int, y1: int, owner: int, dash: tuple[int, int] = SOLID) -> None:
        """A straight line (Bresenham 1965), of a pattern of DASHES."""
        dx, dy = abs(x1 - x0), -abs(y1 - y0)
        step_x, step_y = (1 if x0 < x1 else -1), (1 if y0 < y1 else -1)
        error = dx + dy
        while True:
            if x0 % dash[1] < dash[0]:
                self.dot(x0, y0, owner)
            if (x0, y0) == (x1, y1):
                return
            twice = 2 * error
            if twice >= dy:
                error += dy
                x0 += step_x
            if twice <= dx:
                error += dx
                y0 += step_y

    def path(self, points: Sequence[tuple[int, int]], owner: int, dash: tuple[int, int] = SOLID) -> None:
        """Draw lines from point to point; a single point as a dot."""
        for (x0, y0), (x1, y1) in pairwise(points):
            self.line(x0, y0, x1, y1, owner, dash)
        if len(points) == 1:
            self.dot(*points[0], owner)

    def text(self, row: int, ascii_only: bool) -> list[tuple[str, int]]:
        """A row as runs of (text, owner); owner -1 means empty."""
        groups = groupby(zip(self.cells[row], self.owners[row], strict=True), key=lambda cell: cell[1])
        return [
            ("".join(self._character(bits, ascii_only, self.letters.get(owner, "")) for bits, _ in run), owner)
            for owner, run in groups
        ]

    @staticmethod
    def _character(bits: int, ascii_only: bool, letter: str) -> str:
        if not bits:
            return " "
        if ascii_only and letter:
            return letter
        if not ascii_only:
            return chr(BLANK + bits)
        high, low = bits & 0x1B, bits & 0xE4  # rows 1 and 2; rows 3 and 4
        return ASCII[(2 if high else 0) + (1 if low else 0)]


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
    place: int = 0
    """Place in DASHES; 0 is a solid line."""
    letter: str = ""
    """In ASCII: what its cells show; '' for dots."""


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
    canvas.letters = {place: curve.letter or ASCII_SERIES[curve.place] for place, curve in enumerate(shown)}
    scale = Scale(bounds, canvas.height, style.log and bounds[0] > 0)
    for place, curve in enumerate(shown):
        _plot(curve, canvas, span, scale, style, place)
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
    nice = next((factor * power for factor in NICE if factor * power >= last), 10.0 * power)
    return min(nice, max(last, most))


def steady(bounds: tuple[float, float], log: bool) -> tuple[float, float]:
    """Rounded bounds around these, so that the y axis of a growing curve rarely changes."""
    if log:
        low, high = (math.log10(bound) * 5 for bound in bounds)
        return 10 ** (math.floor(low) / 5), 10 ** (math.ceil(high) / 5)
    rough = (bounds[1] - bounds[0]) / 10
    power: float = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return math.floor(bounds[0] / step) * step, math.ceil(bounds[1] / step) * step


def line_sample(place: int, ascii_only: bool) -> str:
    """A piece of a line of DASHES, for a legend."""
    canvas = Canvas(8, 1)
    canvas.letters = {0: ASCII_SERIES[place]}
    canvas.line(0, 2, canvas.width - 1, 2, 0, DASHES[place])
    return "".join(text for text, _ in canvas.text(0, ascii_only)).rstrip()


def _span(curves: Sequence[Curve]) -> tuple[float, float] | None:
    spans = [span for curve in curves if (span := curve.series.span())]
    return (min(a for a, _ in spans), max(b for _, b in spans)) if spans else None


def _bounds(curves: Sequence[Curve], style: ChartStyle) -> tuple[float, float] | None:
    """Bounds of the y axis; never of zero height."""
    extents = [bounds for curve in curves if (bounds := _smoothed(curve, style).bounds())]
    if not extents:
        return None
    low, high = min(a for a, _ in extents), max(b for _, b in extents)
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
    canvas.path([(x, scale(bucket.mean)) for x, bucket in columns], owner, DASHES[curve.place])
    if curve.place:
        return
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
