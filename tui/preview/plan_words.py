"""The sentences and table cells of a plan: rows, budget, memory, time, changes, accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.config.activation_checkpointing import describe_checkpointing
from engine.config.method_specs import method_title
from engine.config.quantities import count, duration, relative_error, size
from engine.config.schema import Config
from engine.config.text import amount
from engine.memory.formula.estimate import PARTS as ESTIMATED
from engine.memory.formula.estimate import PeakMemory
from engine.memory.formula.fit import LargestFit
from engine.memory.formula.history import TierAccuracy, TimeEstimate
from engine.memory.formula.measured_error import Tier, error_of
from engine.memory.formula.memory_budget import MemoryBudget
from engine.memory.formula.method_plan import MemoryPlan, MethodPlan
from engine.memory.formula.remedies import Remedy
from engine.runs.sharing import describe_sharing
from tui.charts.bars import COMPONENTS
from tui.history.run_list import last_part

TIERS = {"formula": "formula", "dry run": "dry run (the real training step on fake tensors)"}


def heading(config: Config, preset: str) -> str:
    """Preset, model, data and batch size."""
    return f"{preset}: {last_part(config.model.id)} on {last_part(config.data.id)}, batch size {config.train.batch}"


def about_rows(plan: MemoryPlan, config: Config) -> str:
    """The length of the rows, and where it comes from."""
    rows = plan.rows
    text = f"rows of {rows.length:,} tokens, {rows.answer:,} in the loss: "
    if plan.rows_from == "data" and plan.work:
        steps = f"the largest of {plan.work.steps:,} steps over {plan.work.rows:,} rows"
        shared = describe_sharing(plan.work.shared_prefix, plan.work.shared_rows, plan.work.token_ratio)
        sharing = f"; {shared}" if shared else ""
        return f"rows of up to {rows.length:,} tokens, up to {rows.answer:,} in the loss: {steps}{sharing}"
    if plan.rows_from == "asked":
        return f"{text}set by --length"
    limit = "train.max_length" if rows.length == config.train.max_length else "the model's position limit"
    return f"{text}{limit}{f'; {plan.why}' if plan.why else ''}"


def about_budget(budget: MemoryBudget) -> str:
    """The memory budget, and how much of it is free."""
    kind = {
        "listed": "from the GPU list, not measured",
        "gpu": "this machine's GPU",
        "shared": "this machine's GPU, shared system memory",
        "system": "this machine's memory, no GPU",
    }[budget.source]
    used = f"; {size(budget.used)} in use by others, {size(budget.free)} free" if budget.used else ""
    who = f" ({', '.join(budget.holders[:4])})" if budget.holders else ""
    return f"{budget.name}, {size(budget.total)}: {kind}{used}{who}"


def bar_components(method_plan: MethodPlan, budget: MemoryBudget) -> dict[str, int]:
    """Bytes by component for a bar: memory used by others, process overhead, then the peak."""
    return {"others": budget.used, "process": budget.process_overhead, **peak(method_plan).parts}


def peak(method_plan: MethodPlan) -> PeakMemory:
    """The higher of the peaks in training and evaluation, which must fit."""
    best = method_plan.best
    return best.training if best.training.total == best.peak else best.evaluation


def table_rows(plan: MemoryPlan, times: Mapping[str, TimeEstimate]) -> Iterator[tuple[str, list[str]]]:
    """(label, one cell per method): training memory by component, peaks, limits, time and cost."""
    plans = plan.methods
    for part in ESTIMATED:
        if any(method_plan.best.training.parts.get(part) for method_plan in plans):
            yield COMPONENTS[part].label, [_bytes(method_plan.best.training.parts.get(part)) for method_plan in plans]
    yield "training peak", [size(method_plan.best.training.total) for method_plan in plans]
    yield "evaluation peak", [size(method_plan.best.evaluation.total) for method_plan in plans]
    if plan.budget.process_overhead:
        yield "process overhead", [size(plan.budget.process_overhead)] * len(plans)
    yield "headroom", [size(-shortfall(method_plan, plan.budget)) for method_plan in plans]
    yield "  required", [size(method_plan.margin) for method_plan in plans]
    yield "", [""] * len(plans)
    yield "micro-batch", [_micro(method_plan) for method_plan in plans]
    yield "  largest that fits", [_largest(method_plan.micro_batch) for method_plan in plans]
    if any(method_plan.best.answering for method_plan in plans):
        yield "evaluation batch", [_largest(method_plan.evaluation_batch) for method_plan in plans]
    yield "longest row", [_longest(method_plan.longest) for method_plan in plans]
    yield "  micro-batch 1", [_longest(method_plan.longest_alone) for method_plan in plans]
    yield "checkpointing", [_checkpointing(method_plan) for method_plan in plans]
    yield "optimizer", [method_plan.optimizer for method_plan in plans]
    yield "trainable", [count(method_plan.best.trainable) for method_plan in plans]
    yield "training time", [_time(times[method_plan.method]) for method_plan in plans]
    if any(times[method_plan.method].seconds is not None for method_plan in plans):
        yield "  range", [_range(times[method_plan.method]) for method_plan in plans]
        yield "cost", [_cost(times[method_plan.method]) for method_plan in plans]


def _bytes(value: int | None) -> str:
    return size(value) if value else "–"


def _micro(method_plan: MethodPlan) -> str:
    return f"{method_plan.best.micro_batch}{' (auto)' if method_plan.automatic else ''}"


def _checkpointing(method_plan: MethodPlan) -> str:
    setting = method_plan.best.gradient_checkpointing
    return "offloaded" if setting == "offload" else describe_checkpointing(setting)


def _largest(most: LargestFit) -> str:
    if not most.value:
        return "none fits"
    why = {"all": " (all)", "pass": " (token limit)", "memory": ""}[most.bound]
    return f"{most.value:,}{why}"


def _longest(most: LargestFit) -> str:
    """Rounded down, because the search is finer than the formula."""
    if not most.value:
        return "none fits"
    if most.bound == "all":
        return f"{most.value:,} (all)"
    return f"{most.value // 64 * 64 if most.value > 512 else most.value:,}"


def _time(time: TimeEstimate) -> str:
    if time.seconds is not None:
        return duration(time.seconds)
    return f"≥ {duration(time.at_least)}" if time.at_least is not None else "unknown"


def _range(time: TimeEstimate) -> str:
    return f"{duration(time.low)}–{duration(time.high)}" if time.seconds is not None else ""


def _cost(time: TimeEstimate) -> str:
    if time.cost is None:
        return "unknown" if time.seconds is not None else ""
    return f"{_money(time.cost_low)}–{_money(time.cost_high)} {time.currency}"


def _money(value: float | None) -> str:
    return f"{value or 0.0:.2f}"


def change_words(change: Remedy, method_plan: MethodPlan) -> list[tuple[str, str]]:
    """(setting, its effect) for each setting of a change."""
    costs = {
        "evaluation.batch": "same answers, smaller evaluation batch",
        "method": "another method: 4-bit base, trains adapters only",
        "train.micro_batch": "same training, more gradient accumulation",
        "train.gradient_checkpointing": "same training, recomputes activations in the backward pass",
        "optimizer.name": "8-bit optimizer state",
        "train.max_length": f"truncates longer rows (they have up to {method_plan.best.rows.length:,} tokens)",
    }
    return [
        (f"--method {value}" if key == "method" else f"--set {key}={_toml(value)}", costs[key])
        for key, value in change.settings.items()
    ]


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def accuracy_notes(plan: MemoryPlan, here: Sequence[TierAccuracy]) -> Iterator[str]:
    """What each estimate is, its measured error, and what `tight` means. `here` is the accuracy on this machine."""
    device = plan.budget.device
    tiers: list[Tier] = list(dict.fromkeys(method_plan.best.tier for method_plan in plan.methods))
    for tier in tiers:
        yield f"Peaks: {TIERS[tier]}. Measured error: {error_of(tier, device).line}."
    if "dry run" in tiers:
        scaled = "formula, scaled to the dry run"
        yield f"Largest sizes and suggested changes: {scaled}. Measured error: {error_of('formula', device).line}."
    for record in here:
        figures = f"median {relative_error(record.median)}, worst {relative_error(record.worst)}"
        yield f"On this machine: {record.tier}, {figures} in {amount(record.count, 'run')} (`ftbench plan --history`)."
    overhead = "the CUDA context (estimated)" if device == "cuda" else "the process overhead"
    if device == "cuda" and any(method_plan.evaluation_batch.bound == "memory" for method_plan in plan.methods):
        yield "Evaluation uses a smaller batch where it does not fit, so only training decides what fits."
    yield f"tight: less headroom than required (largest measured underestimate + {overhead})."
    for method_plan in plan.methods:
        state = method_plan.best.pageable
        if 0 < shortfall(method_plan, plan.budget) <= state:
            title = method_title(method_plan.method)
            yield f"{title}: up to {size(state)} of paged optimizer state can move to host memory, which is slow."
        if method_plan.best.host_copy and device == "cuda":
            copy = size(method_plan.best.host_copy)
            title = method_title(method_plan.method)
            yield f"{title}: {copy} of host memory for checkpoints, which are written while training continues."


def shortfall(method_plan: MethodPlan, budget: MemoryBudget) -> int:
    """Bytes by which the plan exceeds the budget; negative where memory is left."""
    return peak(method_plan).total + budget.process_overhead - budget.free
