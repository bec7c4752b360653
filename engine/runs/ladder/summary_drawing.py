"""The table and the figure of a ladder's summary in characters, for terminals and Markdown.

A line is a list of texts, each with the rung whose color it has; '' for none.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from engine.config.text import visible
from engine.runs.ladder.rung_results import LadderSummary, RungTradeoff

Line = list[tuple[str, str]]
MIN_DRAWN, MAX_DRAWN = 12, 40
"""Columns of the axis of scores."""
TITLE = 24
"""Maximum columns of a rung's title."""
GAP = "  "
LEVELS = 5
"""How much the table leaves out: nothing; the bounds of costs; digits of the score's bounds, then all of them, which
the axis shows; those of the share of the gain."""


class _Column(NamedTuple):
    head: str
    texts: list[str]

    @property
    def width(self) -> int:
        return max(map(len, (self.head, *self.texts)))


def plain_lines(lines: Iterable[Line]) -> list[str]:
    """The lines without colors."""
    return ["".join(text for text, _ in line).rstrip() for line in lines]


def summary_lines(summary: LadderSummary, columns: int, preliminary: bool = False) -> list[Line]:
    """The summary's table in at most `columns` characters: a line per rung, its interval on an axis that all share.

    Where there is little room, bounds are left out, then columns, whose values follow below the table. Findings are at
    its right or below. A `preliminary` table has them without recommendations, which need all runs.
    """
    rows, titles = summary.rows, [visible(row.title, TITLE) for row in summary.rows]

    def room(table: Sequence[_Column]) -> int:
        """Columns of the axis next to this table."""
        return columns - sum(column.width + len(GAP) for column in table)

    for level in range(LEVELS):
        table = _columns(summary, titles, level)
        if room(table) >= MIN_DRAWN:
            break
    below = list[_Column]()
    while len(table) > 2 and room(table) < MIN_DRAWN:
        below.insert(0, table.pop())
    findings = _Column("", [row.finding if preliminary else row.decision for row in rows])
    texts = [
        f"{column.head}: "
        + ", ".join(f"{title} {text}" for title, text in zip(titles, column.texts, strict=True) if text)
        for column in below
    ]
    wide = room([*table, findings])
    if wide < MIN_DRAWN:
        wide = room(table)
        for finding in dict.fromkeys(filter(None, findings.texts)):
            alike = [title for title, own in zip(titles, findings.texts, strict=True) if own == finding]
            texts.append(f"{', '.join(alike)}: {finding}")
        findings = _Column("", [""] * len(rows))
    wide = max(MIN_DRAWN, min(MAX_DRAWN, wide))

    low, high = summary.scale
    axis = f"{low} {'─' * (wide - len(low) - len(high) - 2)} {high}" if len(low + high) + 2 <= wide else ""
    heads = [column.head.ljust(column.width) for column in table]
    lines = [[(GAP.join([*heads[:2], axis.ljust(wide), *heads[2:]]), "")]]
    for number, (row, title) in enumerate(zip(rows, titles, strict=True)):
        values = [(column.texts[number] or "–").ljust(column.width) for column in table[1:]]
        drawn = _drawn(row.drawn, wide) if row.score else visible(row.status, wide)
        rest = GAP.join(["", *values[1:], findings.texts[number]])
        lines.append(
            [
                (title.ljust(table[0].width), row.rung),
                (f"{GAP}{values[0]}{GAP}", ""),
                (drawn.ljust(wide), row.rung),
                (rest, ""),
            ]
        )
    texts += ["loss: held-out, nats/token; lower is better"] if summary.is_loss else []
    texts.append(
        f"bars: 95% CI of the {summary.score_title}; cost ({summary.cost}) and gain: relative to {summary.reference}"
    )
    return [*lines, *([(line, "")] for text in texts for line in textwrap.wrap(text, columns, subsequent_indent=GAP))]


def _columns(summary: LadderSummary, titles: list[str], level: int) -> list[_Column]:
    """The columns that have a value, each as wide as its values, with the bounds of this level."""
    rows = summary.rows
    bounds_of_score = ("score_bounds", "score_bounds", "score_rounded", "", "")[level]
    kept = (
        ("score", bounds_of_score),
        ("share", "share_bounds" if level < 4 else ""),
        ("cost", "" if level else "cost_bounds"),
    )
    table = [_Column("rung", titles)]
    for (name, bounds), head in zip(kept, (summary.score_title, "gain", "cost"), strict=True):
        values = [getattr(row, name) for row in rows]
        widest = max(map(len, values), default=0)
        table.append(
            _Column(
                head,
                [
                    f"{value:>{widest}} {getattr(row, bounds) if bounds else ''}".rstrip()
                    for row, value in zip(rows, values, strict=True)
                ],
            )
        )
    table += [_Column("peak", [row.memory for row in rows]), _Column("artifact", [row.artifact for row in rows])]
    return table[:2] + [column for column in table[2:] if any(column.texts)]


def _drawn(interval: Sequence[float], wide: int) -> str:
    """`  ├──●───┤`; an arrow at the end beyond which all of an interval is."""
    if not interval:
        return ""
    if interval[2] < 0 or interval[0] > 1:
        return "◂" if interval[2] < 0 else "▸".rjust(wide)
    low, mean, high = (min(wide - 1, max(0, round(end * (wide - 1)))) for end in interval)
    cells = [" "] * low + ["─"] * (high + 1 - low)
    cells[low], cells[high] = "├" if interval[0] >= 0 else "─", "┤" if interval[2] <= 1 else "─"
    cells[mean] = "●"
    return "".join(cells)


