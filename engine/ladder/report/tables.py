"""The report's tables, for the page and Markdown: quality, costs, artifacts, tasks.

Each cell has a value and details in small print.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

from engine.config.method_specs import RULE_REFERENCE
from engine.config.metric_specs import LOSS, metric_spec
from engine.config.quantities import ABSENT, Number, count, decimal, duration, energy, money, percent, rate, ratio, size
from engine.config.text import amount
from engine.ladder.added_rungs import added_tables
from engine.ladder.decisions import cost_ratio
from engine.ladder.phrases import (
    NO_SIGNIFICANT_DIFFERENCE,
    SIGNIFICANTLY,
    allowed_collapses,
    as_good_text,
    deciding_sample,
    metric_title,
    not_significant,
    p_value,
    ratio_bounds,
    rung_title,
    seed_range_text,
    share_reference,
)
from engine.ladder.results import comparison
from engine.runs.ladder.ladder_state import Ladder, is_added, is_base
from engine.runs.ladder.rung_kinds import rung_kind
from engine.runs.ladder.rung_results import (
    Comparison,
    LadderSummary,
    LadderTask,
    RungResult,
    SeedRange,
    SummaryRow,
    TaskRow,
)
from engine.runs.ladder.summary_drawing import of_reference
from engine.runs.run.result import TASK, TASKS, Interval
from engine.runs.score_format import (
    difference,
    difference_parts,
    percent_bounds,
    score,
    score_bounds,
    score_parts,
)

OF_BEST = (
    "Without a score of full fine-tuning, shares are of the gain of the best rung; their intervals allow for the doubt "
    "about which rung that is."
)


@dataclass(frozen=True)
class Cell:
    """A value with its details: interval, range, ratio."""

    text: str
    details: tuple[str, ...] = ()
    link: str = ""
    """Where the value leads, relative to the report; '' for no link."""
    drawn: tuple[float, ...] = ()
    """Lower bound, mean and upper bound of an interval to draw, as parts of the column's width."""


RowType = TypeVar("RowType")


@dataclass(frozen=True)
class ReportColumn(Generic[RowType]):
    """A column: its heading, its alignment, and the value of a row in it."""

    head: str
    value: Callable[[RowType], Cell | str]
    group: str = ""
    """Shared heading of adjacent columns."""
    words: bool = False
    """Text is aligned left, numbers right."""
    unmeasured: str | None = None
    """The note that replaces the column if no row has a value; None keeps the column."""


@dataclass(frozen=True)
class TableLine:
    """A row: its heading, then one cell per column or one text across all columns."""

    head: Cell
    cells: Sequence[Cell] = ()
    instead: str = ""
    rung: str = ""
    """The rung whose marker precedes the heading."""


