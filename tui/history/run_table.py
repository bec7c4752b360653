"""The columns of the runs table: how a run is displayed in each and how it is sorted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from engine.config.quantities import duration, size
from tui.charts.columns import Column, TableRow
from tui.format import last_part, moment
from tui.history.run_list import RunSummary, model, score

Value = float | str
STYLES = {
    "finished": "$text-success",
    "paused": "$text-warning",
    "stopped": "$text-warning",
    "failed": "$text-error",
    "out_of_memory": "$text-error",
    "diverged": "$text-error",
    "died": "$text-error",
    "damaged": "$text-error",
}


@dataclass(frozen=True)
class Field:
    """A column, with the text and the sort value of a run."""

    column: Column
    text: Callable[[RunSummary], str]
    value: Callable[[RunSummary], Value]


def _state(line: RunSummary) -> str:
    return line.state.replace("_", " ")


FIELDS = (
    Field(Column("when", 11), lambda line: when(line.created), lambda line: line.created),
    Field(Column("run", 14), lambda line: undated(line.name), lambda line: undated(line.name)),
    Field(Column("state", 9), _state, _state),
    Field(Column("score", 12), score, lambda line: _number(line.after)),
    Field(Column("time", 6, right=True), lambda line: duration(line.seconds), lambda line: _number(line.seconds)),
    Field(Column("peak", right=True), lambda line: size(line.peak), lambda line: _number(line.peak)),
    Field(Column("method"), lambda line: line.method, lambda line: line.method),
    Field(Column("model"), model, model),
    Field(Column("data"), lambda line: last_part(line.data), lambda line: last_part(line.data)),
)
TABLE = (Column("", 1), *(field.column for field in FIELDS))


def ordered(lines: Iterable[RunSummary], by: int, reverse: bool, word: str = "") -> list[RunSummary]:
    """The runs that contain the word, sorted by column `by` of FIELDS, then by name."""
    kept = [line for line in lines if word.lower() in _all(line).lower()]
    return sorted(kept, key=lambda line: (FIELDS[by].value(line), line.name), reverse=reverse)


def row(line: RunSummary, marked: bool) -> TableRow:
    """A run as a row of the table."""
    style = STYLES.get(line.state, "bold $primary")
    cells = [(field.text(line), style if field.column.name == "state" else "") for field in FIELDS]
    return TableRow(line.name, (("*" if marked else "", "bold $accent"), *cells))


def names(by: int, reverse: bool) -> list[str]:
    """Column names, with an arrow at the sort column."""
    arrow = "↓" if reverse else "↑"
    return ["", *(field.column.name + (arrow if number == by else "") for number, field in enumerate(FIELDS))]


def when(created: float) -> str:
    """`11-25 19:22`."""
    return moment(created, "%m-%d %H:%M") if created else "–"


def undated(name: str) -> str:
    """`20261125-192205-demo-lora-lora-3f2a` -> `demo-lora-lora-3f2a`; any other name unchanged."""
    parts = name.split("-", 2)
    return parts[2] if len(parts) == 3 and parts[0].isdigit() and parts[1].isdigit() else name


def _all(line: RunSummary) -> str:
    return " ".join([line.name, line.model, line.data, *(field.text(line) for field in FIELDS)])


def _number(value: float | None) -> float:
    return float("-inf") if value is None else float(value)
