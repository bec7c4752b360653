"""The report's table of benchmarks: scores of every rung, and their differences from the base model."""

from __future__ import annotations

from engine.config.quantities import ABSENT
from engine.config.text import amount
from engine.ladder.phrases import NO_SIGNIFICANT_DIFFERENCE, p_value, rung_title
from engine.ladder.report.table import Cell, ReportColumn, ReportTable, TableLine, cell, without_empty
from engine.runs.ladder import Ladder
from engine.runs.ladder_benchmarks import BenchmarkRow, LadderBenchmark
from engine.runs.score_format import plain_difference, plain_with_bounds

TITLE = "Benchmarks"
FINDINGS = {"worse": "forgets", "better": "gains", "undecided": NO_SIGNIFICANT_DIFFERENCE}
NOT_COMPARED = "The base model has no score on the benchmarks, so forgetting on them is unknown."


def benchmarks(ladder: Ladder) -> ReportTable | None:
    """One line per benchmark and rung; None without benchmarks."""
    if not ladder.benchmarks:
        return None
    columns = [
        ReportColumn("benchmark", words=True),
        ReportColumn("score"),
        ReportColumn("difference from base", unmeasured=NOT_COMPARED),
        ReportColumn("unadjusted", "p", unmeasured=""),
        ReportColumn("adjusted", "p", unmeasured=""),
        ReportColumn("finding", words=True, unmeasured=""),
    ]
    lines = [_line(benchmark, row) for benchmark in ladder.benchmarks for row in benchmark.rows]
    return without_empty(ReportTable(TITLE, "rung", columns, lines))


def _line(benchmark: LadderBenchmark, row: BenchmarkRow) -> TableLine:
    score, _, bounds = plain_with_bounds(row.score, benchmark.is_share).partition(" ")
    cells = [
        cell(benchmark.name, f"{benchmark.metric}, {amount(benchmark.items, 'item')}"),
        cell(score, bounds),
        _difference(benchmark, row),
        Cell(p_value(row.p)),
        Cell(p_value(row.p_adjusted)),
        Cell(FINDINGS[row.finding] if row.finding else ABSENT),
    ]
    return TableLine(Cell(rung_title(row.name)), cells, rung=row.name)


def _difference(benchmark: LadderBenchmark, row: BenchmarkRow) -> Cell:
    if row.difference is None:
        return Cell(ABSENT)
    value, bracket, bounds = plain_difference(row.difference, benchmark.is_share).partition(" [")
    return cell(value, f"{bracket.strip()}{bounds}")
