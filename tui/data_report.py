"""A data set's account as text: what every column and row is used for, what overlaps, and every warning.

The same lines stand in `ftbench data check`, the inspector, the launch screen, a run's log and a ladder's output.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct

from engine.config.errors import Notice
from engine.config.text import amount, visible
from engine.runs.account import IGNORED, ColumnUse, RowAccount, in_order, rows_in_short
from engine.runs.overlap import SplitOverlap, overlap_sentence

EXAMPLE = 24
"""Characters shown of an example value."""
PLACES = 3
"""Places shown with a count."""


class DataReport(Struct, frozen=True):
    """The part of a data check, or of a run's `data` event, that is an account of columns and rows."""

    columns: list[ColumnUse] = []
    account: RowAccount | None = None
    overlap: dict[str, SplitOverlap] = {}
    warnings: list[Notice] = []

    @classmethod
    def of(cls, found: Any) -> DataReport:
        """From a check's JSON object or an event; what an earlier version did not write is empty."""
        return msgspec.convert(found, cls, from_attributes=True)


@dataclass(frozen=True)
class Line:
    """One fact: its name, '' where it belongs to the line above, and its text."""

    name: str
    text: str
    style: str = ""
    """'' or good, warning, error."""
    is_table: bool = False
    """A line of a table: cut instead of wrapped where there is no room."""

    def wrapped(self, width: int) -> list[str]:
        """The text in lines of at most `width` columns, control characters visible."""
        text = visible(self.text)
        if self.is_table and len(text) > width:
            return [f"{text[: width - 1].rstrip()}…"]
        return textwrap.wrap(text, width, break_on_hyphens=False) or [""]


def account_lines(report: DataReport) -> Iterator[Line]:
    """Columns, rows and overlap; the warnings are apart (`warning_lines`)."""
    yield from column_lines(report.columns)
    yield from row_lines(report.account)
    yield from overlap_lines(report.overlap)


def column_lines(columns: Sequence[ColumnUse]) -> Iterator[Line]:
    """One line per column: rows, role, examples."""
    shown = in_order(columns)
    names = [visible(column.name, 32) for column in shown]
    wide = max(map(len, names), default=0)
    digits = max((len(f"{column.rows:,}") for column in shown), default=0)
    roles = max((len(column.role) for column in shown), default=0)
    for number, (column, name) in enumerate(zip(shown, names, strict=True)):
        text = f"{name:<{wide}}  {column.role:<{roles}}  {column.rows:>{digits},} rows  {examples(column)}".rstrip()
        yield Line("" if number else "columns", text, "warning" if column.role == IGNORED else "", is_table=True)


def examples(column: ColumnUse) -> str:
    """`"refund", "delivery", …` of an ignored column; of others one is enough."""
    few = column.examples[: 3 if column.role == IGNORED else 1]
    return ", ".join(f'"{visible(text, EXAMPLE)}"' for text in few)


def row_lines(account: RowAccount | None) -> Iterator[Line]:
    """Where the rows went, then each reason for leaving rows out."""
    if account is None:
        return
    yield Line("rows", rows_in_short(account))
    for number, (code, found) in enumerate(account.left_out.items()):
        text = f"{amount(found.rows, 'row')}: {found.reason or code} {places(found.where)}[{code}]"
        yield Line("" if number else "left out", text, "warning")


def places(where: Sequence[Any], between: str = " = ") -> str:
    """`(a.jsonl line 4, a.jsonl line 9, …) `, '' where there are none; `between` joins rows that belong together."""
    shown = [between.join(map(str, one)) if isinstance(one, list) else str(one) for one in where[:PLACES]]
    more = ", …" if len(where) > PLACES else ""
    return f"({', '.join(shown)}{more}) " if shown else ""


def overlap_lines(overlap: dict[str, SplitOverlap]) -> Iterator[Line]:
    """One line per pair of splits, and the first rows in common."""
    for number, (pair, found) in enumerate(overlap.items()):
        style = "warning" if found.prompt or found.near else ""
        yield Line("" if number else "overlap", overlap_in_short(pair, found), style)
        if found.prompt and (some := places(found.where, " and ")):
            yield Line("", f"same prompt: {some.strip(' ()')}", style)


def overlap_in_short(pair: str, found: SplitOverlap) -> str:
    """`of 300 test rows, also in training: prompts 0, answers 27 (9%), both 0, near-duplicate prompts 3 (1%)`."""
    sentence = overlap_sentence(pair, found)
    return sentence[0].lower() + sentence[1:].removesuffix(".")


def warning_lines(warnings: Sequence[Notice]) -> Iterator[Line]:
    """Every warning with its code."""
    for notice in warnings:
        yield Line("warning", f"{notice.text} [{notice.code}]", "warning")


REPEATS = {
    "duplicates": "duplicates of earlier rows",
    "conflicting_labels": "conflicting labels (the prompt of an earlier row, and another answer)",
    "multiple_references": "multiple references (the prompt of an earlier row, and another answer)",
}
"""Key of a data check -> the rows that it counts."""


def repeat_lines(report: dict[str, Any]) -> Iterator[Line]:
    """Rows that repeat the prompt of others."""
    first = True
    for key, what in REPEATS.items():
        found = report.get(key) or {"rows": 0}
        if found["rows"]:
            between = " = " if key == "duplicates" else " and "
            text = f"{amount(found['rows'], 'row')}: {what} {places(found['where'], between)}"
            yield Line("repeats" if first else "", text.rstrip())
            first = False


def result_line(report: dict[str, Any]) -> Line:
    """Whether a run would start."""
    if report["refused"]:
        return Line("result", f"cannot train: {report['refused']}", "error")
    warnings = len(report["warnings"])
    return Line("result", f"ready to train, {amount(warnings, 'warning') if warnings else 'no warnings'}", "good")
