"""Where each column of the data goes: prompt, answer, system … or nowhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from engine.contract.errors import Notice
from engine.data.formats import Format
from engine.data.mapping import as_text
from engine.data.raw import Raw

EXAMPLES, EXAMPLE_LENGTH = 3, 80
"""Values shown of a column, and their length in characters."""
MAX_WARNINGS = 20
"""Ignored columns with a warning of their own."""
ROLES = {"completion": "answer", "instruction": "prompt", "input": "prompt"}
"""Part of a format -> role of its columns, where the two have different names."""


class ColumnUse(msgspec.Struct):
    """A column: how many rows have a value in it, what it is used as, and example values."""

    name: str
    rows: int = 0
    role: str = "ignored"
    examples: list[str] = []


class ColumnCounts:
    """Rows with a value and example values of every column, in the order in which the columns appear."""

    def __init__(self) -> None:
        self.columns: dict[str, ColumnUse] = {}

    def add(self, raws: Iterable[Raw]) -> None:
        for raw in raws:
            for name, value in raw.values.items():
                column = self.columns.get(name)
                if column is None:
                    column = self.columns[name] = ColumnUse(name)
                if value is None or value == "" or value == []:
                    continue
                column.rows += 1
                if len(column.examples) < EXAMPLES:
                    _add_example(column, _short(value))

    def merge(self, other: ColumnCounts) -> None:
        """Add the counts of rows that come behind these."""
        for name, column in other.columns.items():
            mine = self.columns.setdefault(name, ColumnUse(name))
            mine.rows += column.rows
            for example in column.examples[: EXAMPLES - len(mine.examples)]:
                _add_example(mine, example)

    def used_by(self, found: Format) -> list[ColumnUse]:
        """Every column with its role. A column in several roles has them all: `prompt, answer`."""
        for column in self.columns.values():
            roles = [ROLES.get(role, role) for role, part in found.parts.items() if column.name in part.columns]
            column.role = ", ".join(dict.fromkeys(roles)) or "ignored"
        return list(self.columns.values())


def ignored_columns(columns: list[ColumnUse]) -> list[Notice]:
    """A warning for each column that holds values and is not used."""
    ignored = [column for column in columns if column.role == "ignored" and column.rows]
    told = [Notice("data.ignored_column", _ignored(column)) for column in ignored[:MAX_WARNINGS]]
    if rest := ignored[MAX_WARNINGS:]:
        names = ", ".join(repr(column.name) for column in rest[:MAX_WARNINGS])
        told.append(Notice("data.ignored_column", f"{len(rest):,} more columns are ignored: {names}"))
    return told


def _ignored(column: ColumnUse) -> str:
    examples = ", ".join(repr(example) for example in column.examples)
    return f"column {column.name!r} is ignored ({column.rows:,} rows have a value, such as {examples})"


def _add_example(column: ColumnUse, example: str) -> None:
    if example not in column.examples:
        column.examples.append(example)


def _short(value: Any) -> str:
    text = as_text(value)
    return text if len(text) <= EXAMPLE_LENGTH else text[: EXAMPLE_LENGTH - 1] + "…"
