"""What a tracker logs of a run: rows of metrics, with the names that transformers' Trainer gives them, and a summary.

Rows are a function of the log alone: a later process builds the same rows again and skips those that were logged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from engine.config.errors import UserError
from engine.config.metric_specs import metric_spec
from engine.runs.run import events
from engine.runs.run.events import Event
from engine.runs.run.run_dir import RunDir

KINDS: tuple[type[Event], ...] = (
    events.Hello,
    events.Step,
    events.Memory,
    events.Eval,
    events.GeneralLoss,
    events.TaskScored,
    events.End,
)
"""Events that rows depend on."""
GIB = float(1 << 30)
MEMORY = {
    "memory/process_gib": ("rss", GIB),
    "memory/gpu_allocated_gib": ("allocated", GIB),
    "memory/gpu_reserved_gib": ("reserved", GIB),
    "memory/gpu_used_gib": ("nvml_used", GIB),
    "gpu/power_watts": ("power", 1.0),
    "gpu/energy_joules": ("energy", 1.0),
    "gpu/utilization_percent": ("load", 1.0),
    "gpu/temperature_celsius": ("temperature", 1.0),
}
"""Metric -> field of a memory sample and divisor."""


@dataclass(frozen=True)
class MetricRow:
    """Metrics at one optimizer step."""

    step: int
    t: float
    """Unix seconds."""
    values: dict[str, float]


@dataclass(frozen=True)
class TrackedRun:
    """The run as a tracker names it."""

    name: str
    """Also its identifier: a later process continues the run of this name."""
    project: str
    group: str
    """The ladder that started it, '' for none."""
    config: dict[str, Any]
    """Settings by dotted key."""
    folder: Path
    """For the tracker's own files."""
    online: bool
    """Whether it may use the network."""


class Tracker(Protocol):
    """What `open_run(run: TrackedRun)` returns in the module of each tracker, `to_NAME.py`."""

    def log(self, rows: Sequence[MetricRow], first: int) -> None:
        """Log rows; `first` is the index of the first one among all rows of the run, from 0."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Write everything to disk; `summary` are the run's results, empty for a run without any."""


class RowBuilder:
    """Builds one row per optimizer step; validation and test scores are in the row of their step.

    Steps that a resumed run repeats are skipped: they have the same values.
    """

    def __init__(self) -> None:
        self._step, self._tokens = 0, 0
        self._t = 0.0
        self._values: dict[str, float] = {}
        self._memory: events.Memory | None = None

    def add(self, event: Event) -> Iterator[MetricRow]:
        """The rows that are complete with this event."""
        match event:
            case events.Memory():
                self._memory = event
            case events.Hello() | events.End():
                yield from self.flush()
            case events.Step() if event.step > self._step:
                yield from self.flush()
                self._step = event.step
                self._tokens += event.tokens
                values = {
                    "train/loss": event.loss,
                    "train/learning_rate": event.learning_rate,
                    "train/grad_norm": event.grad_norm,
                    "train/epoch": event.epoch,
                    "train/num_input_tokens_seen": float(self._tokens),
                    "train/tokens_per_second": event.tokens_per_second,
                    "train/step_seconds": event.seconds,
                }
                self._set(event, values)
            case events.Eval() if event.step >= self._step or event.when != "during":
                self._set(event, _of_score(event))
            case events.GeneralLoss(general=general):
                tokens = sum(general.tokens) or 1
                after = sum(general.after) / tokens if general.after else None
                rise = sum(general.after) / tokens - sum(general.before) / tokens if general.before else None
                self._set(event, {"general/loss": after, "general/loss_increase": rise})
            case events.TaskScored(scores=scores):
                self._set(event, {f"benchmark/{scores.task}/{scores.metric}": scores.score.mean})

    def flush(self) -> Iterator[MetricRow]:
        """The row in progress, if it has values."""
        if self._values:
            yield MetricRow(self._step, self._t, self._values)
            self._values = {}

    def _set(self, event: Event, values: dict[str, float | None]) -> None:
        everything = {**values, "train/global_step": float(self._step)}
        for name, (source, divisor) in MEMORY.items() if self._memory else ():
            value = getattr(self._memory, source)
            everything[name] = None if value is None else value / divisor
        self._values |= {
            name: value for name, value in everything.items() if value is not None and math.isfinite(value)
        }
        self._t = event.t


def _of_score(event: events.Eval) -> dict[str, float | None]:
    """Validation as `eval/…`, test rows as `test/…`; scores before training are in the row of step 0."""
    score = event.score
    if score is None:
        return {"eval/loss" if event.when == "during" else "eval/final_loss": event.loss}
    values = {"test/loss": event.loss, "test/perplexity": score.perplexity}
    if metric_spec(score.metric).is_loss:
        return values | {f"test/{name}": extra.mean for name, extra in score.extra.items()}
    name, interval = f"test/{score.metric}", score.score
    return values | {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def summary_of(run: RunDir) -> dict[str, Any]:
    """Results of a run by the names of its metrics; empty for a run without a result."""
    try:
        result = run.result()
    except UserError:  # damaged: its rows are logged all the same
        result = None
    if result is None:
        return {}
    summary: dict[str, Any] = {
        "status": result.status,
        "method": result.method,
        "trainable_parameters": result.trainable,
        "total_parameters": result.parameters,
        "train_runtime": result.step_seconds,
        "peak_memory_gib": result.peak.training / 2**30 if result.peak.training else None,
    }
    for prefix, score in (("test_before", result.before), ("test", result.after)):
        if score is None:
            continue
        summary[f"{prefix}/loss"] = score.loss.mean
        if not metric_spec(score.metric).is_loss:
            name, interval = f"{prefix}/{score.metric}", score.score
            summary |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return {name: value for name, value in summary.items() if value is not None}
