"""A plan's facts as words and cells: what is asked, what was found of each method, what the figures are worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.config.method_specs import method_title
from engine.config.schema import Config
from engine.config.text import amount
from engine.memory.formula.estimate import PARTS as ESTIMATED
from engine.memory.formula.estimate import PeakMemory
from engine.memory.formula.fit import LargestFit
from engine.memory.formula.history import TierAccuracy, TimeEstimate
from engine.memory.formula.measured_error import Tier, error_of, percent
from engine.memory.formula.memory_budget import MemoryBudget
from engine.memory.formula.method_plan import MemoryPlan, MethodPlan
from engine.memory.formula.remedies import Remedy
from tui.charts.plan_bar import PARTS
from tui.format import count, duration, size

TIERS = {"formula": "formula", "dry run": "dry run, the real model's step on tensors without values"}


def heading(config: Config, preset: str) -> str:
    """What is planned."""
    return f"{preset}: {short(config.model.id)} on {short(config.data.id)}, batch {config.train.batch}"


def short(name: str) -> str:
    """A path's last part, a name as it is."""
    return Path(name).name if name.startswith("/") else name


def about_rows(plan: MemoryPlan, config: Config) -> str:
    """Which rows, and where they come from."""
    rows = plan.rows
    text = f"rows of {rows.length:,} tokens, {rows.answer:,} of them trained: "
    if plan.rows_from == "data" and plan.work:
        steps = f"the heaviest of {plan.work.steps:,} steps over {plan.work.rows:,} rows"
        return f"rows of up to {rows.length:,} tokens, up to {rows.answer:,} of them trained: {steps}"
    if plan.rows_from == "asked":
        return f"{text}as asked"
    limit = "train.max_length" if rows.length == config.train.max_length else "all the model has positions for"
    return f"{text}{limit}{f'; {plan.why}' if plan.why else ''}"


def about_room(room: MemoryBudget) -> str:
    """Where it is to fit, and what is left of that."""
    kind = {
        "listed": "from the list of cards, not measured here",
        "card": "this machine's card",
        "shared": "this machine's card, which shares the system's memory",
        "system": "this machine's memory, without a card",
    }[room.source]
    held = f"; others hold {size(room.used)} of it now, {size(room.free)} are left" if room.used else ""
    who = f" ({', '.join(room.holders[:4])})" if room.holders else ""
    return f"{room.name}, {size(room.total)}: {kind}{held}{who}"


def drawn(outlook: MethodPlan, room: MemoryBudget) -> dict[str, int]:
    """Bytes by part for a bar: the peak that must fit, on top of what is taken anyway."""
    return {"others": room.used, "process": room.beside, **peak(outlook).parts}


def peak(outlook: MethodPlan) -> PeakMemory:
    """The one that must fit."""
    best = outlook.best
    return best.training if best.training.total == best.peak else best.evaluation


def table_rows(plan: MemoryPlan, times: Mapping[str, TimeEstimate]) -> Iterator[tuple[str, list[str]]]:
    """(label, a cell for each method): training by part, the peaks, how far it goes, time and cost."""
    looks = plan.outlooks
    for part in ESTIMATED:
        if any(outlook.best.training.parts.get(part) for outlook in looks):
            yield PARTS[part].label, [_bytes(outlook.best.training.parts.get(part)) for outlook in looks]
    yield "training, peak", [size(outlook.best.training.total) for outlook in looks]
    yield "scoring, peak", [size(outlook.best.evaluation.total) for outlook in looks]
    if plan.room.beside:
        yield "the process itself", [size(plan.room.beside)] * len(looks)
    yield "left free", [size(-lacking(outlook, plan.room)) for outlook in looks]
    yield "  wanted", [size(outlook.margin) for outlook in looks]
    yield "", [""] * len(looks)
    yield "rows a pass", [_micro(outlook) for outlook in looks]
    yield "  at most", [_most(outlook.micro_batch) for outlook in looks]
    if any(outlook.best.answering for outlook in looks):
        yield "answers at a time", [_most(outlook.answers) for outlook in looks]
    yield "longest rows", [_longest(outlook.longest) for outlook in looks]
    yield "  one a pass", [_longest(outlook.longest_alone) for outlook in looks]
    yield "checkpointing", ["on" if outlook.best.gradient_checkpointing else "off" for outlook in looks]
    yield "optimizer", [outlook.optimizer for outlook in looks]
    yield "trained", [count(outlook.best.trainable) for outlook in looks]
    yield "training time", [_time(times[outlook.method]) for outlook in looks]
    if any(times[outlook.method].seconds is not None for outlook in looks):
        yield "  range", [_range(times[outlook.method]) for outlook in looks]
        yield "cost", [_cost(times[outlook.method]) for outlook in looks]


