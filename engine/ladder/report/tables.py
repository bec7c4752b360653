"""The report's tables, for the page and Markdown: quality, costs, artifacts, benchmarks.

Each cell has a value and details in small print.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from engine.config.method_specs import RULE_REFERENCE
from engine.config.metric_specs import metric_spec
from engine.config.quantities import ABSENT, Number, count, decimal, duration, energy, money, percent, rate, ratio, size
from engine.config.text import amount
from engine.ladder.decisions import cost_ratio
from engine.ladder.phrases import (
    NO_ENERGY,
    NO_SIGNIFICANT_DIFFERENCE,
    POWER,
    SIGNIFICANTLY,
    as_good_text,
    both_as_good_text,
    metric_title,
    needed_sample,
    not_significant,
    p_value,
    ratio_bounds,
    rung_title,
    seed_range_text,
)
from engine.ladder.results import comparison
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.ladder.rung_results import (
    BenchmarkRow,
    Comparison,
    LadderBenchmark,
    LadderSummary,
    RungResult,
    SeedRange,
)
from engine.runs.ladder.rungs import is_base, is_served
from engine.runs.run.result import Interval
from engine.runs.score_format import (
    difference,
    difference_with_bounds,
    loss,
    loss_bounds,
    loss_change,
    of_reference,
    percent_bounds,
    score,
    score_bounds,
    with_bounds,
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


@dataclass(frozen=True)
class ReportColumn:
    """A column's heading and alignment."""

    head: str
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
    columns: Sequence[ReportColumn]
    lines: Sequence[TableLine]
    notes: Sequence[str] = field(default_factory=tuple)

    def groups(self) -> list[tuple[str, int]]:
        """(heading, columns under it), from left to right."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and column.group and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans


def without_empty(table: ReportTable) -> ReportTable:
    """Replace columns without a value by their notes."""
    filled, notes = [], []
    for number, column in enumerate(table.columns):
        if column.unmeasured is not None and all(
            line.cells[number].text == ABSENT for line in table.lines if line.cells
        ):
            notes.append(column.unmeasured)
        else:
            filled.append(number)
    lines = [replace(line, cells=tuple(line.cells[n] for n in filled) if line.cells else ()) for line in table.lines]
    columns = tuple(table.columns[n] for n in filled)
    return replace(table, columns=columns, lines=lines, notes=(*table.notes, *dict.fromkeys(filter(None, notes))))


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


def plain(texts: Sequence[str]) -> tuple[Cell, ...]:
    """Cells without details."""
    return tuple(Cell(text) for text in texts)


def summary_table(summary: LadderSummary) -> ReportTable:
    """One line per rung: score, share of the gain, costs and the decision on it."""
    relative = f"share of {of_reference(summary)}"
    columns = [
        ReportColumn("held-out loss, nats/token, 95% CI" if summary.is_loss else "score, 95% CI"),
        ReportColumn("gain", relative, unmeasured=""),
        ReportColumn(summary.cost, relative, unmeasured=""),
        ReportColumn("peak memory", unmeasured=""),
        ReportColumn("artifact", unmeasured=""),
        ReportColumn("decision", words=True),
    ]
    lines = [
        TableLine(
            Cell(row.title),
            [
                Cell(row.score, drawn=tuple(row.drawn)),
                *(Cell(text or ABSENT) for text in (row.share, row.cost, row.memory, row.artifact)),
                Cell(row.decision),
            ],
            rung=row.rung,
        )
        for row in summary.rows
    ]
    return without_empty(ReportTable("Summary", "rung", columns, lines))


STATUS_TEXTS = {"died": "exited unexpectedly", "planned": "not run yet", "live": "running"}
"""Status -> its name in the report, where that is another one."""


def status_word(status: str) -> str:
    """`out of memory`, `running`."""
    return STATUS_TEXTS.get(status, status.replace("_", " "))


def results(ladder: Ladder) -> list[ReportTable]:
    """The tables of scores and costs, in the order in which they are shown."""
    optional = filter(None, [served_models(ladder), benchmarks(ladder), artifacts(ladder)])
    return [quality(ladder), time_and_price(ladder), memory_and_size(ladder), *optional]


def quality(ladder: Ladder) -> ReportTable:
    """Score with its interval, shares of full fine-tuning's, held-out loss and forgetting."""
    metric = _metric(ladder)
    extras = sorted({name for row in ladder.rows for name in row.extra})
    columns = [
        *([] if metric_spec(metric).is_loss else [ReportColumn(metric_title(metric))]),
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
    """The rung's name with its learning rate, what set it, and the number of seeds."""
    if is_served(row.name):
        return Cell(rung_title(row.name), ("served model",))
    if is_base(row.name):
        return Cell(rung_title(row.name), ("before training",))
    if row.source:
        seeds = f"artifact, {amount(len(row.seeds), 'seed')}" if row.seeds else "artifact"
        return cell(rung_title(row.name), seeds, "not all seeds" if row.status == "partly" else "")
    origin = f" ({row.learning_rate_origin})" if row.learning_rate_origin else ""
    learning_rate = f"rate {rate(row.learning_rate)}{origin}" if row.learning_rate is not None else ""
    seeds = f"{len(row.seeds)} seed{'s' if len(row.seeds) != 1 else ''}" if row.seeds else ""
    partly = "not all seeds" if row.status == "partly" else ""
    return cell(rung_title(row.name), " · ".join(filter(None, (learning_rate, seeds))), partly)


def why_no_numbers(row: RungResult) -> str:
    """Why the row has no numbers, '' if it has."""
    if row.status in ("finished", "partly"):
        return ""
    why = status_word(row.status)
    return f"{why}: {row.reason}" if row.reason else why


def _metric(ladder: Ladder) -> str:
    return ladder.work.metric if ladder.work else "score"


def _quality_line(row: RungResult, metric: str, extras: Sequence[str]) -> TableLine:
    if why := why_no_numbers(row):
        return TableLine(rung_cell(row), instead=why, rung=row.name)
    mean = row.score.mean if row.score else None
    cells = [
        *([cell(score(mean, metric), score_bounds(row.score, metric))] if not metric_spec(metric).is_loss else []),
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
        *([] if metric_spec(metric).is_loss else [of_losses]),
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
        *([] if metric_spec(metric).is_loss else [loss_cell]),
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
    text = not_significant(ladder)
    needed = needed_sample(compared)
    if not needed:
        return text
    shown = f" to show that {both_as_good_text(ladder)}" if compared.needed_for == "as_good" else ""
    return f"{text}; {needed} {POWER}{shown}"


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
NO_GPU_MEMORY = "GPU memory was not measured: the runs did not use a GPU."
NO_RSS = {
    "rss_training": "The memory of the process while training was not measured.",
    "rss": "The memory of the process was not measured.",
}


def reference(rows: Sequence[RungResult]) -> RungResult | None:
    """The row that ratios refer to: full fine-tuning; None if it has no numbers."""
    return next((row for row in rows if row.method == RULE_REFERENCE and not why_no_numbers(row)), None)


def time_and_price(ladder: Ladder) -> ReportTable:
    """Means over the seeds, their ratio to full fine-tuning's, and the range over the seeds."""
    no_price = _reasons((row.money_note for row in ladder.rows), "no price per hour was given")
    no_gpu = _reasons((row.rent_note for row in ladder.rows), "not looked up")
    columns = [
        ReportColumn("training", "time"),
        ReportColumn("total", "time"),
        ReportColumn("CPU time in training", unmeasured=""),
        ReportColumn("tokens/s while training"),
        ReportColumn("energy", unmeasured=NO_ENERGY),
        ReportColumn("price per run", unmeasured=f"No price per run: {no_price}."),
        ReportColumn("cheapest GPU with enough memory", words=True, unmeasured=f"No rental GPU: {no_gpu}."),
    ]
    full = reference(ladder.rows)
    lines = [_time_line(row, full) for row in _trained(ladder)]
    priced = [(rung_title(row.name), row.money_note) for row in ladder.rows if row.money]
    rented = [(rung_title(row.name), row.rent_note) for row in ladder.rows if row.rent]
    notes = [*noted("Price per run", priced), *noted("Cheapest GPU", rented)]
    return without_empty(ReportTable("Time and price", "rung", columns, lines, notes))


def memory_and_size(ladder: Ladder) -> ReportTable:
    """Every kind of peak that this machine measures, the parameters and the artifact's size."""
    full = reference(ladder.rows)
    columns = [
        *(
            ReportColumn(text, f"peak memory, {group}", unmeasured=NO_RSS.get(kind, NO_GPU_MEMORY))
            for kind, (text, group) in PEAKS.items()
        ),
        ReportColumn("trainable", "parameters"),
        ReportColumn("share", "parameters"),
        ReportColumn("artifact size"),
    ]
    lines = [_memory_line(row, full) for row in _trained(ladder)]
    return without_empty(ReportTable("Memory and size", "rung", columns, lines))


def _trained(ladder: Ladder) -> list[RungResult]:
    return [row for row in ladder.rows if not is_base(row.name) and not row.source]


def _reasons(notes: Iterable[str], otherwise: str) -> str:
    return "; ".join(dict.fromkeys(filter(None, notes))) or otherwise


def _time_line(row: RungResult, full: RungResult | None) -> TableLine:
    if why := why_no_numbers(row):
        return TableLine(Cell(rung_title(row.name)), instead=why, rung=row.name)
    rent = row.rent

    def measured(name: str, text: Callable[[Number], str]) -> Cell:
        own, of_full = getattr(row, name), getattr(full, name) if full else None
        compared = cost_ratio(own, of_full) if row is not full else None
        to_full = f"{ratio(compared.mean)} full’s {ratio_bounds(compared)}" if compared else ""
        return range_cell(own, text, to_full)

    cells = [
        measured("training_seconds", duration),
        measured("all_seconds", duration),
        measured("cpu_seconds", duration),
        range_cell(
            row.tokens_per_second,
            count,
            f"{count(row.computed_tokens_per_second.mean)} computed" if row.computed_tokens_per_second else "",
        ),
        measured("energy", energy),
        measured("money", lambda amount: money(amount, row.currency)),
        cell(rent.gpu, size(rent.memory), f"{money(rent.price_per_hour, rent.currency)}/h") if rent else Cell(ABSENT),
    ]
    return TableLine(Cell(rung_title(row.name)), cells, rung=row.name)


def _memory_line(row: RungResult, full: RungResult | None) -> TableLine:
    if why := why_no_numbers(row):
        return TableLine(Cell(rung_title(row.name)), instead=why, rung=row.name)
    cells = [_peak(row, full, kind) for kind in PEAKS]
    cells += [
        Cell(count(row.trainable) if row.trainable else ABSENT),
        Cell(percent(row.trainable / row.parameters if row.trainable and row.parameters else None, 2)),
        Cell(size(row.artifact_bytes) if row.artifact_bytes else ABSENT),
    ]
    return TableLine(Cell(rung_title(row.name)), cells, rung=row.name)


def _peak(row: RungResult, full: RungResult | None, kind: str) -> Cell:
    """The peak with its ratio to full fine-tuning's."""
    own = getattr(row.peak, kind) if row.peak else None
    of_full = getattr(full.peak, kind) if full and full.peak else None
    return cell(size(own), f"{ratio(own / of_full)} full’s" if own and of_full and row is not full else "")


UNKNOWN = "unknown"


def served_models(ladder: Ladder) -> ReportTable | None:
    """What served models took for their answers, one line each; None without any."""
    used = [(row, row.served) for row in ladder.rows if row.served]
    if not used:
        return None
    columns = [
        ReportColumn("latency per answer"),
        ReportColumn("of prompts", "tokens"),
        ReportColumn("of answers", "tokens"),
        ReportColumn(
            "of all answers", "cost", unmeasured="Costs of served models are unknown: give prices with --price."
        ),
        ReportColumn("per 1,000 answers", "cost", unmeasured=""),
        ReportColumn("cut off", "answers"),
        ReportColumn("empty", "answers"),
        ReportColumn("with separate reasoning", "answers"),
        ReportColumn("refused items"),
        ReportColumn("training time"),
        ReportColumn("memory"),
    ]
    lines = []
    for row, use in used:
        cost = f"{use.cost:.4g}" if use.cost is not None else ABSENT
        per_thousand = f"{use.cost / use.answers * 1000:.4g}" if use.cost is not None and use.answers else ABSENT
        cells = [
            range_cell(use.seconds, duration),
            *(
                Cell(count(tokens) if tokens is not None else UNKNOWN)
                for tokens in (use.prompt_tokens, use.completion_tokens)
            ),
            Cell(cost),
            Cell(per_thousand),
            *(Cell(f"{number:,} of {use.answers:,}") for number in (use.cut, use.empty, use.reasoning)),
            Cell(", ".join(f"{number} {kind.replace('_', ' ')}" for kind, number in use.refused.items()) or "0"),
            Cell(UNKNOWN),
            Cell(UNKNOWN),
        ]
        lines.append(TableLine(cell(rung_title(row.name), use.endpoint), cells, rung=row.name))
    return without_empty(ReportTable("Served models", "rung", columns, lines))


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
    lines = [_artifact_line(ladder, row, metric) for row in rows]
    return without_empty(ReportTable("Artifacts", "artifact", columns, lines))


def _artifact_line(ladder: Ladder, row: RungResult, metric: str) -> TableLine:
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
        range_cell(row.export_seconds, duration),
        range_cell(row.all_seconds, duration),
        cell(decimal(row.generation.mean, 1), row.generation_device) if row.generation else Cell(ABSENT),
    ]
    return TableLine(head, cells, rung=row.name)


BENCHMARKS_TITLE = "Benchmarks"
FINDINGS = {"worse": "forgets", "better": "gains", "undecided": NO_SIGNIFICANT_DIFFERENCE}
NO_BENCHMARK_OF_BASE = "The base model has no score on the benchmarks, so forgetting on them is unknown."


def benchmarks(ladder: Ladder) -> ReportTable | None:
    """One line per benchmark and rung; None without benchmarks."""
    if not ladder.benchmarks:
        return None
    columns = [
        ReportColumn("benchmark", words=True),
        ReportColumn("score"),
        ReportColumn("difference from base", unmeasured=NO_BENCHMARK_OF_BASE),
        ReportColumn("unadjusted", "p", unmeasured=""),
        ReportColumn("adjusted", "p", unmeasured=""),
        ReportColumn("finding", words=True, unmeasured=""),
    ]
    lines = [_benchmark_line(benchmark, row) for benchmark in ladder.benchmarks for row in benchmark.rows]
    return without_empty(ReportTable(BENCHMARKS_TITLE, "rung", columns, lines))


def _benchmark_line(benchmark: LadderBenchmark, row: BenchmarkRow) -> TableLine:
    score, _, bounds = with_bounds(row.score, benchmark.is_share).partition(" ")
    cells = [
        cell(benchmark.name, f"{benchmark.metric}, {amount(benchmark.items, 'item')}"),
        cell(score, bounds),
        _benchmark_difference(benchmark, row),
        Cell(p_value(row.p)),
        Cell(p_value(row.p_adjusted)),
        Cell(FINDINGS[row.finding] if row.finding else ABSENT),
    ]
    return TableLine(Cell(rung_title(row.name)), cells, rung=row.name)


def _benchmark_difference(benchmark: LadderBenchmark, row: BenchmarkRow) -> Cell:
    if row.difference is None:
        return Cell(ABSENT)
    value, bracket, bounds = difference_with_bounds(row.difference, benchmark.is_share).partition(" [")
    return cell(value, f"{bracket.strip()}{bounds}")
