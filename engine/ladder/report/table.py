"""A table as both page and Markdown print it: cells of a value and, smaller, what belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from engine.ladder.format import ABSENT


@dataclass(frozen=True)
class Cell:
    """A value, and in lines below it its interval, its range, its ratio."""

    text: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """What a column holds."""

    head: str
    group: str = ""
    """Neighbours of one group share a heading."""
    words: bool = False
    """Text, aligned to the left; else figures, aligned to the right."""
    unmeasured: str | None = None
    """The note that takes the column's place where no row has a value; None keeps the column."""


@dataclass(frozen=True)
class Line:
    """A row: what it is about, then a cell for every column, or one statement across all of them."""

    head: Cell
    cells: Sequence[Cell] = ()
    instead: str = ""
    rung: str = ""
    """Whose marker stands before the head."""


@dataclass(frozen=True)
class Table:
    """Everything to print."""

    title: str
    first: str
    """Heading of the first column."""
    columns: Sequence[Column]
    lines: Sequence[Line]
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


def without_empty(table: Table) -> Table:
    """Columns that no row fills give way to their note."""
    kept, notes = [], []
    for number, column in enumerate(table.columns):
        if column.unmeasured is not None and all(
            line.cells[number].text == ABSENT for line in table.lines if line.cells
        ):
            notes.append(column.unmeasured)
        else:
            kept.append(number)
    lines = [replace(line, cells=tuple(line.cells[n] for n in kept) if line.cells else ()) for line in table.lines]
    columns = tuple(table.columns[n] for n in kept)
    return replace(table, columns=columns, lines=lines, notes=(*table.notes, *dict.fromkeys(filter(None, notes))))


def cell(text: str, *details: str) -> Cell:
    """A cell with those details that say something."""
    return Cell(text, tuple(part for part in details if part and part != ABSENT))


def noted(what: str, notes: Sequence[tuple[str, str]]) -> list[str]:
    """`what of NAME: note.` for each (name, note), or `what: note.` once where it is the same for all."""
    same = len({note for _, note in notes}) == 1
    said = [(what if same else f"{what} of {name}", note.rstrip(".")) for name, note in notes if note]
    return list(dict.fromkeys(f"{about}: {note}." for about, note in said))


def plain(texts: Sequence[str]) -> tuple[Cell, ...]:
    return tuple(Cell(text) for text in texts)