ROWS = 11
LEFT = 6
"""Columns of the labels of the vertical axis."""
MIN_COLUMNS, MAX_COLUMNS = 40, 76
LOWEST_SHARE, HIGHEST_SHARE = -0.5, 2.0
"""Intervals are cut at these shares of the gain: a wide one would leave no room for the others."""
COST_TICKS = ((1 / 64, "1/64"), (1 / 32, "1/32"), (1 / 16, "1/16"), (1 / 8, "1/8"), (1 / 4, "1/4"), (1 / 2, "1/2"),
              (1.0, "1"), (2.0, "2"), (4.0, "4"), (8.0, "8"))  # fmt: skip
CORNER = "░"


def tradeoff_lines(summary: LadderSummary, columns: int) -> list[Line]:
    """The summary's figure in characters, share of gain against share of cost.

    Lines of at most `columns` characters; none without a rung that has both shares. Each rung is a cross: its letter at
    the means, `│` the confidence interval of its share of the gain, `─` the range of its cost over the seeds. The
    corner of the rule of thumb is shaded. The cost axis is logarithmic.
    """
    tradeoffs = summary.tradeoffs
    if len(tradeoffs) < 2:
        return []
    wide = max(MIN_COLUMNS, min(columns, MAX_COLUMNS)) - LEFT - 2
    costs = [end for tradeoff in tradeoffs for end in (tradeoff.cost.low, tradeoff.cost.high)]
    left, right = math.log2(min(0.5 * summary.rule_cost, 0.9 * min(costs))), math.log2(max(1.5, 1.1 * max(costs)))
    shares: list[tuple[float, float, float]] = []
    for gain in (tradeoff.share_of_gain for tradeoff in tradeoffs):
        mean = gain.mean or 0.0
        ends = (mean if gain.low is None else gain.low, mean, mean if gain.high is None else gain.high)
        low, mean, high = (min(HIGHEST_SHARE, max(LOWEST_SHARE, share)) for share in ends)
        shares.append((low, mean, high))
    bottom = min(summary.rule_gain - 0.1, *(low for low, _, _ in shares))
    top = max(1.05, *(high for _, _, high in shares))

    def column(cost: float) -> int:
        place = (math.log2(max(cost, 1e-9)) - left) / (right - left)
        return min(wide - 1, max(0, round(place * (wide - 1))))

    def row(share: float) -> int:
        return min(ROWS - 1, max(0, round((top - share) / (top - bottom) * (ROWS - 1))))

    cells = [[(" ", "")] * wide for _ in range(ROWS)]
    for line in cells[: row(summary.rule_gain) + 1] if summary.tests_rule else ():
        line[: column(summary.rule_cost) + 1] = [(CORNER, "")] * (column(summary.rule_cost) + 1)
    for tradeoff, (low, mean, high) in zip(tradeoffs, shares, strict=True):
        for place in range(column(tradeoff.cost.low), column(tradeoff.cost.high) + 1):
            cells[row(mean)][place] = ("─", tradeoff.rung)
        for number in range(row(high), row(low) + 1):
            cells[number][column(tradeoff.cost.mean)] = ("│", tradeoff.rung)
    named = list(zip(letters(tradeoffs), tradeoffs, strict=True))
    for (letter, tradeoff), (_, mean, _) in zip(named, shares, strict=True):  # letters replace the lines of crosses
        line = cells[row(mean)]
        free = [place for place in range(wide) if not line[place][0].isalnum()]  # not one that another rung has
        line[min(free, key=lambda place: abs(place - column(tradeoff.cost.mean)))] = (letter, tradeoff.rung)
    labels = {row(share): f"{share:.0%}" for share in (bottom, summary.rule_gain, 1.0)}
    lines: list[Line] = [[(f"{labels.get(number, ''):>{LEFT}} │", ""), *line] for number, line in enumerate(cells)]

    ticks, end = [" "] * wide, -1
    for cost, label in COST_TICKS:
        at = column(cost)
        if left <= math.log2(cost) <= right and at > end and at + len(label) <= wide:
            ticks[at : at + len(label)] = label
            end = at + len(label) + 1
    below = [f"{'':>{LEFT}} └{'─' * wide}", f"{'':>{LEFT}}  {''.join(ticks)}"]
    about = [f"{summary.cost} as a share of {of_reference(summary)}", "│ ─ 95% CI"]
    if summary.tests_rule:
        about.append(f"{CORNER} rule of thumb: {summary.rule_gain:.0%} of the gain at one eighth of the cost")
    lines += [[(text, "")] for text in below]
    shown, used = list[tuple[str, str]](), 0
    for letter, tradeoff in named:
        text = f"{letter} {visible(tradeoff.title, TITLE)}   "
        if (used := used + len(text)) - 3 <= columns:
            shown.append((text, tradeoff.rung))
    wrapped = [line for text in about for line in textwrap.wrap(text, LEFT + 2 + wide, subsequent_indent=GAP)]
    return [[(f"share of {of_reference(summary)} gain", "")], *lines, shown, *([(text, "")] for text in wrapped)]


def letters(tradeoffs: Sequence[RungTradeoff]) -> list[str]:
    """One capital letter per rung: its first one if no other rung has it, else a free one."""
    taken: list[str] = []
    for tradeoff in tradeoffs:
        own = [character.upper() for character in tradeoff.title if character.isascii() and character.isalnum()]
        free = (c for c in (*own, *"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") if c not in taken)
        taken.append(next(free, "?"))
    return taken


def of_reference(summary: LadderSummary) -> str:
    """`full fine-tuning's`."""
    return f"{summary.reference}'s"
