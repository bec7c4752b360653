"""The report's table of artifacts: what each keeps of its runs, and its costs."""

from __future__ import annotations

from engine.config.metric_specs import metric_spec
from engine.config.quantities import ABSENT, decimal, duration, percent, size
from engine.ladder.decisions import comparison
from engine.ladder.phrases import metric_title, rung_title, seed_range_text
from engine.ladder.report.quality_tables import why_no_numbers
from engine.ladder.report.table import Cell, ReportColumn, ReportTable, TableLine, cell, without_empty
from engine.runs.ladder import Ladder
from engine.runs.rung_results import RungResult
from engine.runs.score_format import difference, score, score_bounds


def artifacts(ladder: Ladder) -> ReportTable | None:
    """One line per artifact; None without any."""
    rows = [row for row in ladder.rows if row.source]
    if not rows:
        return None
    metric = ladder.work.metric if ladder.work else "score"
    needs_answers = metric_spec(metric).needs_answers
    columns = [
        ReportColumn(metric_title(metric)),
        ReportColumn("artifact − its runs", "difference"),
        ReportColumn("identical answers", unmeasured="" if not needs_answers else None),
        ReportColumn("artifact size"),
        ReportColumn("per export", "time"),
        ReportColumn("runs and export", "time"),
        ReportColumn("generation, tokens/s", unmeasured=""),
    ]
    lines = [_line(ladder, row, metric) for row in rows]
    return without_empty(ReportTable("Artifacts", "artifact", columns, lines))


def _line(ladder: Ladder, row: RungResult, metric: str) -> TableLine:
    head = cell(rung_title(row.name), f"exported from {rung_title(row.source)}")
    if why := why_no_numbers(row):
        return TableLine(head, instead=why, rung=row.name)
    of_run = comparison(ladder, row.name, row.source)
    mean = row.score.mean if row.score else None
    cells = [
        cell(score(mean, metric), score_bounds(row.score, metric)),
        cell(difference(of_run.difference.mean, metric), score_bounds(of_run.difference, metric))
        if of_run
        else Cell(ABSENT),
        Cell(percent(row.identical)),
        Cell(size(row.artifact_bytes)),
        cell(
            duration(row.export_seconds.mean if row.export_seconds else None),
            seed_range_text(row.export_seconds, duration),
        ),
        cell(duration(row.all_seconds.mean if row.all_seconds else None), seed_range_text(row.all_seconds, duration)),
        cell(decimal(row.generation.mean, 1), row.generation_device) if row.generation else Cell(ABSENT),
    ]
    return TableLine(head, cells, rung=row.name)
