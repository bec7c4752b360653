"""What each column is used as: prompt, answer, system, …, or ignored."""

from __future__ import annotations

from collections.abc import Iterable

from engine.data.columns import EXAMPLES, Summary
from engine.data.format import DetectedFormat
from engine.runs.account import IGNORED, ColumnUse


def column_usage(found: DetectedFormat, summaries: Iterable[Summary]) -> list[ColumnUse]:
    """Every column of all splits with its role; several roles are joined: `prompt, answer`."""
    rows: dict[str, int] = {}
    examples: dict[str, list[str]] = {}
    for summary in summaries:
        for name, column in summary.columns.items():
            rows[name] = rows.get(name, 0) + column.rows
            known = examples.setdefault(name, [])
            known += [one for one in column.examples if one not in known][: EXAMPLES - len(known)]
    return [
        ColumnUse(name, number, found.roles.get(name, IGNORED) if number else "empty", examples[name])
        for name, number in rows.items()
    ]
