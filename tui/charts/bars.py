"""Bars and columns as styled text: progress and row lengths."""

from __future__ import annotations

from itertools import groupby

from msgspec import Struct

from engine.config.quantities import share_percent
from engine.config.text import amount
from tui.charts.chart import ChartRow

StyledText = tuple[str, str]
"""Text and its style."""


def bar(share: float, width: int) -> list[StyledText]:
    """A bar of `width` columns, filled by `share` (0 to 1)."""
    full = round(max(0.0, min(1.0, share)) * max(0, width))
    return [("━" * full, "$primary"), ("─" * (max(0, width) - full), "$foreground-muted")]


BLOCKS = " ▁▂▃▄▅▆▇█"
"""Columns from empty to full, in eighths of a cell."""


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


def draw(lengths: Histogram, cut: int, columns: int, rows: int) -> list[ChartRow]:
    """`rows` rows of bars, the axis, and the effect of `max_length`; styles are `kept`, `cut`, `axis` and `mark`."""
    per = -(-len(lengths.counts) // max(1, columns))
    bars = [sum(lengths.counts[at : at + per]) for at in range(0, len(lengths.counts), per)]
    tokens = per * lengths.width
    beyond = [number * tokens >= cut for number in range(len(bars))]
    full = len(BLOCKS) - 1
    steps, highest = rows * full, max(bars) or 1
    heights = [max(1, round(bar / highest * steps)) if bar else 0 for bar in bars]  # never empty with a row
    drawn: list[ChartRow] = []
    for row in range(rows - 1, -1, -1):
        levels = [max(0, min(full, height - row * full)) for height in heights]
        cells = zip(levels, beyond, strict=True)
        groups = groupby(cells, key=lambda cell: cell[1])
        drawn.append([("".join(BLOCKS[level] for level, _ in run), "cut" if past else "kept") for past, run in groups])
    end = f"{tokens * len(bars):,}+" if lengths.beyond else f"{lengths.longest:,}"  # `+`: it includes longer rows
    axis: ChartRow = [(f"1{end:>{max(1, len(bars) - 1)}} tokens", "axis")]
    return [*drawn, axis, _cut_line(lengths, cut, tokens, len(bars))]


def _cut_line(lengths: Histogram, cut: int, tokens: int, columns: int) -> ChartRow:
    """A mark below the column of `max_length`, and how many rows are truncated."""
    if not lengths.longer:
        return [(f"max_length {cut:,}: no row is truncated, the longest has {lengths.longest:,} tokens", "axis")]
    share = lengths.longer / lengths.rows
    label = f"max_length {cut:,}: {amount(lengths.longer, 'row')} ({share_percent(share)}) truncated"
    at = min(columns - 1, (cut - 1) // tokens)
    text = f"{' ' * at}▲ {label}" if at <= columns // 2 else f"{label} ▲".rjust(at + 1)
    return [(text, "mark")]
