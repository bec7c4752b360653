"""A plan as text for the terminal: memory bars, a table, and the changes that make a method fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from rich.text import Text

from engine.config.device_defaults import describe_checkpointing
from engine.config.method_specs import method_title
from engine.config.quantities import ABSENT, count, duration, relative_error, size
from engine.config.schema import Config
from engine.config.text import amount, visible
from engine.memory.formula.automatic import CHECKPOINTING, describe_savings
from engine.memory.formula.estimate import PARTS as ESTIMATED
from engine.memory.formula.estimate import PeakMemory, error_of
from engine.memory.formula.fit import LargestFit
from engine.memory.formula.history import TierAccuracy, TimeEstimate
from engine.memory.formula.memory_budget import MemoryBudget
from engine.memory.formula.method_plan import BUS, MemoryPlan, MethodPlan
from engine.runs.run.usage import PARTS, describe_sharing, exceptions
from tui.format import last_part, setting


class MemoryComponent(NamedTuple):
    letter: str
    label: str
    style: str
    """Rich style of the letter on the component's color."""


COMPONENTS = {
    "others": MemoryComponent("x", "others", "white on bright_black"),
    "process": MemoryComponent("P", "process", "black on white"),
    "weights": MemoryComponent("W", "weights", "white on blue"),
    "adapters": MemoryComponent("D", "adapters", "black on bright_cyan"),
    "optimizer": MemoryComponent("O", "optimizer", "white on magenta"),
    "gradients": MemoryComponent("G", "gradients", "black on yellow"),
    "activations": MemoryComponent("A", "activations", "black on green"),
    "logits": MemoryComponent("L", "logits", "white on red"),
    "checkpoint": MemoryComponent("K", "checkpoint copy", "black on bright_yellow"),
    "pool": MemoryComponent("C", "context, gaps", "black on cyan"),
}
"""Memory used by others and process overhead first, then the components of an estimate in order."""


def memory_bar(parts: Mapping[str, int], total: int, width: int, colored: bool) -> Text:
    """`width` cells for `total` bytes; an arrow in the last cell marks a peak above the total.

    Cells are rounded cumulatively, so that their sum is right; components smaller than a cell may have none, and the
    largest has one where all would have none.
    """
    drawn: dict[str, int] = {}
    before = 0
    for name in COMPONENTS:
        before += parts.get(name, 0)
        columns = min(width, round(before / max(1, total) * width)) - sum(drawn.values())
        if columns > 0:
            drawn[name] = columns
    if not drawn and before:
        drawn = {max(parts, key=lambda name: parts[name]): 1}
    text = Text()
    for name, columns in drawn.items():
        part = COMPONENTS[name]
        text.append(part.letter + " " * (columns - 1), part.style) if colored else text.append(part.letter * columns)
    if before > total:
        text.right_crop(max(0, text.cell_len - width + 1))
        text.append("▶", style="bold red" if colored else "")
    text.append("·" * (width - text.cell_len), style="dim" if colored else "")
    return text.append("│")


def legend(names: Mapping[str, int], width: int, colored: bool) -> Iterator[Text]:
    """The letters of the components in use, wrapped to `width`."""
    line = Text()
    for name, part in COMPONENTS.items():
        if not names.get(name):
            continue
        entry = Text().append(f" {part.letter} ", part.style) if colored else Text(part.letter)
        entry.append(f" {part.label}")
        if line and line.cell_len + 2 + entry.cell_len > width:
            yield line
            line = Text()
        line = line + "  " + entry if line else entry
    yield line


