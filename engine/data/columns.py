"""The columns of a dataset: a summary of each, and the templates by which columns fill roles (data.map)."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from string import Formatter
from typing import Any, NamedTuple

import msgspec

from engine.config.errors import UserError
from engine.config.text import visible
from engine.data.rows import RawRow, described

ROLES = ("prompt", "completion", "system", "text", "messages", "tools", "references")
EXAMPLES, EXAMPLE_LENGTH = 3, 60
COLUMNS_LIMIT = 2_000
"""Maximum number of columns: with more, the keys are data."""
DISTINCT_LIMIT = 32
"""Maximum number of distinct values of a column that are stored."""
SAMPLE = 200
"""Number of rows in the sample that formats are detected from."""
SAMPLE_CHARACTERS = 32 << 20
"""Maximum characters of the sample: a row may have millions."""
_SCALARS = (str, int, float, bool)


@dataclass(frozen=True)
class ColumnTemplate:
    """The source of a role: literal text and columns; a single column gives the column's value unchanged."""

    source: str
    pieces: tuple[tuple[str, str | None], ...]
    """(literal, column) pairs; the column of a final literal is None."""

    @property
    def columns(self) -> list[str]:
        return [column for _, column in self.pieces if column is not None]

    @cached_property
    def lone(self) -> str | None:
        """The column's name if the template is a single column."""
        return self.pieces[0][1] if len(self.pieces) == 1 and not self.pieces[0][0] else None

    def fill(self, values: dict[str, Any]) -> Any:
        """The unchanged value of a single column, else text. None if every column is missing or empty."""
        if self.lone is not None:
            return values.get(self.lone)
        if self.columns and all(is_empty(values.get(column)) for column in self.columns):
            return None
        return "".join(
            literal + ("" if column is None else as_text(values.get(column))) for literal, column in self.pieces
        )


def column(name: str) -> ColumnTemplate:
    """A template of a single column."""
    return ColumnTemplate(name, (("", name),))


def read_map(mapping: dict[str, str], columns: list[str]) -> dict[str, ColumnTemplate]:
    """Check data.map against the columns. Raises UserError with the nearest column or role."""
    roles = {}
    for role, source in mapping.items():
        where = f"data.map.{role}"
        if role not in ROLES:
            problem = f"unknown role {role!r}{did_you_mean(role, ROLES)}"
            raise UserError(problem, "data.map", f"use one of {', '.join(ROLES)}", code="data.unknown_role")
        if source in columns:
            roles[role] = column(source)
            continue
        try:
            parsed = list(Formatter().parse(source))
        except ValueError as error:
            problem, hint = f"invalid template {source!r} ({error})", "write a literal brace as {{ or }}"
            raise UserError(problem, where, hint, code="data.invalid_template") from error
        pieces = []
        for literal, name, spec, conversion in parsed:
            if name is not None and (spec or conversion or name not in columns):
                shown = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                raise _no_column(shown, columns, where)
            pieces.append((literal, name))
        is_constant = role == "system" and " " in source
        if not any(name is not None for _, name in pieces) and not is_constant:
            raise _no_column(source, columns, where)
        roles[role] = ColumnTemplate(source, tuple(pieces))
    return roles


def is_empty(value: Any) -> bool:
    """Whether a value counts as missing: null, blank text, an empty list or object."""
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or (isinstance(value, list | dict) and not value)


