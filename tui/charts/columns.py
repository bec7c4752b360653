"""Table rows with columns as wide as needed, truncated or dropped where the width does not suffice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textual.content import Content

from engine.config.text import visible


@dataclass(frozen=True)
class Column:
    """A column; `least` is its minimum width when truncated, 0 means it may be dropped, the last one first."""

    name: str
    least: int = 0
    right: bool = False


Cell = tuple[str, str]
"""(text, style); control characters in the text are made visible."""


@dataclass(frozen=True)
class TableRow:
    key: str
    cells: tuple[Cell, ...]


def fitted(natural: Sequence[int], columns: Sequence[Column], room: int) -> list[int]:
    """Widths that fit with one space between: drops optional columns first, then truncates the widest."""
    widths = list(natural)
    for number in reversed(range(len(columns))):
        if _taken(widths) <= room:
            return widths
        if not columns[number].least:
            widths[number] = 0
    while _taken(widths) > room:
        cuttable = [number for number, width in enumerate(widths) if width > columns[number].least]
        if not cuttable:
            break
        widths[max(cuttable, key=lambda number: widths[number] - columns[number].least)] -= 1
    return widths


def _taken(widths: Sequence[int]) -> int:
    return sum(width + 1 for width in widths if width) - 1


def line(cells: Sequence[Cell], widths: Sequence[int], columns: Sequence[Column]) -> Content:
    """One row; longer cells end in an ellipsis."""
    parts: list[Content] = []
    for (text, style), width, column in zip(cells, widths, columns, strict=True):
        if width:
            cell = Content.styled(visible(text), style).truncate(width, ellipsis=True)
            filling = " " * (width - cell.cell_length)
            parts.append(Content.assemble(filling, cell) if column.right else Content.assemble(cell, filling))
    return Content(" ").join(parts)
