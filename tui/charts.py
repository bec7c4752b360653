"""Curves and charts as rows of styled text: braille or ASCII lines with two axes, bars, sparklines, histograms."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from msgspec import Struct

from engine.config.quantities import share_percent
from engine.config.text import amount
from tui.format import number

StyledText = tuple[str, str]
"""Text and its style, or the name of its style, which the widget maps to a color."""
ChartRow = list[StyledText]

LARGEST = 1e100
"""Values from here on count as not finite: beyond the range of float32, and sums of smaller values stay finite."""
MAX_BUCKETS = 4096
"""Maximum number of buckets: several times the columns of any terminal."""


@dataclass(slots=True)
class Bucket:
    """Neighboring points aggregated into one."""

    first: float
    last: float
    low: float
    high: float
    total: float
    count: int

    @property
    def mean(self) -> float:
        return self.total / self.count

    def take(self, x: float, y: float) -> None:
        self.last = x
        if y < self.low:
            self.low = y
        elif y > self.high:
            self.high = y
        self.total += y
        self.count += 1

    def merge(self, other: Bucket) -> None:
        """Add the points of the following bucket."""
        self.last = other.last
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.total += other.total
        self.count += other.count


class Series:
    """A curve of any length in bounded memory: buckets of neighboring points, merged in pairs when there are too many.

    y over increasing x. Points that are not finite are counted but not stored, so they never affect the bounds."""

    def __init__(self, most: int = MAX_BUCKETS) -> None:
        self.most = most
        self.buckets: list[Bucket] = []
        self.size = 1
        """Points per full bucket."""
        self.absent = 0
        """Number of points that were not finite."""
        self.latest: float | None = None

    def __len__(self) -> int:
        return sum(bucket.count for bucket in self.buckets)

    def add(self, x: float, y: float | None) -> None:
        """Append a point; one at or before the last x replaces all points from there (a resumed run repeats steps)."""
        if y is None or not abs(y) < LARGEST:
            self.absent += 1
            return
        while self.buckets and self.buckets[-1].last >= x:
            self.buckets.pop()
        self.latest = y
        if self.buckets and self.buckets[-1].count < self.size:
            self.buckets[-1].take(x, y)
            return
        self.buckets.append(Bucket(x, x, y, y, y, 1))
        if len(self.buckets) > self.most:  # halve their number by merging pairs
            for one, other in zip(self.buckets[::2], self.buckets[1::2], strict=False):
                one.merge(other)
            self.buckets, self.size = self.buckets[::2], self.size * 2

    def extend(self, points: Iterable[tuple[float, float | None]]) -> None:
        for x, y in points:
            self.add(x, y)

    def span(self) -> tuple[float, float] | None:
        """(first, last) x."""
        return (self.buckets[0].first, self.buckets[-1].last) if self.buckets else None

    def at(self, x: float) -> float | None:
        """The mean of the points nearest to x; None without points."""
        if not self.buckets:
            return None
        place = bisect_left(self.buckets, x, key=lambda bucket: bucket.last)
        near = self.buckets[max(0, place - 1) : place + 1]
        return min(near, key=lambda bucket: max(bucket.first - x, x - bucket.last, 0.0)).mean

    def columns(self, left: float, right: float, count: int) -> list[tuple[int, Bucket]]:
        """(column, aggregated points) for `count` equal columns of [left, right]; empty columns are skipped."""
        width = (right - left) / count if right > left else 1.0
        points: dict[int, Bucket] = {}
        for bucket in self.buckets:
            middle = (bucket.first + bucket.last) / 2
            if left <= middle <= right:
                column = min(count - 1, int((middle - left) / width))
                if column in points:
                    points[column].merge(bucket)
                else:
                    points[column] = replace(bucket)
        return list(points.items())

    def smoothed(self, weight: float) -> Series:
        """Exponential moving average of the bucket means with bias correction, as in Adam."""
        smoothed = Series(self.most)
        average, norm = 0.0, 0.0
        for bucket in self.buckets:
            average = weight * average + (1 - weight) * bucket.mean
            norm = weight * norm + (1 - weight)
            value = average / norm
            smoothed.buckets.append(Bucket(bucket.first, bucket.last, value, value, value, 1))
        smoothed.latest = smoothed.buckets[-1].mean if smoothed.buckets else None
        return smoothed


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
        self.cells = [[(0, -1)] * columns for _ in range(rows)]
        """Per cell: the bits of its dots, and the owner that drew last, -1 for none."""
        self.letters: dict[int, str] = {}
        """In ASCII: what the cells of an owner show instead of dots."""

    def dot(self, x: int, y: int, owner: int) -> None:
        """Set a dot, (0, 0) at the upper left; dots outside are ignored."""
        if 0 <= x < self.width and 0 <= y < self.height:
            row, column = self.cells[y // 4], x // 2
            row[column] = row[column][0] | DOTS[y % 4][x % 2], owner

    def line(self, x0: int, y0: int, x1: int, y1: int, owner: int, dash: tuple[int, int] = SOLID) -> None:
        """A straight line of a pattern of DASHES, with one dot per step along its longer side."""
        dx, dy = x1 - x0, y1 - y0
        steps = max(abs(dx), abs(dy), 1)
        for step in range(steps + 1):  # halves are rounded away from the start
            x = x0 + int(dx * step / steps + math.copysign(0.5, dx))
            if x % dash[1] < dash[0]:
                self.dot(x, y0 + int(dy * step / steps + math.copysign(0.5, dy)), owner)

    def path(self, points: Sequence[tuple[int, int]], owner: int, dash: tuple[int, int] = SOLID) -> None:
        """Draw lines from point to point; a single point as a dot."""
        for (x0, y0), (x1, y1) in pairwise(points):
            self.line(x0, y0, x1, y1, owner, dash)
        if len(points) == 1:
            self.dot(*points[0], owner)

    def text(self, row: int, ascii_only: bool) -> list[tuple[str, int]]:
        """A row as runs of (text, owner); owner -1 means empty."""
        texts: list[tuple[str, int]] = []
        for owner, run in groupby(self.cells[row], key=lambda cell: cell[1]):
            letter, text = self.letters.get(owner, ""), ""
            for bits, _ in run:
                if not bits or not ascii_only:
                    text += chr(BLANK + bits) if bits else " "
                else:  # dots in the upper half: rows 1 and 2; in the lower half: rows 3 and 4
                    text += letter or ASCII[(2 if bits & 0x1B else 0) + (1 if bits & 0xE4 else 0)]
            texts.append((text, owner))
        return texts


def line_sample(place: int, ascii_only: bool) -> str:
    """A piece of a line of DASHES, for a legend."""
    canvas = Canvas(8, 1)
    canvas.letters = {0: ASCII_SERIES[place]}
    canvas.line(0, 2, canvas.width - 1, 2, 0, DASHES[place])
    return "".join(text for text, _ in canvas.text(0, ascii_only)).rstrip()


AXIS = 7
"""Columns of the y labels, including one space."""
MARK_DISTANCE = 12
"""Minimum distance of marks in dots (six columns)."""
FLAT = 1e-9
"""Relative spread below which a curve counts as constant."""
START = 0.05
"""Share of the x axis in which a spike is cut."""
FLATTENED = 0.01
"""Share of the y axis in which a curve shows no change."""
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
    log: bool = False
    smooth: float = 0.0
    """Weight of the exponential moving average, 0 to 1; 0 disables smoothing."""
    ascii: bool = False


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
    the start of the x axis, for charts that share it. A spike at the start that would flatten the rest is cut, which is
    noted below the chart.
    """
    shown = [
        replace(curve, series=curve.series.smoothed(style.smooth)) if style.smooth and not curve.marks else curve
        for curve in curves
        if curve.series.buckets
    ]
    if columns < MIN_SIZE[0] or rows < MIN_SIZE[1] or not shown:
        return [[(" " * max(0, columns), "")] for _ in range(max(0, rows))]
    wide = columns - AXIS
    buckets = [bucket for curve in shown for bucket in curve.series.buckets]
    span = min(bucket.first for bucket in buckets), max(bucket.last for bucket in buckets)
    low, high = _bounds(buckets)
    cut = ""
    if (without := _bounds_without_spike(buckets, span)) and not (style.log and low > 0):
        cut = f"vertical axis cut: values at the start up to {number(high)}"
        low, high = without
    if high - low <= abs(high) * FLAT:  # the y axis never has zero height
        margin = abs(low) * 0.05 or 1.0
        low, high = low - margin, high + margin
    if until is not None:
        span = span[0] if first is None else first, max(span[1], until)
        low, high = steady((low, high), style.log and low > 0)
    canvas = Canvas(wide, rows - 1)
    canvas.letters = {place: curve.letter or ASCII_SERIES[curve.place] for place, curve in enumerate(shown)}
    scale = Scale((low, high), canvas.height, style.log and low > 0)
    for place, curve in enumerate(shown):
        _plot(curve, canvas, span, scale, place)

    labeled = {0: 1.0, canvas.rows - 1: 0.0}
    if canvas.rows >= 5:
        labeled[(canvas.rows - 1) // 2] = 1 - ((canvas.rows - 1) // 2) / (canvas.rows - 1)
    chart: list[ChartRow] = []
    for row in range(canvas.rows):
        label = number(scale.value(labeled[row])) if row in labeled else ""
        cells = canvas.text(row, style.ascii)
        line = [(text, shown[owner].style if owner >= 0 else "") for text, owner in cells]
        chart.append([(f"{label:>{AXIS - 1}} ", "axis"), *line])
    left, right = map(number, span)
    gap = max(1, wide - len(left) - len(right))
    note = next(text for text in (cut, "cut" if cut else "", "") if not text or len(text) + 2 <= gap)
    foot = f"{'':{AXIS}}{left}{note:^{gap}}{right}"
    return [*chart, [(foot[:columns].ljust(columns), "axis")]]


def _bounds(buckets: Sequence[Bucket]) -> tuple[float, float]:
    return min(bucket.low for bucket in buckets), max(bucket.high for bucket in buckets)


def _bounds_without_spike(buckets: Sequence[Bucket], span: tuple[float, float]) -> tuple[float, float] | None:
    """Bounds without high values at the start, where these would flatten the rest; None where they do not."""
    low, high = _bounds(buckets)
    start = span[0] + START * (span[1] - span[0])
    later = [bucket.high for bucket in buckets if bucket.first > start]
    return (low, max(later)) if later and max(later) - low < FLATTENED * (high - low) else None


def _plot(curve: Curve, canvas: Canvas, span: tuple[float, float], scale: Scale, owner: int) -> None:
    width = canvas.width
    columns = curve.series.columns(*span, width)
    if curve.marks:
        blocks = max(1, width // MARK_DISTANCE)
        if len(columns) > blocks:  # too many marks would hide the curve: show means of neighbors
            means = curve.series.columns(*span, blocks)
            columns = [(block * MARK_DISTANCE + MARK_DISTANCE // 2, bucket) for block, bucket in means]
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


def steady(bounds: tuple[float, float], log: bool) -> tuple[float, float]:
    """Rounded bounds around these, so that the y axis of a growing curve rarely changes."""
    if log:
        low, high = (math.log10(bound) * 5 for bound in bounds)
        return 10 ** (math.floor(low) / 5), 10 ** (math.ceil(high) / 5)
    rough = (bounds[1] - bounds[0]) / 10
    power: float = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return math.floor(bounds[0] / step) * step, math.ceil(bounds[1] / step) * step


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


def bar(share: float, width: int) -> list[StyledText]:
    """A bar of `width` columns, filled by `share` (0 to 1)."""
    full = round(max(0.0, min(1.0, share)) * max(0, width))
    return [("━" * full, "$primary"), ("─" * (max(0, width) - full), "$foreground-muted")]


BLOCKS = " ▁▂▃▄▅▆▇█"
"""Columns from empty to full, in eighths of a cell."""
SPARKS = BLOCKS[1:]
"""Blocks of a sparkline, without the empty one: the lowest point is visible too."""


def sparkline(series: Series, width: int) -> str:
    """The course of a series in one row of blocks.

    A block stands for the same steps until the row is full, and its scale has rounded ends: as the series grows, only
    the last block changes, and nothing else is sent to the terminal.
    """
    buckets = series.buckets
    if len(buckets) < 2:
        return ""
    per = 1
    while per * width < len(buckets):
        per *= 2
    groups = [buckets[at : at + per] for at in range(0, len(buckets), per)]
    means = [sum(bucket.mean for bucket in group) / len(group) for group in groups]
    scaled = means[:-1] if len(means) > 2 else means  # the last one is not complete, and may be an outlier
    low, high = min(scaled), max(scaled)
    if high > low:
        low, high = steady((low, high), False)
    heights = (min(1.0, max(0.0, (mean - low) / (high - low or 1.0))) for mean in means)
    return "".join(SPARKS[round(height * (len(SPARKS) - 1))] for height in heights)


class Histogram(Struct, frozen=True):
    """As counted by `engine.data.check`: bin n counts rows of n·width+1 to (n+1)·width tokens before truncation."""

    width: int
    counts: list[int]
    rows: int
    longest: int
    beyond: int
    """Rows longer than the last bin's end; they are counted in it."""
    longer: int
    """Rows longer than max_length."""
    lost: int
    """Of these, rows without a token in the loss after truncation."""


def draw_histogram(lengths: Histogram, cut: int, columns: int, rows: int) -> list[ChartRow]:
    """`rows` rows of bars, the axis, and the effect of `max_length`; styles are `kept`, `cut`, `axis` and `mark`."""
    per = -(-len(lengths.counts) // max(1, columns))
    bars = [sum(lengths.counts[at : at + per]) for at in range(0, len(lengths.counts), per)]
    tokens = per * lengths.width
    beyond = [column * tokens >= cut for column in range(len(bars))]
    full = len(BLOCKS) - 1
    steps, highest = rows * full, max(bars) or 1
    heights = [max(1, round(count / highest * steps)) if count else 0 for count in bars]  # never empty with a row
    drawn: list[ChartRow] = []
    for row in range(rows - 1, -1, -1):
        levels = [max(0, min(full, height - row * full)) for height in heights]
        cells = zip(levels, beyond, strict=True)
        groups = groupby(cells, key=lambda cell: cell[1])
        drawn.append([("".join(BLOCKS[level] for level, _ in run), "cut" if past else "kept") for past, run in groups])
    end = f"{tokens * len(bars):,}+" if lengths.beyond else f"{lengths.longest:,}"  # `+`: it includes longer rows
    axis: ChartRow = [(f"1{end:>{max(1, len(bars) - 1)}} tokens", "axis")]
    if not lengths.longer:
        mark = f"max_length {cut:,}: no row is truncated, the longest has {lengths.longest:,} tokens"
        return [*drawn, axis, [(mark, "axis")]]
    share = lengths.longer / lengths.rows
    label = f"max_length {cut:,}: {amount(lengths.longer, 'row')} ({share_percent(share)}) truncated"
    at = min(len(bars) - 1, (cut - 1) // tokens)  # below the column of max_length
    mark = f"{' ' * at}▲ {label}" if at <= len(bars) // 2 else f"{label} ▲".rjust(at + 1)
    return [*drawn, axis, [(mark, "mark")]]