TIERS = {"formula": "formula", "dry run": "dry run (the real training step on fake tensors)"}
BUDGETS = {
    "listed": "from the GPU list, not measured",
    "gpu": "this machine's GPU",
    "shared": "this machine's GPU, shared system memory",
    "system": "this machine's memory, no GPU",
}
"""Source of a budget -> in words."""
STYLES = {"fits": "green", "tight": "yellow", "does not fit": "red", "refused": "red"}
LEFT = 31
"""Columns before a bar: method, peak, whether it fits."""
LABEL, CELL = 20, 19
COSTS = 20
"""Columns before a change's settings."""
EFFECTS = {
    "evaluation.batch": "same answers, smaller evaluation batch",
    "method": "another method: 4-bit base, trains adapters only",
    "train.micro_batch": "same training, more gradient accumulation",
    "train.gradient_checkpointing": "same training, recomputes activations in the backward pass",
    "optimizer.name": "8-bit optimizer state, in host memory where the GPU has no room",
    "optimizer.rounding": "rounds weights at random instead of storing the error",
    "optimizer.step_in_backward": "a step is one micro-batch, clips each tensor",
    "train.batch": "fewer rows per step",
    "train.max_length": "truncates longer rows (they have up to {length:,} tokens)",
}
"""Setting of a change -> its effect."""
ONE_RUN = "one finished run; the range covers the middle 80% of its steps"
BOUND = "≥: lower bound by the GPU's peak FLOP/s and memory bandwidth; real runs take longer"
BOLD_ROWS = ("training peak", "headroom")


def peak(method_plan: MethodPlan) -> PeakMemory:
    """The higher of the peaks in training and evaluation, which must fit."""
    best = method_plan.best
    return best.training if best.training.total == best.peak else best.evaluation


def shortfall(method_plan: MethodPlan, budget: MemoryBudget) -> int:
    """Bytes by which the plan exceeds the budget; negative where memory is left."""
    return peak(method_plan).total + budget.process_overhead - budget.free


def about_rows(plan: MemoryPlan, config: Config) -> str:
    """The length of the rows, and where it comes from."""
    rows, work = plan.rows, plan.work
    if plan.rows_from == "data" and work:
        shared = describe_sharing(work.shared_prefix, work.shared_rows, work.token_ratio)
        steps = f"the largest of {work.steps:,} steps over {work.rows:,} rows{f'; {shared}' if shared else ''}"
        return f"rows of up to {rows.length:,} tokens, up to {rows.answer:,} in the loss: {steps}"
    limit = "train.max_length" if rows.length == config.train.max_length else "the model's position limit"
    source = "set by --length" if plan.rows_from == "asked" else f"{limit}{f'; {plan.why}' if plan.why else ''}"
    return f"rows of {rows.length:,} tokens, {rows.answer:,} in the loss: {source}"


def table_rows(plan: MemoryPlan, times: Mapping[str, TimeEstimate]) -> Iterator[tuple[str, list[str]]]:
    """(label, one cell per method): training memory by component, peaks, limits, time and cost."""
    plans = plan.methods
    for part in ESTIMATED:
        if any(method_plan.best.training.parts.get(part) for method_plan in plans):
            sizes = (method_plan.best.training.parts.get(part) for method_plan in plans)
            yield COMPONENTS[part].label, [size(used) if used else ABSENT for used in sizes]
    yield "training peak", [size(method_plan.best.training.total) for method_plan in plans]
    yield "evaluation peak", [size(method_plan.best.evaluation.total) for method_plan in plans]
    if plan.budget.process_overhead:
        yield "process overhead", [size(plan.budget.process_overhead)] * len(plans)
    yield "headroom", [size(-shortfall(method_plan, plan.budget)) for method_plan in plans]
    yield "  required", [size(method_plan.margin) for method_plan in plans]
    yield "", [""] * len(plans)
    yield "micro-batch", [f"{one.best.micro_batch}{' (auto)' if one.automatic else ''}" for one in plans]
    yield "  largest that fits", [_largest(method_plan.micro_batch) for method_plan in plans]
    if any(method_plan.best.answering for method_plan in plans):
        yield "evaluation batch", [_largest(method_plan.evaluation_batch) for method_plan in plans]
    yield "longest row", [_longest(method_plan.longest) for method_plan in plans]
    yield "  micro-batch 1", [_longest(method_plan.longest_alone) for method_plan in plans]
    checkpointing = (method_plan.best.gradient_checkpointing for method_plan in plans)
    yield "checkpointing", ["offloaded" if how == "offload" else describe_checkpointing(how) for how in checkpointing]
    yield "optimizer", [method_plan.optimizer for method_plan in plans]
    yield "trainable", [count(method_plan.best.trainable) for method_plan in plans]

    durations, ranges, costs = [], [], []
    for time in (times[method_plan.method] for method_plan in plans):
        if time.seconds is not None:
            durations.append(duration(time.seconds))
            ranges.append(f"{duration(time.low)}–{duration(time.high)}")
            cost = f"{time.cost_low or 0.0:.2f}–{time.cost_high or 0.0:.2f} {time.currency}"
            costs.append("unknown" if time.cost is None else cost)
        else:
            durations.append(f"≥ {duration(time.at_least)}" if time.at_least is not None else "unknown")
            ranges.append("")
            costs.append("")
    yield "training time", durations
    if any(ranges):
        yield "  range", ranges
        yield "cost", costs