@dataclass(frozen=True)
class ReportTable:
    """A titled table with notes."""

    title: str
    first: str
    """Heading of the first column."""
    columns: Sequence[ReportColumn[Any]]
    lines: Sequence[TableLine]
    notes: Sequence[str] = ()

    def groups(self) -> list[tuple[str, int]]:
        """(heading, columns under it), from left to right."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and column.group and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans


def report_table(
    title: str,
    first: str,
    rows: Iterable[RowType],
    line: Callable[[RowType], TableLine],
    columns: Sequence[ReportColumn[RowType]],
    notes: Iterable[str] = (),
) -> ReportTable:
    """A table with a line per row; columns without a value in any line are replaced by their notes.

    `line` gives a row's line without its cells; a line that has a text instead gets none.
    """
    given = [(row, line(row)) for row in rows]
    measured = [row for row, own in given if not own.instead]
    shown = [
        column
        for column in columns
        if column.unmeasured is None or any(_cell(column.value(row)).text != ABSENT for row in measured)
    ]
    missing = dict.fromkeys(column.unmeasured for column in columns if column.unmeasured and column not in shown)
    lines = [
        own if own.instead else replace(own, cells=[_cell(column.value(row)) for column in shown]) for row, own in given
    ]
    return ReportTable(title, first, shown, lines, (*notes, *missing))


def rung_line(name: str, *details: str, instead: str = "") -> TableLine:
    return TableLine(cell(rung_title(name), *details), instead=instead, rung=name)


def _cell(value: Cell | str) -> Cell:
    return Cell(value) if isinstance(value, str) else value


def cell(text: str, *details: str) -> Cell:
    """A cell without its empty details."""
    return Cell(text, tuple(part for part in details if part and part != ABSENT))


def range_cell(seeds: SeedRange | None, text: Callable[[Number], str], detail: str = "") -> Cell:
    """The mean over the seeds, a detail of it, and the range over the seeds."""
    return cell(text(seeds.mean if seeds else None), detail, seed_range_text(seeds, text))


def noted(what: str, notes: Sequence[tuple[str, str]]) -> list[str]:
    """`what of NAME: note.` for each (name, note), or `what: note.` once if all notes are equal."""
    same = len({note for _, note in notes}) == 1
    texts = [(what if same else f"{what} of {name}", note.rstrip(".")) for name, note in notes if note]
    return list(dict.fromkeys(f"{about}: {note}." for about, note in texts))


def summary_table(summary: LadderSummary) -> ReportTable:
    """One line per rung: score, share of the gain, costs and the decision on it."""
    relative = f"share of {of_reference(summary)}"
    columns: list[ReportColumn[SummaryRow]] = [
        ReportColumn(
            "held-out loss, nats/token, 95% CI" if summary.is_loss else "score, 95% CI",
            lambda row: replace(
                cell(row.score or row.status, row.score_bounds),
                drawn=tuple(row.drawn) if all(0 <= end <= 1 for end in row.drawn) else (),
            ),
        ),
        ReportColumn("gain", lambda row: cell(row.share or ABSENT, row.share_bounds), relative, unmeasured=""),
        ReportColumn(summary.cost, lambda row: cell(row.cost or ABSENT, row.cost_bounds), relative, unmeasured=""),
        ReportColumn("peak memory", lambda row: row.memory or ABSENT, unmeasured=""),
        ReportColumn("artifact", lambda row: row.artifact or ABSENT, unmeasured=""),
        ReportColumn("decision", lambda row: row.decision, words=True),
    ]
    return report_table("Summary", "rung", summary.rows, lambda row: rung_line(row.rung), columns)


STATUS_TEXTS = {"died": "exited unexpectedly", "planned": "not run yet", "live": "running"}
"""Status -> its name in the report, if it differs."""


def status_word(status: str) -> str:
    """`out of memory`, `running`."""
    return STATUS_TEXTS.get(status, status.replace("_", " "))


def results(ladder: Ladder) -> list[ReportTable]:
    """The tables of scores and costs, in the order in which they are shown."""
    optional = filter(None, [*added_tables(ladder), tasks(ladder), artifacts(ladder)])
    return [quality(ladder), time_and_price(ladder), memory_and_size(ladder), *optional]


def quality(ladder: Ladder) -> ReportTable:
    """Score with its interval, shares of full fine-tuning's, held-out loss and forgetting."""
    metric = ladder.metric
    extras = sorted({name for row in ladder.rows for name in row.extra})
    reference = share_reference(ladder)

    def extra(name: str, row: RungResult) -> str:
        return percent(row.extra.get(name))

    score_column = ReportColumn[RungResult](metric_title(metric), lambda row: score_cell(row.score, metric))
    columns: list[ReportColumn[RungResult]] = [
        *([] if metric_spec(metric).is_loss else [score_column]),
        ReportColumn(f"share of {reference}’s gain", lambda row: share_cell(row.share_of_gain), unmeasured=""),
        ReportColumn("held-out loss, nats/token", lambda row: score_cell(row.loss, LOSS.name)),
        ReportColumn(
            "forgetting, nats/token",
            lambda row: difference_cell(row.forgetting, LOSS.name),
            unmeasured="Forgetting was not measured.",
        ),
        *(ReportColumn[RungResult](metric_title(name), partial(extra, name), "secondary scores") for name in extras),
        ReportColumn("end", lambda row: percent(row.ended), "answers that", unmeasured=""),
        ReportColumn("have format errors", lambda row: percent(row.format_errors), "answers that", unmeasured=""),
    ]
    notes = [f"{rung_title(row.name)}: {row.reason}" for row in ladder.rows if row.status == "partly" and row.reason]
    notes += [f"{rung_title(row.name)} is not compared: {row.not_compared}." for row in ladder.rows if row.not_compared]
    notes += [OF_BEST] if reference != RULE_REFERENCE and any(row.share_of_gain for row in ladder.rows) else []
    notes += noted(
        f"No share of {reference}’s gain", [(rung_title(row.name), row.no_share) for row in ladder.rows if row.no_share]
    )
    return report_table("Quality", "rung", ladder.rows, lambda row: _line(row, *rung_facts(row)), columns, notes)


