"""Methods and models as rows of tables: memory, settings, when to use which, and what a changed setting costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from textual.content import Content

from engine.config.errors import UserError
from engine.config.method_specs import method_names, method_title
from engine.config.model_files import ListedModel, find_model
from engine.config.quantities import duration, integer, size
from engine.config.schema import Config
from engine.config.text import amount, visible
from engine.memory.formula import history
from engine.memory.formula.memory_budget import MemoryBudget
from engine.runs.run.run_dir import RunDir
from tui.commands import CommandKeys
from tui.format import Column, TableRow, moment
from tui.live.run_state import EventLoader
from tui.preview.launch_context import DataCheck, LaunchContext
from tui.preview.method_estimate import STYLES, Fit, MethodEstimate, method_estimate, method_estimates
from tui.selection import MARK, MODEL, Selection


@dataclass(frozen=True)
class PredictedCost:
    """The predicted cost of one run; None for what is not known."""

    memory: int | None
    """Predicted peak of the process in bytes."""
    fit: Fit
    steps: int | None
    seconds: float | None
    """Duration of the run."""
    counting: bool = False
    """Whether the rows are being counted: the number of steps is not known before."""


def training_steps(config: Config, rows: int | None) -> int | None:
    """Optimizer steps; None while the number of training rows is not known."""
    train = config.train
    if train.steps:
        return train.steps
    return max(1, round(train.epochs * math.ceil(rows / train.batch))) if rows else None


def effects(config: Config, budget: MemoryBudget | None, report: DataCheck, times: LaunchTimes) -> PredictedCost:
    """The predicted cost of a run of this configuration on the rows of a data check."""
    predicted = method_estimate(config, find_model(config.model), budget, report.longest)
    steps = training_steps(config, report.rows.get("train"))
    counting = steps is None and report.running
    return PredictedCost(predicted.peak, predicted.fit, steps, times.seconds(config, report), counting)


def effects_text(now: PredictedCost, before: PredictedCost | None = None) -> Content:
    """`memory 842 MiB → 1.2 GiB fits   steps 200 → 400   time 2:10 → 4:20`; unchanged values once."""
    old = before or now
    memory = _change(size(old.memory), size(now.memory))
    steps = "counting rows" if now.counting else _change(integer(old.steps), integer(now.steps))
    time = _change(duration(old.seconds), duration(now.seconds))
    based = "" if now.seconds else " (no estimate)"
    parts = [("memory ", "$foreground-muted"), (memory, "bold"), (f" {now.fit}", STYLES[now.fit])]
    parts += [("   steps ", "$foreground-muted"), (steps, "bold")]
    parts += [("   time ", "$foreground-muted"), (time, "bold"), (based, "$foreground-muted")]
    return Content.assemble(*((visible(text), style) for text, style in parts))


def _change(old: str, new: str) -> str:
    return new if old == new else f"{old} → {new}"


@dataclass(frozen=True)
class Training:
    """A training that a launch starts, `count` times: of each seed."""

    name: str
    config: Config
    count: int = 1


class Pace(NamedTuple):
    """What the finished runs of a model and method on this device took."""

    tokens_per_second: float
    other_seconds: float
    """Loading, evaluation, saving: everything but the training steps, median."""
    runs: int


class LaunchTimes:
    """How long a launch takes, from finished runs here, and how long it waits, from the run that has the device."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._paces: dict[tuple[str, str], Pace | None] = {}
        self._wait = ""

    def read(self, trainings: Sequence[Training], context: LaunchContext) -> bool:
        """Read results and the log of the run that uses the device: call it in a thread. Whether something is new."""
        before = (dict(self._paces), self._wait)
        wanted = {(training.config.model.id, training.config.method) for training in trainings} - set(self._paces)
        if wanted and context.budget is not None:
            try:
                results = list(history.results(self._runs))
            except (UserError, OSError):
                return False  # the list of runs reports it; the time stays unknown
            for model, method in wanted:
                speed = history.throughput(results, model, method, context.budget)
                like = [
                    result
                    for _, result in results
                    if (result.model, result.method, result.status) == (model, method, "finished")
                ]
                others = [result.active_seconds - result.step_seconds for result in like] or [0.0]
                pace = Pace(speed.middle, statistics.median(others), speed.runs) if speed else None
                self._paces[model, method] = pace
        self._wait = _wait(context)
        return before != (self._paces, self._wait)

    def seconds(self, config: Config, report: DataCheck) -> float | None:
        """Of one run; None where none of this model and method has finished, or the rows were not counted."""
        pace = self._paces.get((config.model.id, config.method))
        steps = training_steps(config, report.rows.get("train"))
        per_row = report.tokens_per_row(config.train.max_length)
        if pace is None or not steps or not per_row:
            return None
        return steps * config.train.batch * per_row / pace.tokens_per_second + pace.other_seconds

    def text(self, trainings: Sequence[Training], report: DataCheck) -> str:
        """`about 24:10 (3 earlier runs), after a wait of at least 4:05`; which rungs are unknown."""
        total, unknown, runs = 0.0, [], 0
        for training in trainings:
            pace = self._paces.get((training.config.model.id, training.config.method))
            seconds = self.seconds(training.config, report)
            if pace is None:
                unknown.append(training.name)
            elif seconds is None:
                return "counting rows …" if report.running else f"unknown: the rows were not counted{self._wait}"
            else:
                total, runs = total + training.count * seconds, max(runs, pace.runs)
        if not total:
            return f"unknown: no run of this model and method has finished here{self._wait}"
        known = f"{'at least' if unknown else 'about'} {duration(total)}, from {amount(runs, 'earlier run')}"
        return known + (f"; unknown for {', '.join(unknown)}" if unknown else "") + self._wait


