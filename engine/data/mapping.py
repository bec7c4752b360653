"""data.map: a column, or a template over columns, for each role. Templates only insert columns."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from string import Formatter
from typing import Any

from engine.config.errors import UserError

ROLES = ("prompt", "completion", "system", "text", "messages", "tools", "references")


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
            what = f"unknown role {role!r}{_like(role, ROLES)}"
            raise UserError(what, "data.map", f"use one of {', '.join(ROLES)}", code="data.unknown_role")
        roles[role] = _template(source, columns, where, constant=role == "system")
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


def _template(source: str, columns: list[str], where: str, constant: bool) -> ColumnTemplate:
    if source in columns:
        return column(source)
    try:
        parsed = list(Formatter().parse(source))
    except ValueError as error:
        do = "write a literal brace as {{ or }}"
        raise UserError(f"invalid template {source!r} ({error})", where, do, code="data.invalid_template") from error
    pieces = []
    for literal, name, spec, conversion in parsed:
        if name is not None and (spec or conversion or name not in columns):
            shown = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise _no_column(shown, columns, where)
        pieces.append((literal, name))
    if not any(name is not None for _, name in pieces) and not (constant and " " in source):
        raise _no_column(source, columns, where)
    return ColumnTemplate(source, tuple(pieces))


def _no_column(name: str, columns: list[str], where: str) -> UserError:
    do = f'use one of {list_columns(columns)}, or a template such as "Q: {{{columns[0]}}}"'
    return UserError(f"unknown column {name!r}{_like(name, columns)}", where, do, code="data.no_column")


def list_columns(columns: Iterable[str]) -> str:
    """Column names for an error: at most 12."""
    names = list(columns)
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _like(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
