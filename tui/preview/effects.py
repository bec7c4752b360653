"""What a configuration costs: memory, steps and time, shown while a setting is edited."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from textual.content import Content

from engine.config.model_files import find_model
from engine.config.quantities import duration, integer, size
from engine.config.schema import Config
from engine.config.text import amount, visible
from engine.memory.formula import history
from engine.memory.formula.history import Throughput
from engine.memory.formula.memory_budget import MemoryBudget
from tui.preview.launch_context import DataCheck
from tui.preview.method_estimate import STYLES, Fit, method_estimate


@dataclass(frozen=True)
class PredictedCost:
    """The predicted cost of one run; None for what is not known."""

    memory: int | None
    """Predicted peak of the process in bytes."""
    fit: Fit
    steps: int | None
    seconds: float | None
    """Duration of training."""
    counting: bool = False
    """Whether the rows are being counted: the number of steps is not known before."""
    runs: int = 0
    """Number of earlier runs that the duration is based on."""


class ThroughputCache:
    """Throughput of earlier runs on this machine, read once per runs directory, model, method and device."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._known: dict[tuple[str, str, str], Throughput | None] = {}

    def of(self, config: Config, budget: MemoryBudget | None) -> Throughput | None:
        """The throughput of this model and method; None without a finished run. Reads results: call it in a thread."""
        if budget is None:
            return None
        key = (config.model.id, config.method, budget.name)
        if key not in self._known:
            self._known[key] = history.throughput(history.results(self._runs), config.model.id, config.method, budget)
        return self._known[key]


def training_steps(config: Config, rows: int | None) -> int | None:
    """Optimizer steps; None while the number of training rows is not known."""
    train = config.train
    if train.steps:
        return train.steps
    return max(1, round(train.epochs * math.ceil(rows / train.batch))) if rows else None


def effects(config: Config, budget: MemoryBudget | None, report: DataCheck, speed: Throughput | None) -> PredictedCost:
    """The predicted cost of a run of this configuration on the rows of a data check."""
    found = method_estimate(config, find_model(config.model), budget, report.longest)
    steps = training_steps(config, report.rows.get("train"))
    per_row = report.tokens_per_row(config.train.max_length)
    tokens = steps * config.train.batch * per_row if steps and per_row else None
    seconds = tokens / speed.middle if tokens and speed else None
    counting = steps is None and report.running
    return PredictedCost(found.peak, found.fit, steps, seconds, counting, speed.runs if speed and seconds else 0)


def effects_text(now: PredictedCost, before: PredictedCost | None = None) -> Content:
    """`memory 842 MiB → 1.2 GiB fits   steps 200 → 400   time 2:10 → 4:20 (3 runs)`; unchanged values once."""
    old = before or now
    memory = _change(size(old.memory), size(now.memory))
    steps = "counting rows" if now.counting else _change(integer(old.steps), integer(now.steps))
    time = _change(duration(old.seconds), duration(now.seconds))
    based = f" ({amount(now.runs, 'run')})" if now.runs else " (no estimate)"
    parts = [("memory ", "$foreground-muted"), (memory, "bold"), (f" {now.fit}", STYLES[now.fit])]
    parts += [("   steps ", "$foreground-muted"), (steps, "bold")]
    parts += [("   time ", "$foreground-muted"), (time, "bold"), (based, "$foreground-muted")]
    return Content.assemble(*((visible(text), style) for text, style in parts))


def _change(old: str, new: str) -> str:
    return new if old == new else f"{old} → {new}"
