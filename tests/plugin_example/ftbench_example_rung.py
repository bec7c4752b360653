"""A rung that gives every test item the same answer, `--rung same=answer:TEXT`: what a method has to beat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from engine.runs.ladder.ladder_state import AddedRung
from engine.runs.ladder.rung_kinds import RungKind
from engine.runs.ladder.rung_results import RungResult

if TYPE_CHECKING:
    from engine.ladder.added_rungs import Answered

SIGN = "=answer:"


def plan(words: Sequence[str], prices: Sequence[str]) -> list[AddedRung]:
    named = [word.partition(SIGN) for word in words]
    return [AddedRung(kind="constant", name=name, source=text) for name, _, text in named]


KIND = RungKind("constant answer", lambda word: SIGN in word, plan, module=__name__)


def check(rung: AddedRung, stopping: Any) -> None: ...


def answer(rung: AddedRung, questions: Sequence[Any], longest: int, folder: Any, stopping: Any) -> Answered:
    from engine.ladder.added_rungs import Answered, ItemAnswer  # NumPy, which the bench does not import

    return Answered([ItemAnswer(rung.source) for _ in questions])


def caveats(row: RungResult) -> Iterator[str]:
    yield f"{row.name.removeprefix('@')} does not read the prompt."


def tables(rows: Sequence[RungResult]) -> Iterator[Any]:
    from engine.ladder.report.tables import ReportColumn, report_table, rung_line

    columns = [ReportColumn[RungResult]("reads the prompt", lambda row: "no", words=True)]
    yield report_table("Constant answers", "rung", rows, lambda row: rung_line(row.name), columns)
