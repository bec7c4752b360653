"""The report's cost tables: time, energy and price; memory and size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.config.method_specs import RULE_REFERENCE
from engine.config.quantities import ABSENT, Number, count, duration, energy, money, percent, ratio, size
from engine.ladder.phrases import NO_ENERGY, rung_title, seed_range_text
from engine.ladder.report.quality_tables import why_no_numbers
from engine.ladder.report.table import Cell, ReportColumn, ReportTable, TableLine, cell, noted, without_empty
from engine.ladder.sentences import disturbed_timings
from engine.runs.ladder import Ladder
from engine.runs.rung_results import RungResult
from engine.runs.rungs import is_base

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
    columns = [
        ReportColumn("training", "time"),
        ReportColumn("total", "time"),
        ReportColumn("CPU time in training", unmeasured=""),
        ReportColumn("tokens/s while training"),
        ReportColumn("energy", unmeasured=NO_ENERGY),
        ReportColumn("price per run", unmeasured=_why_no_price(ladder)),
        ReportColumn("cheapest GPU with enough memory", words=True, unmeasured=_why_no_gpu(ladder)),
    ]
    full = reference(ladder.rows)
    lines = [_time_line(row, full) for row in _trained(ladder)]
    priced = [(rung_title(row.name), row.money_note) for row in ladder.rows if row.money]
    rented = [(rung_title(row.name), row.rent_note) for row in ladder.rows if row.rent]
    notes = [*noted("Price per run", priced), *noted("Cheapest GPU", rented)]
    if disturbed := disturbed_timings(ladder):
        notes.append(disturbed)
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


def _why_no_price(ladder: Ladder) -> str:
    reasons = dict.fromkeys(row.money_note for row in ladder.rows if row.money_note)
    return f"No price per run: {'; '.join(reasons) or 'no price per hour was given'}."


def _why_no_gpu(ladder: Ladder) -> str:
    reasons = dict.fromkeys(row.rent_note for row in ladder.rows if row.rent_note)
    return f"No rental GPU: {'; '.join(reasons) or 'not looked up'}."


def _time_line(row: RungResult, full: RungResult | None) -> TableLine:
    if why := why_no_numbers(row):
        return TableLine(Cell(rung_title(row.name)), instead=why, rung=row.name)
    rent = row.rent

    def measured(name: str, text: Callable[[Number], str], relative: bool = True) -> Cell:
        own, of_full = getattr(row, name), getattr(full, name) if full and relative else None
        to_full = _to_full(own.mean, of_full.mean) if own and of_full and row is not full else ""
        return cell(text(own.mean if own else None), to_full, seed_range_text(own, text))

    cells = [
        measured("training_seconds", duration),
        measured("all_seconds", duration),
        measured("cpu_seconds", duration),
        cell(
            count(row.tokens_per_second.mean if row.tokens_per_second else None),
            f"{count(row.computed_tokens_per_second.mean)} computed" if row.computed_tokens_per_second else "",
            seed_range_text(row.tokens_per_second, count),
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


def _to_full(own: float, full: float) -> str:
    return f"{ratio(own / full)} full’s" if full else ""


def _peak(row: RungResult, full: RungResult | None, kind: str) -> Cell:
    """The peak with its ratio to full fine-tuning's."""
    own = getattr(row.peak, kind) if row.peak else None
    of_full = getattr(full.peak, kind) if full and full.peak else None
    return cell(size(own), _to_full(own, of_full) if own and of_full and row is not full else "")