def rung_facts(row: RungResult) -> tuple[str, ...]:
    """The rung's learning rate, what set it, and the number of seeds."""
    if is_added(row.name):
        return (rung_kind(row.method).noun,)
    if is_base(row.name):
        return ("before training",)
    seeds = amount(len(row.seeds), "seed") if row.seeds else ""
    partly = "not all seeds" if row.status == "partly" else ""
    if row.source:
        return ", ".join(filter(None, ("artifact", seeds))), partly
    origin = f" ({row.learning_rate_origin})" if row.learning_rate_origin else ""
    learning_rate = f"rate {rate(row.learning_rate)}{origin}" if row.learning_rate is not None else ""
    return " · ".join(filter(None, (learning_rate, seeds))), partly


def why_no_numbers(row: RungResult) -> str:
    if row.status in ("finished", "partly"):
        return ""
    return ": ".join(filter(None, [status_word(row.status), row.reason]))


def _line(row: RungResult, *details: str) -> TableLine:
    """The line of a rung, with the reason instead of numbers if it has none."""
    return rung_line(row.name, *details, instead=why_no_numbers(row))


def score_cell(interval: Interval | None, metric: str) -> Cell:
    return cell(score(interval.mean if interval else None, metric), score_bounds(interval, metric))


def difference_cell(interval: Interval | None, metric: str) -> Cell:
    return cell(difference(interval.mean if interval else None, metric), score_bounds(interval, metric))


def share_cell(share: Interval | None) -> Cell:
    if share is None:
        return Cell(ABSENT)
    return cell(percent(share.mean), percent_bounds(share) if share.low != share.high else "")


def comparisons(ladder: Ladder) -> ReportTable | None:
    """Every pair of rungs; None if nothing was compared."""
    if not ladder.comparisons:
        return None
    metric = ladder.metric
    of_losses = ReportColumn[Comparison](
        "of losses",
        lambda compared: difference_cell(compared.loss_difference, LOSS.name),
        "difference",
        unmeasured="Losses were not compared.",
    )
    columns: list[ReportColumn[Comparison]] = [
        ReportColumn("of scores", lambda compared: difference_cell(compared.difference, metric), "difference"),
        *([] if metric_spec(metric).is_loss else [of_losses]),
        ReportColumn("adjusted p", lambda compared: p_value(compared.p_adjusted)),
        ReportColumn("finding", lambda compared: finding(ladder, compared), words=True),
    ]
    return report_table(
        "Pairwise comparisons",
        "pair",
        ladder.comparisons,
        lambda compared: TableLine(Cell(f"{rung_title(compared.a)} − {rung_title(compared.b)}")),
        columns,
    )


