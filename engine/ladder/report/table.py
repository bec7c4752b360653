"""Tables for the HTML page and Markdown: each cell has a value and details in small print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from engine.config.quantities import ABSENT


@dataclass(frozen=True)
class Cell:
    """A value with its details: interval, range, ratio."""

    text: str
    details: tuple[str, ...] = ()
    link: str = ""
    """Where the value leads, relative to the report; '' for no link."""


@dataclass(frozen=True)
class ReportColumn:
    """A column's heading and alignment."""

    head: str
    group: str = ""
    """Shared heading of adjacent columns."""
    words: bool = False
    """Text is aligned left, numbers right."""
    unmeasured: str | None = None
    """The note that replaces the column if no row has a value; None keeps the column."""


@dataclass(frozen=True)
class TableLine:
    """A row: its heading, then one cell per column or one text across all columns."""

    head: Cell
    cells: Sequence[Cell] = ()
    instead: str = ""
    rung: str = ""
    """The rung whose marker precedes the heading."""


@dataclass(frozen=True)
class ReportTable:
    """A titled table with notes."""

    title: str
    first: str
    """Heading of the first column."""
    columns: Sequence[ReportColumn]
    lines: Sequence[TableLine]
    notes: Sequence[str] = field(default_factory=tuple)

    def groups(self) -> list[tuple[str, int]]:
        """(heading, columns under it), from left to right."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and column.group and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans


def without_empty(table: ReportTable) -> ReportTable:
    """Replace columns without a value by their notes."""
    filled, notes = [], []
    for number, column in enumerate(table.columns):
        if column.unmeasured is not None and all(
            line.cells[number].text == ABSENT for line in table.lines if line.cells
        ):
            notes.append(column.unmeasured)
        else:
            filled.append(number)
    lines = [replace(line, cells=tuple(line.cells[n] for n in filled) if line.cells else ()) for line in table.lines]
    columns = tuple(table.columns[n] for n in filled)
    return replace(table, columns=columns, lines=lines, notes=(*table.notes, *dict.fromkeys(filter(None, notes))))


def cell(text: str, *details: str) -> Cell:
    """A cell without its empty details."""
    return Cell(text, tuple(part for part in details if part and part != ABSENT))


def noted(what: str, notes: Sequence[tuple[str, str]]) -> list[str]:
    """`what of NAME: note.` for each (name, note), or `what: note.` once if all notes are equal."""
    same = len({note for _, note in notes}) == 1
    texts = [(what if same else f"{what} of {name}", note.rstrip(".")) for name, note in notes if note]
    return list(dict.fromkeys(f"{about}: {note}." for about, note in texts))


def plain(texts: Sequence[str]) -> tuple[Cell, ...]:
    """Cells without details."""
    return tuple(Cell(text) for text in texts)
