"""Row lengths as columns of blocks with the cut at `max_length`, drawn without an app."""

from __future__ import annotations

from msgspec import Struct

from engine.config.text import percent
from tui.charts.chart import Row

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:|#"


class Histogram(Struct, frozen=True):
    """As `engine.data.lengths` counts it: bin n holds the rows of n·width+1 to (n+1)·width tokens before the cut."""

    width: int
    counts: list[int]
    rows: int
    longest: int
    beyond: int
    """Rows longer than the last bin's end; they are counted in it."""
    longer: int
    """Rows longer than max_length."""
    lost: int
    """Of these, rows without a token in the loss after the cut."""


def draw(lengths: Histogram, cut: int, columns: int, rows: int, ascii_only: bool) -> list[Row]:
    """`rows` rows of bars, then the axis and what the cut does; styles are `kept`, `cut`, `axis` and `mark`."""
    per = -(-len(lengths.counts) // max(1, columns))
    bars = [sum(lengths.counts[at : at + per]) for at in range(0, len(lengths.counts), per)]
    tokens = per * lengths.width
    beyond = [number * tokens >= cut for number in range(len(bars))]
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    heights = _heights(bars, rows * (len(blocks) - 1))
    drawn: list[Row] = []
    for row in range(rows - 1, -1, -1):
        line: Row = []
        for height, past in zip(heights, beyond, strict=True):
            level = max(0, min(len(blocks) - 1, height - row * (len(blocks) - 1)))
            _append(line, blocks[level], "cut" if past else "kept")
        drawn.append(line)
    return [*drawn, _axis(lengths, tokens, len(bars)), _cut_line(lengths, cut, tokens, len(bars), ascii_only)]


def _heights(bars: list[int], steps: int) -> list[int]:
    """In block steps; a column that holds any row at all shows."""
    most = max(bars) or 1
    return [max(1, round(bar / most * steps)) if bar else 0 for bar in bars]


def _append(line: Row, text: str, style: str) -> None:
    if line and line[-1][1] == style:
        line[-1] = (line[-1][0] + text, style)
    else:
        line.append((text, style))


def _axis(lengths: Histogram, tokens: int, columns: int) -> Row:
    """`1` at the left, the last column's end at the right, with a plus where it also holds longer rows."""
    end = f"{tokens * columns:,}+" if lengths.beyond else f"{lengths.longest:,}"
    return [(f"1{end:>{max(1, columns - 1)}} tokens", "axis")]


def _cut_line(lengths: Histogram, cut: int, tokens: int, columns: int, ascii_only: bool) -> Row:
    """A mark under the column in which the cut falls, and how many rows it touches."""
    if not lengths.longer:
        return [(f"max_length {cut:,}: no row is cut, the longest has {lengths.longest:,}", "axis")]
    share = lengths.longer / lengths.rows
    said = f"max_length {cut:,}: {lengths.longer:,} rows ({percent(share)}) longer"
    mark = "^" if ascii_only else "▲"
    at = min(columns - 1, (cut - 1) // tokens)
    text = f"{' ' * at}{mark} {said}" if at <= columns // 2 else f"{said} {mark}".rjust(at + 1)
    return [(text, "mark")]
