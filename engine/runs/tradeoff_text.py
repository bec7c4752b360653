"""The summary's figure in characters: share of gain against share of cost, for terminals and Markdown.

Each rung is a cross: its letter at the means, `│` the confidence interval of its share of the gain, `─` the range of
its cost over the seeds. The corner of the rule of thumb is shaded. The cost axis is logarithmic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.config.text import visible
from engine.runs.ladder.rung_results import LadderSummary, RungTradeoff

ROWS = 11
LEFT = 6
"""Columns of the labels of the vertical axis."""
MIN_COLUMNS, MAX_COLUMNS = 40, 76
LOWEST_SHARE, HIGHEST_SHARE = -0.5, 2.0
"""Intervals are cut at these shares of the gain: a wide one would leave no room for the others."""
COST_TICKS = ((1 / 64, "1/64"), (1 / 32, "1/32"), (1 / 16, "1/16"), (1 / 8, "1/8"), (1 / 4, "1/4"), (1 / 2, "1/2"),
              (1.0, "1"), (2.0, "2"), (4.0, "4"), (8.0, "8"))  # fmt: skip
MARKS = {"vertical": "│", "horizontal": "─", "corner": "░", "axis": "│", "floor": "─", "zero": "└"}
ASCII_MARKS = {"vertical": "|", "horizontal": "-", "corner": ":", "axis": "|", "floor": "-", "zero": "+"}


def tradeoff_lines(summary: LadderSummary, columns: int, ascii_only: bool = False) -> list[str]:
    """The figure as lines of at most `columns` characters; none without a rung that has both shares."""
    if len(summary.tradeoffs) < 2:
        return []
    marks = ASCII_MARKS if ascii_only else MARKS
    wide = max(MIN_COLUMNS, min(columns, MAX_COLUMNS)) - LEFT - 2
    plot = _Plot(summary, wide, marks)
    for one, letter in zip(summary.tradeoffs, letters(summary.tradeoffs), strict=True):
        plot.cross(one, letter)
    for one, letter in zip(summary.tradeoffs, letters(summary.tradeoffs), strict=True):
        plot.put(one.cost.mean, one.share_of_gain.mean or 0.0, letter)
    return [
        "share of full fine-tuning's gain",
        *plot.lines(),
        *_legend(summary, marks, columns),
    ]


def letters(tradeoffs: Sequence[RungTradeoff]) -> list[str]:
    """One capital letter per rung: its first one if no other rung has it, else a free one."""
    taken: list[str] = []
    for one in tradeoffs:
        own = [character.upper() for character in one.title if character.isascii() and character.isalnum()]
        free = (c for c in (*own, *"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") if c not in taken)
        taken.append(next(free, "?"))
    return taken


class _Plot:
    """A grid of characters with both axes."""

    def __init__(self, summary: LadderSummary, wide: int, marks: dict[str, str]) -> None:
        self.wide, self.marks, self.summary = wide, marks, summary
        costs = [end for one in summary.tradeoffs for end in (one.cost.low, one.cost.high)]
        self.left = math.log2(min(0.5 * summary.rule_cost, 0.9 * min(costs)))
        self.right = math.log2(max(1.5, 1.1 * max(costs)))
        ends = [_cut(end) for one in summary.tradeoffs for end in _bounds(one)]
        self.bottom, self.top = min(summary.rule_gain - 0.1, *ends), max(1.05, *ends)
        self.cells = [[" "] * wide for _ in range(ROWS)]
        corner = self.column(summary.rule_cost), self.row(summary.rule_gain)
        for row in range(corner[1] + 1):
            self.cells[row][: corner[0] + 1] = marks["corner"] * (corner[0] + 1)

    def column(self, cost: float) -> int:
        place = (math.log2(max(cost, 1e-9)) - self.left) / (self.right - self.left)
        return min(self.wide - 1, max(0, round(place * (self.wide - 1))))

    def row(self, share: float) -> int:
        place = (self.top - _cut(share)) / (self.top - self.bottom)
        return min(ROWS - 1, max(0, round(place * (ROWS - 1))))

    def put(self, cost: float, share: float, mark: str) -> None:
        self.cells[self.row(share)][self.column(cost)] = mark

    def cross(self, one: RungTradeoff, letter: str) -> None:
        middle = self.row(one.share_of_gain.mean or 0.0)
        for column in range(self.column(one.cost.low), self.column(one.cost.high) + 1):
            self.cells[middle][column] = self.marks["horizontal"]
        low, high = _bounds(one)
        for row in range(self.row(high), self.row(low) + 1):
            self.cells[row][self.column(one.cost.mean)] = self.marks["vertical"]

    def lines(self) -> list[str]:
        labels = {self.row(share): f"{share:.0%}" for share in (self.bottom, self.summary.rule_gain, 1.0)}
        axis, floor = self.marks["axis"], self.marks["zero"] + self.marks["floor"] * self.wide
        drawn = [
            f"{labels.get(number, ''):>{LEFT}} {axis}{''.join(cells)}".rstrip()
            for number, cells in enumerate(self.cells)
        ]
        return [*drawn, f"{'':>{LEFT}} {floor}", f"{'':>{LEFT}}  {self._cost_labels()}".rstrip()]

    def _cost_labels(self) -> str:
        line = [" "] * self.wide
        end = -1
        for cost, label in COST_TICKS:
            at = self.column(cost)
            inside = self.left <= math.log2(cost) <= self.right
            if inside and at > end and at + len(label) <= self.wide:
                line[at : at + len(label)] = label
                end = at + len(label) + 1
        return "".join(line)


def _bounds(one: RungTradeoff) -> tuple[float, float]:
    interval = one.share_of_gain
    mean = interval.mean or 0.0
    return (mean if interval.low is None else interval.low, mean if interval.high is None else interval.high)


def _cut(share: float) -> float:
    return min(HIGHEST_SHARE, max(LOWEST_SHARE, share))


def _legend(summary: LadderSummary, marks: dict[str, str], columns: int) -> list[str]:
    """What the axes, letters and shading mean."""
    named = zip(letters(summary.tradeoffs), summary.tradeoffs, strict=True)
    rungs = "   ".join(f"{letter} {visible(one.title, 24)}" for letter, one in named)
    return [
        f"{'':>{LEFT}}  {summary.cost} as a share of full fine-tuning's",
        rungs if len(rungs) <= columns else visible(rungs, columns),
        f"{marks['corner']} rule of thumb: {summary.rule_gain:.0%} of the gain at one eighth of the cost",
        f"{marks['vertical']} 95% CI   {marks['horizontal']} lowest to highest ratio over the seeds",
    ]
