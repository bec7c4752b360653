"""The report's quality tables: scores and shares of full fine-tuning's, scores by seed, pairwise comparisons."""

from __future__ import annotations

from collections.abc import Sequence

from engine.config.metric_specs import metric_spec
from engine.config.quantities import ABSENT, percent, rate
from engine.config.text import amount
from engine.ladder.decisions import comparison
from engine.ladder.phrases import (
    NO_SIGNIFICANT_DIFFERENCE,
    POWER,
    SIGNIFICANTLY,
    as_good_text,
    both_as_good_text,
    metric_title,
    needed_sample,
    p_value,
    rung_title,
)
from engine.ladder.report.table import Cell, ReportColumn, ReportTable, TableLine, cell, noted, without_empty
from engine.runs.ladder import Ladder
from engine.runs.result import Interval
from engine.runs.rung_results import Comparison, RungResult
from engine.runs.rungs import is_base
from engine.runs.score_format import difference, loss, loss_bounds, loss_change, percent_bounds, score, score_bounds

STATUS_TEXTS = {
    "out_of_memory": "out of memory",
    "diverged": "diverged",
    "failed": "failed",
    "died": "exited unexpectedly",
    "stopped": "stopped",
    "skipped": "skipped",
    "planned": "not run yet",
    "live": "running",
}


def quality(ladder: Ladder) -> ReportTable:
    """Score with its interval, shares of full fine-tuning's, held-out loss and forgetting."""
    metric = _metric(ladder)
    extras = sorted({name for row in ladder.rows for name in row.extra})
    columns = [
        *([ReportColumn(metric_title(metric))] if metric_spec(metric).needs_answers else []),
        ReportColumn("score", "share of full’s", unmeasured=""),
        ReportColumn("gain over base", "share of full’s", unmeasured=""),
        ReportColumn("held-out loss, nats/token"),
        ReportColumn("forgetting, nats/token", unmeasured="Forgetting was not measured."),
        *(ReportColumn(metric_title(name), "secondary scores") for name in extras),
        ReportColumn("end", "answers that", unmeasured=""),
        ReportColumn("have format errors", "answers that", unmeasured=""),
    ]
    lines = [_quality_line(row, metric, extras) for row in ladder.rows]
    notes = [f"{rung_title(row.name)}: {row.reason}" for row in ladder.rows if row.status == "partly" and row.reason]
    notes += [f"{rung_title(row.name)} is not compared: {row.not_compared}." for row in ladder.rows if row.not_compared]
    no_share = [(rung_title(row.name), row.no_share) for row in ladder.rows if row.no_share]
    return without_empty(
        ReportTable("Quality", "rung", columns, lines, [*notes, *noted("No share of full’s gain", no_share)])
    )


def rung_cell(row: RungResult) -> Cell:
    """The rung's name with its learning rate and number of seeds."""
    if is_base(row.name):
        return Cell(rung_title(row.name), ("before training",))
    if row.source:
        seeds = f"artifact, {amount(len(row.seeds), 'seed')}" if row.seeds else "artifact"
        return cell(rung_title(row.name), seeds, "not all seeds" if row.status == "partly" else "")
    learning_rate = f"rate {rate(row.learning_rate)}" if row.learning_rate is not None else ""
    seeds = f"{len(row.seeds)} seed{'s' if len(row.seeds) != 1 else ''}" if row.seeds else ""
    partly = "not all seeds" if row.status == "partly" else ""
    return cell(rung_title(row.name), " · ".join(filter(None, (learning_rate, seeds))), partly)


def why_no_numbers(row: RungResult) -> str:
    """Why the row has no numbers, '' if it has."""
    if row.status in ("finished", "partly"):
        return ""
    why = STATUS_TEXTS.get(row.status, row.status.replace("_", " "))
    return f"{why}: {row.reason}" if row.reason else why


def _metric(ladder: Ladder) -> str:
    return ladder.work.metric if ladder.work else "score"


