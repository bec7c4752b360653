"""What each rung cost: time, energy and money; memory and size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.config.method_specs import RULE_REFERENCE
from engine.ladder.format import ABSENT, Number, count, energy, extent, money, percent, ratio, rung, seconds, size
from engine.ladder.report.kept import nothing
from engine.ladder.report.table import Cell, Column, Line, Table, cell, noted, without_empty
from engine.runs.ladder import BASES, Ladder, RungResult

PEAKS = {
    "rss_training": ("training", "process"),
    "rss": ("all phases", "process"),
    "allocated_training": ("training", "tensors"),
    "allocated": ("all phases", "tensors"),
    "reserved_training": ("training", "torch’s pool"),
    "reserved": ("all phases", "torch’s pool"),
    "gpu_training": ("training", "pool and paged state"),
    "nvml_used": ("by everybody", "whole card"),
}
"""Meanings of peak memory: the column's heading and its group's."""


def reference(rows: Sequence[RungResult]) -> RungResult | None:
    """The row that ratios are against: full fine-tuning, None where it has no numbers."""
    return next((row for row in rows if row.method == RULE_REFERENCE and not nothing(row)), None)


def time_and_money(ladder: Ladder) -> Table:
    """Means over seeds, how many times full fine-tuning's that is, and the lowest and the highest."""
    columns = [
        Column("training", "time"),
        Column("all phases", "time"),
        Column("trained tokens a second"),
        Column("energy", unmeasured="Energy was not measured: this machine has no meter that the run could read."),
        Column("price of a run", unmeasured=_no_price(ladder)),
        Column("cheapest card that holds it", words=True, unmeasured=_no_card(ladder)),
    ]
    full = reference(ladder.rows)
    lines = [_time_line(row, full) for row in _trained(ladder)]
    priced = [(rung(row.name), row.money_note) for row in ladder.rows if row.money]
    rented = [(rung(row.name), row.rent_note) for row in ladder.rows if row.rent]
    notes = [*noted("Price of a run", priced), *noted("Cheapest card", rented)]
    return without_empty(Table("What each rung cost in time and money", "rung", columns, lines, notes))


def memory_and_size(ladder: Ladder) -> Table:
    """Peaks in every meaning that this machine can tell, and how much is trained and kept."""
    full = reference(ladder.rows)
    columns = [
        *(
            Column(text, f"peak, {group}", unmeasured=_UNKNOWN.get(meaning, _ON_CARDS))
            for meaning, (text, group) in PEAKS.items()
        ),
        Column("trained", "parameters"),
        Column("of all", "parameters"),
        Column("artefact on disk"),
    ]
    lines = [_memory_line(row, full) for row in _trained(ladder)]
    return without_empty(Table("What each rung needed in memory and left on disk", "rung", columns, lines))


_ON_CARDS = "Memory of a card was not measured: there was none."
_UNKNOWN = {
    "rss_training": "The process’s memory while training was not measured.",
    "rss": "The process’s memory was not measured.",
}


def _trained(ladder: Ladder) -> list[RungResult]:
    return [row for row in ladder.rows if row.name not in BASES]


def _no_price(ladder: Ladder) -> str:
    reasons = dict.fromkeys(row.money_note for row in ladder.rows if row.money_note)
    return f"No price of a run: {'; '.join(reasons) or 'none was given for the hour'}."


def _no_card(ladder: Ladder) -> str:
    reasons = dict.fromkeys(row.rent_note for row in ladder.rows if row.rent_note)
    return f"No card from the price list: {'; '.join(reasons) or 'none was looked for'}."


def _time_line(row: RungResult, full: RungResult | None) -> Line:
    if nothing(row):
        return Line(Cell(rung(row.name)), instead=nothing(row), rung=row.name)
    rent = row.rent

    def spread(what: str, text: Callable[[Number], str], against: bool = True) -> Cell:
        own, whole = getattr(row, what), getattr(full, what) if full and against else None
        times = _times(own.mean, whole.mean) if own and whole and row is not full else ""
        return cell(text(own.mean if own else None), times, extent(own, text))

    cells = [
        spread("training_seconds", seconds),
        spread("all_seconds", seconds),
        spread("tokens_per_second", count, against=False),
        spread("energy", energy),
        spread("money", lambda amount: money(amount, row.currency)),
        cell(rent.gpu, size(rent.memory), f"{money(rent.price_per_hour, rent.currency)} an hour")
        if rent
        else Cell(ABSENT),
    ]
    return Line(Cell(rung(row.name)), cells, rung=row.name)


def _memory_line(row: RungResult, full: RungResult | None) -> Line:
    if nothing(row):
        return Line(Cell(rung(row.name)), instead=nothing(row), rung=row.name)
    cells = [_peak(row, full, meaning) for meaning in PEAKS]
    cells += [
        Cell(count(row.trainable) if row.trainable else ABSENT),
        Cell(percent(row.trainable / row.parameters if row.trainable and row.parameters else None, 2)),
        Cell(size(row.artifact_bytes) if row.artifact_bytes else ABSENT),
    ]
    return Line(Cell(rung(row.name)), cells, rung=row.name)


def _times(own: float, whole: float) -> str:
    return f"{ratio(own / whole)} full’s" if whole else ""


def _peak(row: RungResult, full: RungResult | None, meaning: str) -> Cell:
    """The peak, and below it how many times full fine-tuning's."""
    own = getattr(row.peak, meaning) if row.peak else None
    whole = getattr(full.peak, meaning) if full and full.peak else None
    return cell(size(own), _times(own, whole) if own and whole and row is not full else "")