def finding(ladder: Ladder, compared: Comparison) -> str:
    """`full is significantly better than LoRA`, or `no significant difference with 300 test items`."""
    a, b = rung_title(compared.a), rung_title(compared.b)
    if compared.finding == "as_good":
        return as_good_text(ladder, a, b) + allowed_collapses(ladder, compared.a, compared.b)
    if compared.finding != "undecided":
        return f"{a} is {SIGNIFICANTLY[compared.finding]} than {b}"
    if (opposite := comparison(ladder, compared.b, compared.a)) and opposite.finding == "as_good":
        return as_good_text(ladder, b, a) + allowed_collapses(ladder, compared.a, compared.b)
    return "; ".join(filter(None, [not_significant(ladder), deciding_sample(ladder, compared)]))


PEAKS = {
    "rss_training": ("training", "process RSS"),
    "rss": ("all phases", "process RSS"),
    "allocated_training": ("training", "allocated by tensors"),
    "allocated": ("all phases", "allocated by tensors"),
    "reserved_training": ("training", "reserved by PyTorch"),
    "reserved": ("all phases", "reserved by PyTorch"),
    "gpu_training": ("training", "reserved + paged state"),
    "nvml_used": ("all processes", "used on the GPU"),
}
"""Kinds of peak memory: (phases or processes, what is counted)."""
NO_ENERGY = "Energy was not measured: no energy counter."
NO_GPU_MEMORY = "GPU memory was not measured: the runs did not use a GPU."
NO_RSS = {
    "rss_training": "The memory of the process while training was not measured.",
    "rss": "The memory of the process was not measured.",
}


def _reference(rows: Sequence[RungResult]) -> RungResult | None:
    """The row that ratios refer to: full fine-tuning; None if it has no numbers."""
    return next((row for row in rows if row.method == RULE_REFERENCE and not why_no_numbers(row)), None)


def time_and_price(ladder: Ladder) -> ReportTable:
    """Means over the seeds, their ratio to full fine-tuning's, and the range over the seeds."""
    full = _reference(ladder.rows)

    def measured(row: RungResult, name: str, text: Callable[[Number], str]) -> Cell:
        own, of_full = getattr(row, name), getattr(full, name) if full else None
        compared = cost_ratio(own, of_full) if row is not full else None
        return range_cell(own, text, f"{ratio(compared.mean)} full’s {ratio_bounds(compared)}" if compared else "")

    def throughput(row: RungResult) -> Cell:
        computed = row.computed_tokens_per_second
        return range_cell(row.tokens_per_second, count, f"{count(computed.mean)} computed" if computed else "")

    no_price = _reasons((row.money_note for row in ladder.rows), "no price per hour was given")
    columns: list[ReportColumn[RungResult]] = [
        ReportColumn("training", lambda row: measured(row, "training_seconds", duration), "time"),
        ReportColumn("total", lambda row: measured(row, "all_seconds", duration), "time"),
        ReportColumn("CPU time in training", lambda row: measured(row, "cpu_seconds", duration), unmeasured=""),
        ReportColumn("tokens/s while training", throughput),
        ReportColumn("energy", lambda row: measured(row, "energy", energy), unmeasured=NO_ENERGY),
        ReportColumn(
            "price per run",
            lambda row: measured(row, "money", lambda price: money(price, row.currency)),
            unmeasured=f"No price per run: {no_price}.",
        ),
    ]
    notes = noted("Price per run", [(rung_title(row.name), row.money_note) for row in ladder.rows if row.money])
    return report_table("Time and price", "rung", _trained(ladder), _line, columns, notes)