def _bytes(value: int | None) -> str:
    return size(value) if value else "–"


def _micro(outlook: MethodPlan) -> str:
    return f"{outlook.best.micro_batch}{' (auto)' if outlook.automatic else ''}"


def _most(most: LargestFit) -> str:
    if not most.value:
        return "none fits"
    why = {"all": " (all)", "pass": " (by tokens)", "memory": ""}[most.bound]
    return f"{most.value:,}{why}"


def _longest(most: LargestFit) -> str:
    """Rounded down: the search is finer than the formula."""
    if not most.value:
        return "none fits"
    if most.bound == "all":
        return f"{most.value:,} (all)"
    return f"{most.value // 64 * 64 if most.value > 512 else most.value:,}"


def _time(time: TimeEstimate) -> str:
    return duration(time.seconds) if time.seconds is not None else "not known"


def _range(time: TimeEstimate) -> str:
    return f"{duration(time.low)}–{duration(time.high)}" if time.seconds is not None else ""


def _cost(time: TimeEstimate) -> str:
    if time.cost is None:
        return "not known" if time.seconds is not None else ""
    return f"{_money(time.cost_low)}–{_money(time.cost_high)} {time.currency}"


def _money(value: float | None) -> str:
    return f"{value or 0.0:.2f}"


def change_words(change: Remedy, outlook: MethodPlan) -> list[tuple[str, str]]:
    """(what to set, what it costs) for each of its settings."""
    costs = {
        "evaluation.batch": "the same answers, fewer at a time",
        "method": "another method: 4-bit base, adapters alone",
        "train.micro_batch": "the same training in more passes",
        "train.gradient_checkpointing": "the same training, each forward pass twice",
        "optimizer.name": "optimizer state in 8 bits",
        "train.max_length": f"longer rows are cut (they have up to {outlook.best.rows.length:,} tokens)",
    }
    return [
        (f"--method {value}" if key == "method" else f"--set {key}={_toml(value)}", costs[key])
        for key, value in change.settings.items()
    ]


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def worth(plan: MemoryPlan, here: Sequence[TierAccuracy]) -> Iterator[str]:
    """What each tier is, how wrong it has been, and what `tight` means. `here`: this machine's own records."""
    device = plan.room.device
    tiers: list[Tier] = list(dict.fromkeys(outlook.best.tier for outlook in plan.outlooks))
    for tier in tiers:
        yield f"Peaks: {TIERS[tier]}. Measured error: {error_of(tier, device).line}."
    if "dry run" in tiers:
        scaled = "the formula, scaled to the dry run"
        yield f"At most, longest rows, changes: {scaled}. The formula's error: {error_of('formula', device).line}."
    for record in here:
        figures = f"median {percent(record.median)}, worst {percent(record.worst)}"
        yield f"On this machine: {record.tier}, {figures} in {amount(record.count, 'run')} (`ftbench plan --history`)."
    beside = "the CUDA context, which is a guess" if device == "cuda" else "what the process itself takes"
    if device == "cuda" and any(outlook.answers.bound == "memory" for outlook in plan.outlooks):
        yield "Scoring takes fewer rows at a time where it does not fit; so training alone decides what fits."
    yield f"Tight: less stays free than is wanted, the worst error and once more {beside}."
    for outlook in plan.outlooks:
        state = outlook.best.pageable
        if 0 < lacking(outlook, plan.room) <= state:
            title = method_title(outlook.method)
            yield f"{title}: up to {size(state)} of paged optimizer state can move to host memory, which is slow."


def lacking(outlook: MethodPlan, room: MemoryBudget) -> int:
    """Bytes that are missing; below 0 they are left."""
    return peak(outlook).total + room.beside - room.free