def as_text(value: Any) -> str:
    """A column's value as text: numbers unchanged, lists and objects as JSON, null as ''."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _no_column(name: str, columns: list[str], where: str) -> UserError:
    hint = f'use one of {list_columns(columns)}, or a template such as "Q: {{{columns[0]}}}"'
    return UserError(f"unknown column {name!r}{did_you_mean(name, columns)}", where, hint, code="data.no_column")


def list_columns(columns: Iterable[str]) -> str:
    """Column names for an error: at most 12."""
    names = list(columns)
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the most similar name; '' if none is similar."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


class KindCount(NamedTuple):
    """Number of rows with a kind of value, and the place of the first."""

    rows: int
    where: str


class ColumnSummary:
    """One column: number of rows with a value, kinds of values, and examples."""

    __slots__ = ("_kinds", "distinct", "examples", "keys", "name", "rows")

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows = 0
        """Rows with a value."""
        self.examples: list[str] = []
        """Up to EXAMPLES distinct values, shortened, with control characters made visible."""
        self.distinct: set[Any] | None = set()
        """All distinct values if they are at most DISTINCT_LIMIT scalars, else None."""
        self.keys: set[str] = set()
        """Keys of the objects in lists (messages), in the first rows."""
        self._kinds: dict[type, list[Any]] = {}

    @property
    def kinds(self) -> dict[str, KindCount]:
        """Kind of value (`text`, `a number`, …) -> number of rows and the first place."""
        merged: dict[str, KindCount] = {}
        for rows, kind, where in self._kinds.values():  # in order of their first rows
            before = merged.get(kind)
            merged[kind] = KindCount(rows + before.rows, before.where) if before else KindCount(rows, where)
        return merged

    def add(self, value: Any, where: str) -> None:
        if is_empty(value):
            return
        kind = type(value)
        self.rows += 1
        entry = self._kinds.get(kind)
        if entry is None:
            self._kinds[kind] = [1, described(value), where]
        else:
            entry[0] += 1
        if self.distinct is not None:
            if kind in _SCALARS and (kind is not str or len(value) <= EXAMPLE_LENGTH):
                self.distinct.add(value)
            else:
                self.distinct = None
            if self.distinct is not None and len(self.distinct) > DISTINCT_LIMIT:
                self.distinct = None
        if self.rows > SAMPLE:
            return
        if len(self.examples) < EXAMPLES:
            try:
                text = value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=repr).decode()
            except (UnicodeError, TypeError, ValueError, msgspec.MsgspecError):  # not JSON, or a lone surrogate
                text = repr(value)
            shown = visible(" ".join(text[: 4 * EXAMPLE_LENGTH].split()), limit=EXAMPLE_LENGTH)
            if shown not in self.examples:
                self.examples.append(shown)
        if isinstance(value, str) and value[0] == "[":
            with suppress(msgspec.MsgspecError, UnicodeError, RecursionError):
                value = msgspec.json.decode(value)
        for item in value if isinstance(value, list) else ():
            if isinstance(item, dict):
                self.keys.update(key for key, inner in item.items() if inner is not None)


@dataclass
class Summary:
    """The columns of a split in order of appearance, and the number of rows."""

    rows: int = 0
    columns: dict[str, ColumnSummary] = field(default_factory=dict)
    sample: list[RawRow] = field(default_factory=list)
    """The first rows, and the first row with a value for each further column."""
    sample_characters: int = 0
    parts: dict[str, dict[str, int]] = field(default_factory=dict)
    """File (or Hub split) -> column -> rows with a value."""

    @property
    def filled(self) -> dict[str, int]:
        """Column -> rows with a value, for columns that have any."""
        return {name: column.rows for name, column in self.columns.items() if column.rows}


def summarize(parts: Iterable[tuple[str, Iterable[RawRow]]]) -> Summary:
    """Read all rows once, part by part."""
    summary = Summary()
    columns = summary.columns
    for part, rows in parts:
        earlier = summary.filled
        for raw in rows:
            summary.rows += 1
            kept = summary.rows <= SAMPLE
            for name, value in raw.values.items():
                column = columns.get(name)
                if column is None:
                    if len(columns) >= COLUMNS_LIMIT:
                        problem = f"more than {COLUMNS_LIMIT:,} different columns"
                        hint = "write one row per record, each with the same keys"
                        raise UserError(problem, raw.where, hint, code="data.too_many_columns")
                    column = columns[name] = ColumnSummary(name)
                before = column.rows
                column.add(value, raw.where)
                kept = kept or (not before and column.rows > 0)
            if kept:
                size = len(repr(raw.values))
                if not summary.sample or summary.sample_characters + size <= SAMPLE_CHARACTERS:
                    summary.sample.append(raw)
                    summary.sample_characters += size
        added = {name: filled - earlier.get(name, 0) for name, filled in summary.filled.items()}
        summary.parts[part] = {name: filled for name, filled in added.items() if filled}
    return summary