def memory_and_size(ladder: Ladder) -> ReportTable:
    """Every kind of peak that this machine measures, the parameters and the artifact's size."""
    full = _reference(ladder.rows)

    def peak(kind: str, row: RungResult) -> Cell:
        own = getattr(row.peak, kind) if row.peak else None
        of_full = getattr(full.peak, kind) if full and full.peak else None
        return cell(size(own), f"{ratio(own / of_full)} full’s" if own and of_full and row is not full else "")

    columns: list[ReportColumn[RungResult]] = [
        *(
            ReportColumn[RungResult](
                text, partial(peak, kind), f"peak memory, {group}", unmeasured=NO_RSS.get(kind, NO_GPU_MEMORY)
            )
            for kind, (text, group) in PEAKS.items()
        ),
        ReportColumn("trainable", lambda row: count(row.trainable) if row.trainable else ABSENT, "parameters"),
        ReportColumn(
            "share",
            lambda row: percent(row.trainable / row.parameters if row.trainable and row.parameters else None, 2),
            "parameters",
        ),
        ReportColumn("artifact size", lambda row: size(row.artifact_bytes) if row.artifact_bytes else ABSENT),
    ]
    return report_table("Memory and size", "rung", _trained(ladder), _line, columns)


def _trained(ladder: Ladder) -> list[RungResult]:
    return [row for row in ladder.rows if not is_base(row.name) and not row.source]


def _reasons(notes: Iterable[str], otherwise: str) -> str:
    return "; ".join(dict.fromkeys(filter(None, notes))) or otherwise


def artifacts(ladder: Ladder) -> ReportTable | None:
    """One line per artifact; None without any."""
    rows = [row for row in ladder.rows if row.source]
    if not rows:
        return None
    metric = ladder.metric

    def difference_of_runs(row: RungResult) -> Cell:
        of_run = comparison(ladder, row.name, row.source)
        return difference_cell(of_run.difference if of_run else None, metric)

    columns: list[ReportColumn[RungResult]] = [
        ReportColumn(metric_title(metric), lambda row: score_cell(row.score, metric)),
        ReportColumn("artifact − its runs", difference_of_runs, "difference"),
        ReportColumn(
            "identical answers",
            lambda row: percent(row.identical),
            unmeasured=None if metric_spec(metric).needs_answers else "",
        ),
        ReportColumn("artifact size", lambda row: size(row.artifact_bytes)),
        ReportColumn("per export", lambda row: range_cell(row.export_seconds, duration), "time"),
        ReportColumn("runs and export", lambda row: range_cell(row.all_seconds, duration), "time"),
        ReportColumn(
            "generation, tokens/s",
            lambda row: cell(decimal(row.generation.mean, 1), row.generation_device) if row.generation else ABSENT,
            unmeasured="",
        ),
    ]
    return report_table(
        "Artifacts", "artifact", rows, lambda row: _line(row, f"exported from {rung_title(row.source)}"), columns
    )


FINDINGS = {"worse": "forgets", "better": "gains", "undecided": NO_SIGNIFICANT_DIFFERENCE}
NO_TASK_OF_BASE = f"The base model has no score on the {TASKS}, so forgetting on them is unknown."


def tasks(ladder: Ladder) -> ReportTable | None:
    """One line per task and rung; None without tasks."""
    if not ladder.tasks:
        return None

    def gap(task: LadderTask, row: TaskRow) -> Cell:
        return cell(*difference_parts(row.difference, task.is_share))

    def result(task: LadderTask, row: TaskRow) -> Cell:
        return cell(*score_parts(row.score, task.is_share))

    columns: list[ReportColumn[tuple[LadderTask, TaskRow]]] = [
        ReportColumn(
            TASK,
            lambda pair: cell(pair[0].name, f"{pair[0].metric}, {amount(pair[0].items, 'item')}"),
            words=True,
        ),
        ReportColumn("score", lambda pair: result(*pair)),
        ReportColumn("difference from base", lambda pair: gap(*pair), unmeasured=NO_TASK_OF_BASE),
        ReportColumn("adjusted p", lambda pair: p_value(pair[1].p_adjusted), unmeasured=""),
        ReportColumn(
            "finding", lambda pair: FINDINGS[pair[1].finding] if pair[1].finding else ABSENT, words=True, unmeasured=""
        ),
    ]
    rows = [(task, row) for task in ladder.tasks for row in task.rows]
    return report_table(TASKS.capitalize(), "rung", rows, lambda pair: rung_line(pair[1].name), columns)