def weight_rows(plans: Sequence[MethodPlan]) -> Iterator[tuple[str, list[str]]]:
    """(part of the model and its parameters, one cell per method: how the method uses it), first the whole model."""
    accounts = [method_plan.account for method_plan in plans]
    known = next((account for account in accounts if account), None)
    if known is None:
        return
    yield "", [""] * len(plans)
    yield f"parameters {count(known.parameters)}", [""] * len(plans)
    for part, title in PARTS.items():
        if whole := known.total(parts=[part]):
            yield f"{title} {count(whole)}", [account.use_of(part) if account else "–" for account in accounts]
        elif part == "head" and known.tied:
            yield title, ["with embeddings"] * len(plans)


def _largest(most: LargestFit) -> str:
    if not most.value:
        return "none fits"
    why = {"nothing": " (all)", "token_limit": " (token limit)", "memory": ""}[most.limited_by]
    return f"{most.value:,}{why}"


def _longest(most: LargestFit) -> str:
    """Rounded down, because the search is finer than the formula."""
    if not most.value:
        return "none fits"
    if most.limited_by == "nothing":
        return f"{most.value:,} (all)"
    return f"{most.value // 64 * 64 if most.value > 512 else most.value:,}"


def _grouped(texts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """(text, `QLoRA, LoRA`): each text once, with the titles of the methods that it is about."""
    methods: dict[str, list[str]] = {}
    for method, text in texts:
        methods.setdefault(text, []).append(method_title(method))
    return [(text, ", ".join(titles)) for text, titles in methods.items()]


def accuracy_notes(plan: MemoryPlan, here: Sequence[TierAccuracy]) -> Iterator[str]:
    """What each estimate is, its measured error, and what `tight` means. `here` is the accuracy on this machine."""
    device = plan.budget.device
    tiers = dict.fromkeys(method_plan.best.tier for method_plan in plan.methods)
    for tier in tiers:
        yield f"Peaks: {TIERS[tier]}. Measured error: {error_of(tier, device).line}."
    if "dry run" in tiers:
        scaled = "formula, scaled to the dry run"
        yield f"Largest sizes and suggested changes: {scaled}. Measured error: {error_of('formula', device).line}."
    for record in here:
        figures = f"median {relative_error(record.median)}, worst {relative_error(record.worst)}"
        yield f"On this machine: {record.tier}, {figures} in {amount(record.count, 'run')} (`ftbench plan --history`)."
    overhead = "the CUDA context (estimated)" if device == "cuda" else "the process overhead"
    if device == "cuda" and any(method_plan.evaluation_batch.limited_by == "memory" for method_plan in plan.methods):
        yield "Evaluation uses a smaller batch where it does not fit, so only training decides what fits."
    yield f"tight: less headroom than required (largest measured underestimate + {overhead})."
    for method_plan in plan.methods:
        title, best = method_title(method_plan.method), method_plan.best
        if not best.on_host and 0 < shortfall(method_plan, plan.budget) <= best.pageable:
            paged = size(best.pageable)
            yield f"{title}: up to {paged} of paged optimizer state can move to host memory, which is slow."
        if best.on_host:
            state, least = size(best.on_host), 2 * best.on_host / BUS
            yield f"{title}: {state} of optimizer state in host memory, moved in at least {least:.1f} s per step."
        if best.host_copy and device == "cuda":
            copy = size(best.host_copy)
            yield f"{title}: {copy} of host memory for checkpoints, which are written while training continues."


class PlanView:
    """Formats a plan for a terminal of `width` columns."""

    def __init__(self, width: int, colored: bool) -> None:
        self.width, self.colored = width, colored

    def lines(
        self,
        plan: MemoryPlan,
        config: Config,
        preset: str,
        times: Mapping[str, TimeEstimate],
        here: Sequence[TierAccuracy],
    ) -> Iterator[Text]:
        """The complete plan. `here` is the accuracy of earlier plans on this machine."""
        yield from self.bars(plan, config, preset)
        yield Text()
        yield from self.table(plan, times)
        yield from self.unknown(times)
        for method_plan in plan.methods:
            yield from self.levels(method_plan)
            yield from self.changes(method_plan, plan.budget)
        yield Text()
        for line in [*plan.notes, *accuracy_notes(plan, here)]:
            yield self.text(line, "dim")

    def bars(self, plan: MemoryPlan, config: Config, preset: str) -> Iterator[Text]:
        """Preset, rows and budget, then one bar per method, and why others are refused."""
        subject = f"{last_part(config.model.id)} on {last_part(config.data.id)}, batch size {config.train.batch}"
        yield self.text(f"{preset}: {subject}", "bold")
        yield self.text(about_rows(plan, config))
        budget = plan.budget
        used = f"; {size(budget.used)} in use by others, {size(budget.free)} free" if budget.used else ""
        who = f" ({', '.join(budget.holders[:4])})" if budget.holders else ""
        yield self.text(f"{budget.name}, {size(budget.total)}: {BUDGETS[budget.source]}{used}{who}")
        yield Text()
        present: dict[str, int] = {}
        for method_plan in plan.methods:
            own = peak(method_plan).parts
            parts = {"others": budget.used, "process": budget.process_overhead, **own}
            present |= {name: used for name, used in parts.items() if used}
            line = Text(f"{method_title(method_plan.method):<7}{size(peak(method_plan).total):>9}  ")
            line.append(f"{method_plan.fit:<13}", style=STYLES[method_plan.fit])
            bars = max(10, min(self.width - LEFT - 1, 100))
            yield line + memory_bar(parts, budget.total, bars, self.colored)
        for refused in plan.refused:
            line = Text(f"{method_title(refused.method):<7}{ABSENT:>9}  ")
            yield line.append("refused", style=STYLES["refused"])
            yield self.text(f"       {refused.problem}; {refused.hint}", "red")
        for why, methods in _grouped((one.method, one.no_dry_run) for one in plan.methods if one.no_dry_run):
            yield self.text(f"{methods}: estimated by the formula alone; {why}", "yellow")
        yield Text()
        yield from legend(present, self.width, self.colored)

    def table(self, plan: MemoryPlan, times: Mapping[str, TimeEstimate]) -> Iterator[Text]:
        """The table, one column per method; then why a method leaves parts of the model as they are."""
        names = [method_title(method_plan.method) for method_plan in plan.methods]
        yield self.text(f"{'':<{LABEL}}" + "".join(f"{name:>{CELL}}" for name in names), "bold")
        for label, cells in [*table_rows(plan, times), *weight_rows(plan.methods)]:
            text = f"{label:<{LABEL}}" + "".join(f"{cell:>{CELL}}" for cell in cells)
            yield self.text(text.rstrip(), "bold" if label in BOLD_ROWS else "")
        uses = ((one.method, line) for one in plan.methods if one.account for line in exceptions(one.account))
        for line, methods in _grouped(uses):
            yield self.text(f"{methods}: {line}", "dim")

    def unknown(self, times: Mapping[str, TimeEstimate]) -> Iterator[Text]:
        """Where time and cost estimates come from, or why they are unknown."""
        for why, methods in _grouped((method, time.why) for method, time in times.items() if time.why):
            yield self.text(f"training time of {methods}: {why}", "dim")
        if any(time.at_least is not None for time in times.values()):
            yield self.text(BOUND, "dim")
        known = [time for time in times.values() if time.seconds is not None]
        for runs, what in dict.fromkeys((time.runs, time.what) for time in known):
            source = f"{runs} finished runs; the range covers them" if what == "runs" else ONE_RUN
            yield self.text(f"training time: all steps, without evaluation; estimated from {source}", "dim")
        for why in dict.fromkeys(time.why_no_cost for time in known if time.why_no_cost):
            yield self.text(f"cost: {why}", "dim")

    def levels(self, method_plan: MethodPlan) -> Iterator[Text]:
        """What makes full fine-tuning fit: each change with its peak and seconds, up to the one after the chosen."""
        levels = method_plan.levels
        used = next((number for number, level in enumerate(levels) if level.chosen), 0)
        if not used:
            return
        title = method_title(method_plan.method)
        savings = describe_savings(levels[used].settings)
        yield Text()
        yield self.text(f"{title} {'needs' if method_plan.fit == 'does not fit' else 'fits with'} {savings}:", "bold")
        for number, level in enumerate(levels[: used + 2]):
            seconds = f"≥ {level.seconds:.1f} s/step" if level.seconds is not None else ""
            line = Text(f"{size(level.peak):>10} ")
            line.append(f"{level.fit:<13}", style=STYLES[level.fit] if self.colored else "")
            host = f", {size(level.on_host)} in host memory" if level.on_host else ""
            change = level.change or "without savings"
            yield line + self.text(f"{seconds:<14}{'→' if number == used else ' '} {change}{host}")
        for key, value in levels[used].settings.items():
            if (effect := EFFECTS.get(key)) and describe_savings({key: value}) and key != CHECKPOINTING:
                yield self.text(f"  {key} = {setting(value)}: {effect}", "dim")

    def changes(self, method_plan: MethodPlan, budget: MemoryBudget) -> Iterator[Text]:
        """Changes that make one method fit, smallest first."""
        if method_plan.fit != "does not fit":
            return
        changes = method_plan.changes
        when = "" if peak(method_plan) is method_plan.best.training else " in evaluation"
        lacks = f"{method_title(method_plan.method)} exceeds the budget by {size(shortfall(method_plan, budget))}{when}"
        yield Text()
        if not changes:
            yield self.text(f"{lacks}; no known change makes it fit.", "bold")
        else:
            several = "one of these, smallest change first" if len(changes) > 1 else "all of these"
            how = f"use {several}" if len(changes) > 1 or len(changes[0].settings) > 1 else "use"
            yield self.text(f"{lacks}. To make it fit, {how}:", "bold")
        for change in changes:
            line = Text(f"  {size(change.peak):>9}  ")
            line.append(f"{change.fit:<7}", style=STYLES[change.fit])
            for key, value in change.settings.items():
                effect = EFFECTS[key].format(length=method_plan.best.rows.length)
                line.append(visible(f"--method {value}" if key == "method" else f"--set {key}={setting(value)}"))
                if line.cell_len + 2 + len(effect) > self.width:
                    yield line
                    line = Text(" " * (COSTS + 2))
                yield line + self.text(f"  {effect}" if line.plain.strip() else effect, "dim")
                line = Text(" " * COSTS)

    def text(self, text: str, style: str = "") -> Text:
        """Text with control characters visible; without style on a terminal without colors."""
        return Text(visible(text), style=style if self.colored else "")
