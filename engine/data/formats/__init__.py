"""The data formats: one module each, with an object `FORMAT`. Adding a module adds a format.

The value of data.format is the module's name with `-` instead of `_`. This file has their interface: detection by
columns, and conversion of rows to examples.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from engine.config.errors import Notice
from engine.config.schema import DATA_FORMATS, Data
from engine.data.columns import ColumnSummary, ColumnTemplate, Summary, column
from engine.data.rows import Example, RawRow

OPTIONAL = ("system", "tools", "history", "input", "references", "label", "rejected")
"""Roles whose column may be empty in any row or missing from a file."""
CHATS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat")
SYSTEMS, TOOLS = ("system", "system_prompt"), ("tools", "functions")
"""Names of columns of conversations, system messages and tool schemas."""
_REPORTED_ROLES = {
    "completion": "answer",
    "instruction": "prompt",
    "input": "prompt",
    "chosen": "answer",
    "history_turns": "prompt",
    "question": "prompt",
    "passage": "prompt",
}
"""Roles of this package -> roles in the report, where they differ."""


@dataclass(frozen=True)
class DetectedFormat:
    """How the rows of a dataset are converted to examples."""

    name: str
    """A value of data.format: the name of a module in `engine.data.formats`."""
    why: str
    """One sentence: the columns by which it was detected."""
    parts: dict[str, ColumnTemplate]
    """Role (prompt, completion, system, text, messages, instruction, input, tools, …) -> what fills it."""
    separator: str | None = None
    warnings: list[Notice] = field(default_factory=list)
    roles: dict[str, str] = field(default_factory=dict)
    """Column -> its role in the report: prompt, answer, system, tools, messages, text, …, `ignored`, or `empty`."""
    is_guess: bool = False
    """Whether the columns' names do not say which of them is the answer."""
    group: str = ""
    """Column of data.group; '' for none."""
    base: str = ""
    """Name of the format that its rows are in, if it only selects rows (preference data); how multiple choice reads
    numbers; else empty."""

    def reported_roles(self, columns: list[str]) -> dict[str, str]:
        """The roles of each used column, joined by commas."""
        by_column: dict[str, list[str]] = {name: [] for name in columns}
        for role, part in self.parts.items():
            for name in part.columns:
                shown = "prompt" if role.startswith("option ") else _REPORTED_ROLES.get(role, role)
                if shown not in by_column.setdefault(name, []):
                    by_column[name].append(shown)
        return {name: ", ".join(roles) for name, roles in by_column.items() if roles}


class ColumnLookup:
    """Looks up columns of a dataset for a format."""

    def __init__(self, summary: Summary, data: Data, share: float = 0.5) -> None:
        self.summary, self.data = summary, data
        self._filled = _by_lower(summary, 0)
        self._usual = _by_lower(summary, share * summary.rows)

    def find(self, *names: str) -> str | None:
        """The first of these columns (case-insensitive) with a value in more than `share` of the rows."""
        return next((self._usual[name] for name in names if name in self._usual), None)

    def optional(self, *names: str) -> str | None:
        """The first of these columns with a value in any row."""
        return next((self._filled[name] for name in names if name in self._filled), None)

    def __getitem__(self, name: str) -> ColumnSummary:
        return self.summary.columns[name]

    def kinds(self, name: str) -> set[str]:
        return set(self[name].kinds)

    def optional_parts(self, **names: tuple[str, ...]) -> dict[str, ColumnTemplate]:
        """Role -> the first of its columns with a value in any row."""
        return {role: column(name) for role, known in names.items() if (name := self.optional(*known))}


def _by_lower(summary: Summary, above: float) -> dict[str, str]:
    """Lowercase name -> name, for columns with a value in more than `above` rows."""
    names = [name for name, column in summary.columns.items() if column.rows > above]
    return {name.lower(): name for name in reversed(names)}


@dataclass(frozen=True)
class DataFormat:
    """A data format: the object `FORMAT` of a module in `engine.data.formats`."""

    name: str
    order: int
    """Formats are tried in ascending order."""
    detect: Callable[[ColumnLookup], DetectedFormat | None]
    convert: Callable[[RawRow, DetectedFormat], Example]
    """Raises UnusableRow for a row with nothing to train on, UserError for a row that contradicts its format."""
    ambiguity: str = ""
    """For a format that is used only if data.format names it: the error text for its data."""
    offer: str = ""
    """Introduction to the setting that selects it, in that error."""


@cache
def data_formats() -> dict[str, DataFormat]:
    """Name -> format, in the order of detection."""
    formats = [
        importlib.import_module(f"engine.data.formats.{name.replace('-', '_')}").FORMAT for name in DATA_FORMATS[1:]
    ]
    return {
        data_format.name: data_format
        for data_format in sorted(formats, key=lambda data_format: (data_format.order, data_format.name))
    }
