"""Bars and columns as styled text: progress, peak memory by part, and row lengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from msgspec import Struct
from rich.text import Text

from engine.config.quantities import share_percent
from engine.config.text import amount
from tui.charts.chart import ChartRow

StyledText = tuple[str, str]
"""Text and its style."""


def bar(share: float, width: int, ascii_only: bool) -> list[StyledText]:
    """A bar of `width` columns, filled by `share` (0 to 1)."""
    full = round(max(0.0, min(1.0, share)) * max(0, width))
    done, rest = ("=", "-") if ascii_only else ("━", "─")
    return [(done * full, "$primary"), (rest * (max(0, width) - full), "$foreground-muted")]


@dataclass(frozen=True)
class MemoryComponent:
    """One component of memory."""

    letter: str
    label: str
    style: str
    """Rich style of the letter on the component's color."""


COMPONENTS = {
    "others": MemoryComponent("x", "others", "white on bright_black"),
    "process": MemoryComponent("P", "process", "black on white"),
    "weights": MemoryComponent("W", "weights", "white on blue"),
    "adapters": MemoryComponent("D", "adapters", "black on bright_cyan"),
    "optimizer": MemoryComponent("O", "optimizer", "white on magenta"),
    "gradients": MemoryComponent("G", "gradients", "black on yellow"),
    "activations": MemoryComponent("A", "activations", "black on green"),
    "logits": MemoryComponent("L", "logits", "white on red"),
    "checkpoint": MemoryComponent("K", "checkpoint copy", "black on bright_yellow"),
    "pool": MemoryComponent("C", "context, gaps", "black on cyan"),
}
"""Memory used by others and process overhead first, then the components of an estimate in order."""


def memory_bar(parts: Mapping[str, int], total: int, width: int, colored: bool, ascii_only: bool) -> Text:
    """`width` cells for `total` bytes; an arrow in the last cell marks a peak above the total.

    Cells are rounded cumulatively, so that their sum is right; components smaller than a cell may have none.
    """
    text = Text()
    for name, count in _cells(parts, total, width):
        part = COMPONENTS[name]
        text.append(part.letter + " " * (count - 1), part.style) if colored else text.append(part.letter * count)
    if sum(parts.values()) > total:
        text.right_crop(max(0, text.cell_len - width + 1))
        text.append(">" if ascii_only or not colored else "▶", style="bold red" if colored else "")
    text.append(("." if ascii_only else "·") * (width - text.cell_len), style="dim" if colored else "")
    text.append("|" if ascii_only else "│")
    return text


def _cells(parts: Mapping[str, int], total: int, width: int) -> Iterator[tuple[str, int]]:
    """(component, cells) with at least one cell; the largest component has one where all would have none."""
    before, drawn = 0, 0
    for name in COMPONENTS:
        before += parts.get(name, 0)
        end = min(width, round(before / max(1, total) * width))
        if end > drawn:
            yield name, end - drawn
        drawn = max(drawn, end)
    if not drawn and before:
        yield max(parts, key=lambda name: parts[name]), 1


def legend(names: Mapping[str, int], width: int, colored: bool) -> Iterator[Text]:
    """The letters of the components in use, wrapped to `width`."""
    line = Text()
    for name, part in COMPONENTS.items():
        if not names.get(name):
            continue
        entry = Text().append(f" {part.letter} ", part.style) if colored else Text(part.letter)
        entry.append(f" {part.label}")
        if line and line.cell_len + 2 + entry.cell_len > width:
            yield line
            line = Text()
        line = line + "  " + entry if line else entry
    yield line


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
    steps, highest = rows * (len(blocks) - 1), max(bars) or 1
    heights = [max(1, round(bar / highest * steps)) if bar else 0 for bar in bars]  # never empty with a row
    drawn: list[ChartRow] = []
    for row in range(rows - 1, -1, -1):
        levels = [max(0, min(len(blocks) - 1, height - row * (len(blocks) - 1))) for height in heights]
        cells = zip(levels, beyond, strict=True)
        groups = groupby(cells, key=lambda cell: cell[1])
        drawn.append([("".join(blocks[level] for level, _ in run), "cut" if past else "kept") for past, run in groups])
    end = f"{tokens * len(bars):,}+" if lengths.beyond else f"{lengths.longest:,}"  # `+`: it includes longer rows
    axis: ChartRow = [(f"1{end:>{max(1, len(bars) - 1)}} tokens", "axis")]
    return [*drawn, axis, _cut_line(lengths, cut, tokens, len(bars), ascii_only)]


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
