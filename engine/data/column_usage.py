"""What each column is used as: prompt, answer, system, …, or ignored."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from engine.data.columns import EXAMPLES, Summary
from engine.data.format import Format


class ColumnUse(msgspec.Struct):
    """A column: number of rows with a value, its role, and example values."""

    name: str
    rows: int = 0
    role: str = "ignored"
    examples: list[str] = []


def column_usage(found: Format, summaries: Iterable[Summary]) -> list[ColumnUse]:
    """Every column of all splits with its role; several roles are joined: `prompt, answer`."""
    columns: dict[str, ColumnUse] = {}
    for summary in summaries:
        for name, column in summary.columns.items():
            use = columns.setdefault(name, ColumnUse(name, role=found.roles.get(name, "ignored")))
            use.rows += column.rows
            use.examples += [one for one in column.examples if one not in use.examples][: EXAMPLES - len(use.examples)]
    for use in columns.values():
        if not use.rows:
            use.role = "empty"
    return list(columns.values())