def _quality_line(row: RungResult, metric: str, extras: Sequence[str]) -> TableLine:
    if why := why_no_numbers(row):
        return TableLine(rung_cell(row), instead=why, rung=row.name)
    mean = row.score.mean if row.score else None
    cells = [
        *([cell(score(mean, metric), score_bounds(row.score, metric))] if metric_spec(metric).needs_answers else []),
        _share(row.share_of_score),
        _share(row.share_of_gain),
        cell(loss(row.loss.mean if row.loss else None), loss_bounds(row.loss)),
        cell(loss_change(row.forgetting.mean if row.forgetting else None), loss_bounds(row.forgetting)),
        *(Cell(percent(row.extra.get(name))) for name in extras),
        Cell(percent(row.ended)),
        Cell(percent(row.format_errors)),
    ]
    return TableLine(rung_cell(row), cells, rung=row.name)


def _share(share: Interval | None) -> Cell:
    if share is None:
        return Cell(ABSENT)
    return cell(percent(share.mean), percent_bounds(share) if share.low != share.high else "")


def by_seed(ladder: Ladder) -> ReportTable | None:
    """The score of every seed; None if there is only one."""
    seeds = sorted({seed for row in ladder.rows for seed in row.seeds})
    if len(seeds) < 2:
        return None
    metric = _metric(ladder)
    lines = []
    for row in ladder.rows:
        scores = dict(zip(row.seeds, row.by_seed, strict=False))
        if scores:
            cells = [Cell(score(scores.get(seed), metric)) for seed in seeds]
            lines.append(TableLine(Cell(rung_title(row.name)), cells, rung=row.name))
    title = metric_title(metric)
    return ReportTable(
        f"{title[:1].upper()}{title[1:]} by seed", "rung", [ReportColumn(str(s), "seed") for s in seeds], lines
    )


def comparisons(ladder: Ladder) -> ReportTable | None:
    """Every pair of rungs; None if nothing was compared."""
    if not ladder.comparisons:
        return None
    metric = _metric(ladder)
    of_losses = ReportColumn("of losses", "difference", unmeasured="Losses were not compared.")
    columns = [
        ReportColumn("of scores", "difference"),
        *([of_losses] if metric_spec(metric).needs_answers else []),
        ReportColumn("unadjusted", "p"),
        ReportColumn("adjusted", "p"),
        ReportColumn("McNemar, by seed", "p", unmeasured="McNemar’s test applies to scores of 0 or 1 only."),
        ReportColumn("finding", words=True),
    ]
    lines = [_comparison_line(ladder, compared, metric) for compared in ladder.comparisons]
    return without_empty(ReportTable("Pairwise comparisons", "pair", columns, lines))


def _comparison_line(ladder: Ladder, compared: Comparison, metric: str) -> TableLine:
    of_scores, of_losses = compared.difference, compared.loss_difference
    loss_cell = cell(loss_change(of_losses.mean), loss_bounds(of_losses)) if of_losses else Cell(ABSENT)
    cells = [
        cell(difference(of_scores.mean, metric), score_bounds(of_scores, metric)),
        *([loss_cell] if metric_spec(metric).needs_answers else []),
        Cell(p_value(compared.p)),
        Cell(p_value(compared.p_adjusted)),
        Cell(", ".join(map(p_value, compared.mcnemar)) or ABSENT),
        Cell(finding(ladder, compared)),
    ]
    return TableLine(Cell(f"{rung_title(compared.a)} − {rung_title(compared.b)}"), cells)


def finding(ladder: Ladder, compared: Comparison) -> str:
    """`full is significantly better than LoRA`, or `no significant difference with 300 test items`."""
    a, b = rung_title(compared.a), rung_title(compared.b)
    if compared.finding == "as_good":
        return as_good_text(ladder, a, b)
    if compared.finding != "undecided":
        return f"{a} is {SIGNIFICANTLY[compared.finding]} than {b}"
    if (opposite := comparison(ladder, compared.b, compared.a)) and opposite.finding == "as_good":
        return as_good_text(ladder, b, a)
    items = ladder.work.test if ladder.work else None
    text = f"{NO_SIGNIFICANT_DIFFERENCE} with {amount(items, 'test item')}" if items else NO_SIGNIFICANT_DIFFERENCE
    needed = needed_sample(compared)
    if not needed:
        return text
    shown = f" to show that {both_as_good_text(ladder)}" if compared.needed_for == "as_good" else ""
    return f"{text}; {needed} {POWER}{shown}"
