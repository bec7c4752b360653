"""Memory and load of a device over the last minutes: a chart of this run and others, and sparklines."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

from textual.content import Content

from tui.charts import BLOCKS, SPARKS

MINUTES = 10
SPARK_SECONDS = 5
"""Seconds per column of a sparkline."""
GIB = 1 << 30

MINE, OTHERS, FREE = ("█", "$text-primary"), ("▓", "$text-warning"), ("░", "$foreground-muted")
PEAK = ("┃", "bold $text-error")
"""Characters of a bar with their styles: the characters differ, also in ASCII, so that nothing depends on colors."""
MUTED = "$foreground-muted"
BAND, EXPECTED = ("▒", "$error-muted"), ("╌", "$text-error")
"""In the chart: where the peak is predicted, with its error while the run uses memory."""
BEHIND = " on $error-muted"
"""Background of a cell within the band that is partly in use."""
START, HIGHEST = ("┊", MUTED), ("◆", f"reverse {MINE[1]}")
"""The start of the run, and its measured peak."""
FULL = len(BLOCKS) - 1


class Moment(NamedTuple):
    """A device in one second."""

    used: int
    """Bytes used by all processes."""
    by_run: Mapping[str, int]
    """Bytes used by each run of ftbench, by its short name."""
    load: float | None = None
    power: float | None = None
    clock: float | None = None


class MemoryHistory:
    """One moment per second. A run keeps its part when it has ended, and when another one is watched."""

    def __init__(self) -> None:
        self.moments: deque[Moment] = deque(maxlen=MINUTES * 60)
        self.taken = 0

    def add(self, moment: Moment) -> None:
        self.moments.append(moment)
        self.taken += 1

    def columns(self, width: int, seconds: int = 0) -> list[list[Moment]]:
        """The moments of each column, the latest last. Columns end at fixed times: they move once per column."""
        per = seconds or max(1, -(-MINUTES * 60 // max(1, width)))
        moments = list(self.moments)
        end, columns = len(moments), list[list[Moment]]()
        start = end - (self.taken % per or per)
        while end > 0 and len(columns) < width:
            columns.append(moments[max(0, start) : end])
            end, start = start, start - per
        return columns[::-1]

    def peak(self, run: str) -> int:
        """The most that a run has used; 0 for one that is not in the history."""
        return max((moment.by_run.get(run, 0) for moment in self.moments), default=0)

    def spark(self, value: Callable[[Moment], float | None], most: float, width: int) -> str:
        """The course of a value from 0 to `most`: the mean of SPARK_SECONDS in each column."""
        blocks = ""
        for column in self.columns(width, SPARK_SECONDS):
            values = [known for moment in column if (known := value(moment)) is not None]
            share = min(1.0, sum(values) / len(values) / most) if values else 0.0
            blocks += SPARKS[round(share * (len(SPARKS) - 1))] if values else " "
        return blocks


class Band(NamedTuple):
    """A predicted peak with the bounds of its error: bytes, without what others use."""

    low: float
    middle: float
    high: float


class ChartColumn(NamedTuple):
    """What is drawn of a column, in eighths of a row."""

    mine: int
    used: int
    band: tuple[float, float, float] | None
    present: bool
    """Whether the run used memory."""


def draw_history(
    history: MemoryHistory, total: int, run: str, band: Band | None, width: int, rows: int, note: str
) -> Iterator[Content]:
    """A stack of this run and others with the predicted peak of both, and the axis with the start of the run.

    The prediction is a line where the run uses no memory, and a band of its error where it does. `note`: what the
    history is of.
    """
    label = max(3, len(f"{total / GIB:.3g}"))
    inner = max(1, width - label - 2)
    columns = [_column(column, total, run, band, rows * FULL) for column in history.columns(inner)]
    begun = [column.present for column in columns]
    starts = {at for at in range(1, len(columns)) if begun[at] and not begun[at - 1]}
    highest = max((column.mine for column in columns), default=0)
    mark = next((at for at, column in enumerate(columns) if highest and column.mine == highest), None)
    empty = " " * (inner - len(columns))
    marks = {row: round(total * (rows - row) / rows / GIB) for row in (0, rows // 2)}
    for row in range(rows):
        floor = (rows - 1 - row) * FULL
        cells = []
        for at, column in enumerate(columns):
            if at == mark and 0 < highest - floor <= FULL:
                cells.append(HIGHEST)
            elif at + 1 in starts and column.used <= floor:
                cells.append(START)
            else:
                cells.append(_cell(column, floor))
        scale = f"{marks[row]:>{label}}" if row in marks and (row == 0 or rows > 2) else " " * label
        drawn = ((character * len(list(same)), style) for (character, style), same in groupby(cells))
        yield Content.assemble((f"{scale} ┤{empty}", MUTED), *drawn)

    first = f"-{MINUTES} min{note}"
    axis = f"{first}{'now':>{max(4, inner - len(first) - 1)}}"
    for at in sorted(starts):
        left = len(empty) + at - 2  # the axis has a space before its text
        if len(first) < left and left + len("start") < len(axis) - 4 and axis[left : left + 5].isspace():
            axis = f"{axis[:left]}start{axis[left + 5 :]}"
    yield Content.styled(f"{'':{label}} └ {axis}", MUTED)


def _column(column: list[Moment], total: int, run: str, band: Band | None, full: int) -> ChartColumn:
    """The moment of a column with the most memory in use. What is in use is never invisible."""
    moment = max(column, key=lambda moment: moment.used)
    scale = full / total if total else 0.0
    own = min(moment.used, moment.by_run.get(run, 0))
    others = moment.used - own
    mine = max(round(own * scale), own > 0)
    used = min(full, max(round(moment.used * scale), mine + (others > 0)))
    present = any(run in moment.by_run for moment in column)
    expected = None
    if band is not None:
        low, middle, high = ((bytes_ + others) * scale for bytes_ in band)
        expected = (low, min(middle, full - 0.5), high)  # what does not fit is at the top
    return ChartColumn(min(mine, full), used, expected, present)


def _cell(column: ChartColumn, floor: int) -> tuple[str, str]:
    """The character and style of a cell that begins at `floor`.

    A cell has two colors: with this run, others and free memory in it, either the others reach its top, or all of it is
    theirs, whichever is closer.
    """
    mine, used = (min(FULL, max(0, level - floor)) for level in (column.mine, column.used))
    in_band = False
    if column.band is not None:
        low, middle, high = (bound - floor for bound in column.band)
        in_band = 0 <= middle < FULL or (column.present and min(high, FULL) - max(low, 0) >= FULL / 2)
    if not used:
        return (BAND if column.present else EXPECTED) if in_band else (" ", MUTED)
    behind = BEHIND if in_band and column.present else ""
    if mine == FULL:
        return MINE
    if used == mine:
        return BLOCKS[mine], MINE[1] + behind
    if mine and FULL - used <= mine:
        return BLOCKS[mine], f"{MINE[1]} on {OTHERS[1]}"
    return OTHERS if used == FULL else (BLOCKS[used], OTHERS[1] + behind)
