"""The report of a data check as text: use of every column and row, overlap of splits, warnings.

`ftbench data check`, the inspector, the launch screen, a run's log and a ladder's output show the same lines.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct

from engine.config.errors import Notice
from engine.config.metric_specs import metric_text
from engine.config.schema import Config
from engine.config.text import amount, visible
from engine.runs.run.usage import (
    IGNORED,
    ColumnUse,
    RowUsage,
    SplitOverlap,
    overlap_sentence,
    sort_columns,
    summarize_rows,
)

EXAMPLE_LENGTH = 24
"""Maximum characters of an example value."""
MAX_PLACES = 3
"""Maximum number of places listed with a count."""


class DataReport(Struct, frozen=True):
    """The use of columns and rows, as in the response of a data check and in a run's `data` event."""

    columns: list[ColumnUse] = []
    data_usage: RowUsage | None = None
    overlap: dict[str, SplitOverlap] = {}
    warnings: list[Notice] = []

    @classmethod
    def of(cls, report: Any) -> DataReport:
        """Convert a check's JSON object or an event; fields missing from earlier versions are empty."""
        return msgspec.convert(report, cls, from_attributes=True)


def check_arguments(config: Config) -> dict[str, Any]:
    """How a run with this configuration prepares its rows: the arguments of the request `data.check`."""
    return {
        "data": msgspec.to_builtins(config.data),
        "model": msgspec.to_builtins(config.model),
        "evaluation": msgspec.to_builtins(config.evaluation),
        "max_length": config.train.max_length,
    }


@dataclass(frozen=True)
class ReportLine:
    """One line of the report: name, '' where it continues the line above, and text."""

    name: str
    text: str
    style: str = ""
    """'', good, warning or error."""
    is_table: bool = False
    """Whether it is a line of a table, truncated instead of wrapped."""

    def wrapped(self, width: int) -> list[str]:
        """The text in lines of at most `width` columns, control characters visible."""
        text = visible(self.text)
        if self.is_table and len(text) > width:
            return [f"{text[: width - 1].rstrip()}…"]
        return textwrap.wrap(text, width, break_on_hyphens=False) or [""]


def usage_lines(report: DataReport) -> Iterator[ReportLine]:
    """Columns, rows and overlap; `warning_lines` has the warnings."""
    yield from column_lines(report.columns)
    yield from row_lines(report.data_usage)
    for number, (pair, overlap) in enumerate(report.overlap.items()):  # and the first rows in common
        style = "warning" if overlap.prompt or overlap.near else ""
        yield ReportLine("" if number else "overlap", overlap_in_short(pair, overlap), style)
        if overlap.prompt and (some := places(overlap.where, " and ")):
            yield ReportLine("", f"same prompt: {some.strip(' ()')}", style)


def column_lines(columns: Sequence[ColumnUse]) -> Iterator[ReportLine]:
    """One line per column: rows, role, examples: up to three of an ignored column, one of others."""
    shown = sort_columns(columns)
    names = [visible(column.name, 32) for column in shown]
    wide = max(map(len, names), default=0)
    digits = max((len(f"{column.rows:,}") for column in shown), default=0)
    roles = max((len(column.role) for column in shown), default=0)
    for number, (column, name) in enumerate(zip(shown, names, strict=True)):
        values = column.examples[: 3 if column.role == IGNORED else 1]
        examples = ", ".join(f'"{visible(text, EXAMPLE_LENGTH)}"' for text in values)
        text = f"{name:<{wide}}  {column.role:<{roles}}  {column.rows:>{digits},} rows  {examples}".rstrip()
        yield ReportLine("" if number else "columns", text, "warning" if column.role == IGNORED else "", is_table=True)


def row_lines(usage: RowUsage | None) -> Iterator[ReportLine]:
    """Rows by split, then one line per reason for leaving rows out."""
    if usage is None:
        return
    yield ReportLine("rows", summarize_rows(usage))
    for number, (code, left_out) in enumerate(usage.left_out.items()):
        text = f"{amount(left_out.rows, 'row')}: {left_out.reason or code} {places(left_out.where)}[{code}]"
        yield ReportLine("" if number else "left out", text, "warning")


def places(where: Sequence[Any], between: str = " = ") -> str:
    """`(a.jsonl line 4, a.jsonl line 9, …) `, '' for no places; `between` joins related rows."""
    shown = [between.join(map(str, place)) if isinstance(place, list) else str(place) for place in where[:MAX_PLACES]]
    more = ", …" if len(where) > MAX_PLACES else ""
    return f"({', '.join(shown)}{more}) " if shown else ""


def overlap_in_short(pair: str, split_overlap: SplitOverlap) -> str:
    """`of 300 test rows, also in training: prompts 0, answers 27 (9%), both 0, near-duplicate prompts 3 (1%)`."""
    sentence = overlap_sentence(pair, split_overlap)
    return sentence[0].lower() + sentence[1:].removesuffix(".")


def warning_lines(warnings: Sequence[Notice]) -> Iterator[ReportLine]:
    for notice in warnings:
        yield ReportLine("warning", f"{notice.text} [{notice.code}]", "warning")


REPEATS = {
    "duplicates": "duplicates of earlier rows",
    "conflicting_labels": "conflicting labels (prompt of other rows with another label)",
    "multiple_references": "multiple references (prompt of an earlier row with another answer)",
}
"""Key in a data check -> description of the rows that it counts."""


def repeat_lines(report: dict[str, Any]) -> Iterator[ReportLine]:
    """Rows that repeat the prompt of earlier rows."""
    first = True
    for key, what in REPEATS.items():
        repeated = report.get(key) or {"rows": 0}
        if repeated["rows"]:
            between = " = " if key == "duplicates" else " and "
            text = f"{amount(repeated['rows'], 'row')}: {what} {places(repeated['where'], between)}"
            yield ReportLine("repeats" if first else "", text.rstrip())
            first = False


def metric_lines(report: dict[str, Any]) -> Iterator[ReportLine]:
    """The metric with which a run would score, and why it was decided."""
    if report["metric"]:
        yield ReportLine("metric", metric_text(report["metric"], report["metric_reason"]))


def result_line(report: dict[str, Any]) -> ReportLine:
    """Whether a run would start."""
    if report["refused"]:
        return ReportLine("result", f"cannot train: {report['refused']}", "error")
    warnings = len(report["warnings"])
    return ReportLine("result", f"ready to train, {amount(warnings, 'warning') if warnings else 'no warnings'}", "good")
