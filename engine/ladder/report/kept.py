"""What each rung kept: the scores, their share of full fine-tuning's, what was forgotten, and who beats whom."""

from __future__ import annotations

from collections.abc import Sequence

from engine.config.metric_specs import metric_spec
from engine.ladder.format import (
    ABSENT,
    about,
    difference,
    loss,
    loss_bounds,
    loss_change,
    p_value,
    percent,
    percent_bounds,
    rate,
    rung,
    score,
    score_bounds,
    view,
    whole,
)
from engine.ladder.report.table import Cell, Column, Line, Table, cell, noted, without_empty
from engine.runs.ladder import BASES, Comparison, Ladder, RungResult
from engine.runs.result import Interval

"""Rows of the untrained model: as LoRA and full fine-tuning load it, and as QLoRA does."""
WHY = {
    "out_of_memory": "did not fit in memory",
    "diverged": "diverged",
    "failed": "failed",
    "died": "died",
    "stopped": "stopped",
    "skipped": "skipped",
    "planned": "not run yet",
    "live": "running",
}


def quality(ladder: Ladder) -> Table:
    """Score with its interval, shares of full's, held-out loss, forgetting."""
    metric = ladder.work.metric if ladder.work else "score"
    extras = sorted({name for row in ladder.rows for name in row.extra})
    columns = [
        *([] if not metric_spec(metric).needs_answers else [Column(view(metric))]),
        Column("score", "share of full’s", unmeasured=""),
        Column("gain over base", "share of full’s", unmeasured=""),
        Column("held-out loss", "nats a token"),
        Column("forgetting", "nats a token", unmeasured="Forgetting was not measured."),
        *(Column(view(name), "other views of the answers") for name in extras),
    ]
    lines = [_quality_line(row, metric, extras) for row in ladder.rows]
    notes = [f"{rung(row.name)}: {row.reason}" for row in ladder.rows if row.status == "partly" and row.reason]
    notes += noted("No share of full’s gain", [(rung(row.name), row.no_share) for row in ladder.rows if row.no_share])
    return without_empty(Table("What each rung kept", "rung", columns, lines, notes))


def head(row: RungResult) -> Cell:
    """The rung's name, its learning rate and its seeds."""
    if row.name in BASES:
        return Cell(rung(row.name), ("before any training",))
    trained = f"rate {rate(row.learning_rate)}" if row.learning_rate is not None else ""
    seeds = f"{len(row.seeds)} seed{'s' if len(row.seeds) != 1 else ''}" if row.seeds else ""
    partly = "some seeds only" if row.status == "partly" else ""
    return cell(rung(row.name), " · ".join(filter(None, (trained, seeds))), partly)


def nothing(row: RungResult) -> str:
    """Why the row has no numbers, '' where it has."""
    if row.status in ("finished", "partly"):
        return ""
    why = WHY.get(row.status, row.status.replace("_", " "))
    return f"{why}: {row.reason}" if row.reason else why


def _quality_line(row: RungResult, metric: str, extras: Sequence[str]) -> Line:
    if nothing(row):
        return Line(head(row), instead=nothing(row), rung=row.name)
    mean = row.score.mean if row.score else None
    held_out, forgot = row.loss, row.forgetting
    cells = [
        *(
            []
            if not metric_spec(metric).needs_answers
            else [cell(score(mean, metric), score_bounds(row.score, metric))]
        ),
        _share(row.share_of_score),
        _share(row.share_of_gain),
        cell(loss(held_out.mean if held_out else None), loss_bounds(held_out)),
        cell(loss_change(forgot.mean if forgot else None), loss_bounds(forgot)),
        *(Cell(percent(row.extra.get(name))) for name in extras),
    ]
    return Line(head(row), cells, rung=row.name)


def _share(share: Interval | None) -> Cell:
    if share is None:
        return Cell(ABSENT)
    return cell(percent(share.mean), percent_bounds(share) if share.low != share.high else "")


def by_seed(ladder: Ladder) -> Table | None:
    """The score of every seed; None where there is but one."""
    seeds = sorted({seed for row in ladder.rows for seed in row.seeds})
    if len(seeds) < 2:
        return None
    metric = ladder.work.metric if ladder.work else "score"
    lines = []
    for row in ladder.rows:
        found = dict(zip(row.seeds, row.by_seed, strict=False))
        if found:
            cells = [Cell(score(found.get(seed), metric)) for seed in seeds]
            lines.append(Line(Cell(rung(row.name)), cells, rung=row.name))
    return Table(f"{view(metric)} by seed", "rung", [Column(str(seed), "seed") for seed in seeds], lines)


def comparisons(ladder: Ladder) -> Table | None:
    """Every pair of rungs; None where nothing was compared."""
    if not ladder.comparisons:
        return None
    metric = ladder.work.metric if ladder.work else "score"
    items = ladder.work.test if ladder.work else None
    columns = [
        Column("of scores", "difference"),
        *(
            []
            if not metric_spec(metric).needs_answers
            else [Column("of losses", "difference", unmeasured="Losses were not compared.")]
        ),
        Column("this pair", "p"),
        Column("all pairs together", "p"),
        Column("McNemar, by seed", "p", unmeasured="McNemar’s test is for scores that are 0 or 1."),
        Column("finding", words=True),
    ]
    lines = [
        Line(
            Cell(f"{rung(c.a)} − {rung(c.b)}"),
            [
                cell(difference(c.difference.mean, metric), score_bounds(c.difference, metric)),
                *([] if not metric_spec(metric).needs_answers else [_loss_difference(c)]),
                Cell(p_value(c.p)),
                Cell(p_value(c.p_adjusted)),
                Cell(", ".join(map(p_value, c.mcnemar)) or ABSENT),
                Cell(finding(c, items)),
            ],
        )
        for c in ladder.comparisons
    ]
    return without_empty(Table("Which differences are more than chance", "pair", columns, lines))


def _loss_difference(compared: Comparison) -> Cell:
    less = compared.loss_difference
    return cell(loss_change(less.mean), loss_bounds(less)) if less else Cell(ABSENT)


def finding(compared: Comparison, items: int | None = None) -> str:
    """`full is better than LoRA`, `cannot be told apart with these 300 items; about 1,900 would be needed`."""
    if compared.finding != "undecided":
        return f"{rung(compared.a)} is {compared.finding} than {rung(compared.b)}"
    text = f"cannot be told apart with these {whole(items)} items" if items else "cannot be told apart"
    needs = [f"about {about(compared.needed_items)} items"] if compared.needed_items else []
    needs += [f"{whole(compared.needed_seeds)} seeds"] if compared.needed_seeds else []
    return f"{text}; {' and '.join(needs)} would be needed" if needs else text