def _wait(context: LaunchContext) -> str:
    """When the first of the runs that use the devices will be done, if all devices are in use."""
    running = [turn for turn in context.turns if turn.place == 0]
    if len(running) < context.devices:
        return ""
    try:
        left = [EventLoader(RunDir(turn.run).events_file).first().left() for turn in running]
    except OSError:
        return ""
    known = [estimate.seconds for estimate in left if estimate and not estimate.phase]
    return f"; before that a wait of at least {duration(min(known))}" if known else ""


NETWORK = "requires network"
MARKS = {"does not fit": "!", "tight": "?"}
"""Fit -> the mark after the predicted memory in the table of models, which does not depend on color."""


@dataclass(frozen=True)
class ModelRow:
    """A model and what each method would need for it with the present selection."""

    model: ListedModel
    estimates: Sequence[MethodEstimate] = ()


def columns() -> tuple[Column, ...]:
    """The columns of the table; on a narrow terminal the last ones are dropped."""
    methods = (Column(method_title(name), 8, right=True) for name in method_names())
    others = (Column("size", right=True), Column("where"), Column("license"), Column("architecture"), Column("date"))
    return (Column("model", 14), *methods, *others)


def model_row(selection: Selection, model: ListedModel, budget: MemoryBudget | None) -> ModelRow:
    """The model with its estimates; the method of the selection is kept."""
    return ModelRow(model, method_estimates(selection.with_setting(MODEL, model.id), model.files, budget))


def table_row(row: ModelRow, selected: bool) -> TableRow:
    """One line: the selected model is marked, memory has the color of its fit, and a mark where it does not fit."""
    model = row.model
    name = f"{MARK if selected else ' '}{model.label}"
    memory = [
        (f"{size(predicted.peak)} {MARKS.get(predicted.fit, ' ')}" if predicted.peak else "–  ", STYLES[predicted.fit])
        for predicted in row.estimates
    ]
    where = NETWORK if model.requires_network else model.origin
    date = moment(model.modified, "%Y-%m-%d") if model.modified else ""
    return TableRow(
        model.id,
        (
            (name, "bold" if selected else ""),
            *memory,
            (size(model.bytes) if model.bytes else "–", ""),
            (where, "$text-warning" if model.requires_network else "$foreground-muted"),
            (model.license or "–", "$foreground-muted"),
            (model.architecture or "–", "$foreground-muted"),
            (date, "$foreground-muted"),
        ),
    )


def detail_lines(row: ModelRow, keys: CommandKeys) -> list[str]:
    """Where the model is and what is known about it; then why a memory is not known."""
    model = row.model
    known = [model.id, model.architecture, model.license and f"license {model.license}", model.about]
    is_own = model.origin == "embedded" or not model.files.folder  # a path within the package says nothing
    where = model.origin if is_own else f"{model.origin}: {model.files.folder}"
    lines = [" · ".join(part for part in known if part), where]
    if model.requires_network:
        key = keys.of("models.pull")
        lines[1] = f"{NETWORK}: {model.files.fetch} on the Hub; press {key} to download it"
        if model.gated:
            page = f"huggingface.co/{model.files.fetch}"
            lines[1] = f"{NETWORK}, gated: accept the license at {page} and set HF_TOKEN, then press {key}"
    if problem := model.files.wrong or next((predicted.why for predicted in row.estimates if predicted.why), ""):
        lines.append(problem)
    return lines
