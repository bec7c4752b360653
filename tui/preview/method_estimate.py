"""Estimate the memory of each method on this machine, and the disk space of runs, by the formula, in milliseconds.

An estimate assumes rows as long as the longest row of checked data, else as long as the configuration allows, with
every token in the loss: an upper bound.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from msgspec import structs

from engine.config.errors import UserError
from engine.config.method_specs import method_names, method_spec, method_title
from engine.config.model_config import check_method
from engine.config.model_files import EMBEDDED, ModelFiles, find_model
from engine.config.preset import EffectiveConfig
from engine.config.preset_library import PresetEntry, user_folder, without_method
from engine.config.schema import Config
from engine.memory.formula.automatic import chosen_savings, describe_savings, resolve_automatic
from engine.memory.formula.estimate import Device, MemoryEstimate, StepShape, error_of, rows_per_device
from engine.memory.formula.fit import FitQuery, classify_fit
from engine.memory.formula.formula import needed_space
from engine.memory.formula.memory_budget import MemoryBudget
from engine.runs.home import nearest_existing
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir
from tui.live.run_state import ExpectedPeak
from tui.selection import METHOD, Selection

Fit = Literal["fits", "tight", "does not fit", "refused", "unknown"]
STYLES: dict[Fit, str] = {
    "fits": "$text-success",
    "tight": "$text-warning",
    "does not fit": "$text-error",
    "refused": "$text-error",
    "unknown": "$foreground-muted",
}
STEPS_OF_MEMORY = 32
"""Memory used by others is rounded to this fraction of the total."""


@dataclass(frozen=True)
class MethodEstimate:
    """Memory estimate of one method with the current selection."""

    method: str
    fit: Fit
    estimate: MemoryEstimate | None = None
    config: Config | None = None
    why: str = ""
    """Why there is no estimate."""
    peak: int | None = None
    """Predicted peak in bytes of the whole process, with Python or the CUDA context: measured as `this run`."""
    savings: str = ""
    """What makes full fine-tuning fit on a GPU: `stochastic rounding, step in the backward pass`."""

    def above(self, others: Sequence[MethodEstimate]) -> str:
        """Why the peak is above that of a method with more weights: `above LoRA: micro-batch 5, not 4`; '' if not.

        `auto` uses what is free: with a smaller base for a larger micro-batch, or to keep more activations.
        """
        names = [other.method for other in others]
        for other in others[names.index(self.method) + 1 :]:
            if self.peak and other.peak and other.estimate and self.estimate and other.peak < self.peak:
                mine, its = self.estimate.micro_batch, other.estimate.micro_batch
                why = f"micro-batch {mine}, not {its}" if mine != its else "keeps more activations"
                return f"above {method_title(other.method)}: {why}"
        return ""


def steady(budget: MemoryBudget) -> MemoryBudget:
    """The budget with the memory used by others rounded, so that estimates do not change with every sample."""
    part = max(1, budget.total // STEPS_OF_MEMORY)
    return structs.replace(budget, used=round(budget.used / part) * part)


def method_estimates(
    selection: Selection, files: ModelFiles, budget: MemoryBudget | None, longest: int | None = None
) -> list[MethodEstimate]:
    """Estimates of all methods with the current selection; `longest` as in `method_estimate`."""
    estimates = []
    for method in method_names():
        try:
            config = selection.with_setting(METHOD, method).effective().config
        except UserError as error:
            estimates.append(MethodEstimate(method, "unknown", why=error.line))
        else:
            estimates.append(method_estimate(config, files, budget, longest))
    return estimates


def method_estimate(
    config: Config, files: ModelFiles, budget: MemoryBudget | None, longest: int | None = None
) -> MethodEstimate:
    """Estimate of one configuration; `longest` is the number of tokens of the longest row, where known."""
    if files.table is None:
        return MethodEstimate(config.method, "unknown", config=config, why=files.why)
    try:
        check_method(files.table, config.model.id, config.method)
    except UserError as error:
        return MethodEstimate(config.method, "refused", config=config, why=f"{error.problem}; {error.hint}")
    if budget is None:
        return MethodEstimate(config.method, "unknown", config=config, why="sampling the machine")
    length = min(config.train.max_length, longest or config.train.max_length)
    rows = StepShape(count=rows_per_device(config.train), length=length, answer=max(1, length - 1))
    try:
        query = resolved_query(config, files.table, rows, budget)
        estimate = query.formula_estimate()
    except UserError as error:
        return MethodEstimate(config.method, "unknown", config=config, why=error.line)
    fit = classify_fit(estimate.peak, budget, "formula")
    trains_weights = method_spec(config.method).trains_weights
    savings = describe_savings(chosen_savings(config, query.config)) if trains_weights else ""
    peak = estimate.peak + budget.process_overhead
    return MethodEstimate(config.method, fit, estimate, config, peak=peak, savings=savings)


def fitting_budgets(
    config: Config, files: ModelFiles, budgets: Mapping[str, MemoryBudget], longest: int | None = None
) -> dict[str, MemoryBudget]:
    """Those of the budgets in which one configuration fits; `longest` as in `method_estimate`."""
    fits = {name: method_estimate(config, files, budget, longest).fit for name, budget in budgets.items()}
    return {name: budget for name, budget in budgets.items() if fits[name] in ("fits", "tight")}


def resolved_query(config: Config, model_config: Mapping[str, Any], rows: StepShape, budget: MemoryBudget) -> FitQuery:
    """The question whether it fits, with the settings that `auto` means on a GPU.

    On a CPU a run starts with the whole batch: what is free there changes by the second.
    """
    query = FitQuery(config, model_config, rows, budget)
    return resolve_automatic(query) if budget.device == "cuda" else query


def predicted_peak(
    run: RunDir | None,
    chosen: EffectiveConfig | None,
    budget: MemoryBudget | None,
    longest: Callable[[Config], int | None],
) -> ExpectedPeak | None:
    """Peak predicted for a run, or else for the current selection; `longest` returns a known longest row."""
    if budget is None or chosen is None:
        return None
    try:
        config = run_dir.read_frozen(run).config if run else chosen.config
    except UserError:
        return None
    predicted = method_estimate(config, find_model(config.model), budget, longest(config))
    if predicted.peak is None or predicted.estimate is None:
        return None
    estimate = predicted.estimate
    parts = max((estimate.training, estimate.evaluation), key=lambda peak: peak.total).parts
    rest = predicted.peak - sum(parts.values())
    error = error_of("formula", estimate.device).worst
    return ExpectedPeak(predicted.peak, error=error, parts={**parts, "process": rest} if rest > 0 else parts)


def with_slots(listed: Sequence[PresetEntry], budget: MemoryBudget) -> list[PresetEntry]:
    """The presets with the slots that suit this machine, those with one first.

    The user's own presets keep their slots, and the demo's keep theirs; the others hold the presets that fit by the
    formula: on a GPU those of the largest families first, on a CPU of the smallest.
    """
    slots = {entry.name: entry.slot for entry in listed if entry.slot and entry.path.parent == user_folder()}
    taken = set(slots.values())
    slots |= {e.name: e.slot for e in listed if e.slot and e.slot not in taken and _is_demo(e)}
    free = [slot for slot in range(1, 10) if slot not in slots.values()]
    rest = tuple(entry.name for entry in listed if entry.name not in slots and entry.preset and not _is_demo(entry))
    slots |= dict(zip(_largest_that_fit(rest, budget.device, budget.total, budget.bf16), free, strict=False))
    slotted = [replace(entry, slot=slots.get(entry.name)) for entry in listed]
    return sorted(slotted, key=lambda entry: entry.slot or 99)


def _is_demo(entry: PresetEntry) -> bool:
    return entry.preset is not None and entry.preset.values.get("model.id", EMBEDDED) == EMBEDDED


@lru_cache(maxsize=8)
def _largest_that_fit(names: tuple[str, ...], device: Device, total: int, bf16: bool) -> list[str]:
    """Presets that fit, by family, the largest or on a CPU the smallest first, its methods in their order.

    Families named for a GPU size are compared by that: with less memory full fine-tuning makes other steps.
    """
    source: Literal["gpu", "system"] = "gpu" if device == "cuda" else "system"
    budget = MemoryBudget(name="", device=device, source=source, total=total, bf16=bf16)
    fitting, largest = dict[str, Config](), dict[str, int]()  # by preset; parameters by family
    for name in names:
        try:
            config = Selection(name).effective().config
        except UserError:
            continue
        predicted = method_estimate(config, find_model(config.model), budget)
        if predicted.estimate is not None and predicted.fit in ("fits", "tight"):
            fitting[name], family = config, without_method(name)
            largest[family] = max(largest.get(family, 0), predicted.estimate.parameters)
    families, methods = list(largest), list(method_names())
    sign = 1 if device == "cpu" else -1  # on a CPU, large models would take days

    def place(name: str) -> tuple[int, int, int, int]:
        family = without_method(name)
        gpu_size = re.match(r"(\d+)gb$", family)
        size_order = sign * int(gpu_size[1]) if gpu_size else 0
        return size_order, sign * largest[family], families.index(family), methods.index(fitting[name].method)

    return sorted(fitting, key=place)


def list_label(predictions: Sequence[MethodEstimate]) -> str:
    """What the estimates in the list of methods assume: `±13%, 512-token rows`."""
    estimate = next((predicted.estimate for predicted in predictions if predicted.estimate), None)
    if estimate is None:
        return "formula"
    return f"±{error_of('formula', estimate.device).worst:.0%}, {estimate.rows.length}-token rows"


def disk_space(configs: Sequence[Config], runs: Path, budget: MemoryBudget | None) -> tuple[int | None, int]:
    """(needed, free) bytes of the runs directory; needed by the formula, None if the estimate of a run is not known."""
    free = shutil.disk_usage(nearest_existing(runs)).free
    if budget is None:
        return None, free
    needs = [needed_space(config, find_model(config.model).table, budget.device, budget.bf16) for config in configs]
    return None if None in needs else sum(filter(None, needs)), free
