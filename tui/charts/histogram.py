"""Histogram of row lengths as columns of block characters, with a mark at `max_length`."""

from __future__ import annotations

from msgspec import Struct

from engine.config.quantities import share_percent
from engine.config.text import amount
from tui.charts.chart import ChartRow

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:|#"


class Histogram(Struct, frozen=True):
    """As counted by `engine.data.lengths`: bin n counts rows of n·width+1 to (n+1)·width tokens before truncation."""

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


def draw(lengths: Histogram, cut: int, columns: int, rows: int, ascii_only: bool) -> list[ChartRow]:
    """`rows` rows of bars, the axis, and the effect of `max_length`; styles are `kept`, `cut`, `axis` and `mark`."""
    per = -(-len(lengths.counts) // max(1, columns))
    bars = [sum(lengths.counts[at : at + per]) for at in range(0, len(lengths.counts), per)]
    tokens = per * lengths.width
    beyond = [number * tokens >= cut for number in range(len(bars))]
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    heights = _heights(bars, rows * (len(blocks) - 1))
    drawn: list[ChartRow] = []
    for row in range(rows - 1, -1, -1):
        line: ChartRow = []
        for height, past in zip(heights, beyond, strict=True):
            level = max(0, min(len(blocks) - 1, height - row * (len(blocks) - 1)))
            _append(line, blocks[level], "cut" if past else "kept")
        drawn.append(line)
    return [*drawn, _axis(lengths, tokens, len(bars)), _cut_line(lengths, cut, tokens, len(bars), ascii_only)]


def _heights(bars: list[int], steps: int) -> list[int]:
    """Heights in steps of a block; a column with at least one row is never empty."""
    highest = max(bars) or 1
    return [max(1, round(bar / highest * steps)) if bar else 0 for bar in bars]


def _append(line: ChartRow, text: str, style: str) -> None:
    if line and line[-1][1] == style:
        line[-1] = (line[-1][0] + text, style)
    else:
        line.append((text, style))


def _axis(lengths: Histogram, tokens: int, columns: int) -> ChartRow:
    """`1` at the left, the end of the last column at the right, with `+` where it includes longer rows."""
    end = f"{tokens * columns:,}+" if lengths.beyond else f"{lengths.longest:,}"
    return [(f"1{end:>{max(1, columns - 1)}} tokens", "axis")]


def _cut_line(lengths: Histogram, cut: int, tokens: int, columns: int, ascii_only: bool) -> ChartRow:
    """A mark below the column of `max_length`, and how many rows are truncated."""
    if not lengths.longer:
        return [(f"max_length {cut:,}: no row is truncated, the longest has {lengths.longest:,} tokens", "axis")]
    share = lengths.longer / lengths.rows
    label = f"max_length {cut:,}: {amount(lengths.longer, 'row')} ({share_percent(share)}) truncated"
    mark = "^" if ascii_only else "▲"
    at = min(columns - 1, (cut - 1) // tokens)
    text = f"{' ' * at}{mark} {label}" if at <= columns // 2 else f"{label} {mark}".rjust(at + 1)
    return [(text, "mark")]
