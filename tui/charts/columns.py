"""Rows of a table in columns as wide as they need, cut or left out where there is no room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textual.content import Content

from engine.config.text import visible


@dataclass(frozen=True)
class Column:
    """`least` characters of it are kept when there is no room; 0: it may go altogether, the last one first."""

    name: str
    least: int = 0
    right: bool = False


Cell = tuple[str, str]
"""(text, style); the text may hold anything."""


@dataclass(frozen=True)
class Row:
    """A line and the key it is known by."""

    key: str
    cells: tuple[Cell, ...]


def fitted(wanted: Sequence[int], columns: Sequence[Column], room: int) -> list[int]:
    """Widths that fit with a space between: first those go that may, then the widest are cut to their least."""
    widths = list(wanted)
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
    """One row; what is longer than its column ends in an ellipsis."""
    parts: list[Content] = []
    for (text, style), width, column in zip(cells, widths, columns, strict=True):
        if width:
            cell = Content.styled(visible(text), style).truncate(width, ellipsis=True)
            filling = " " * (width - cell.cell_length)
            parts.append(Content.assemble(filling, cell) if column.right else Content.assemble(cell, filling))
    return Content(" ").join(parts)
