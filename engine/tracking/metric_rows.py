"""Events of a run as rows of metrics, with the names that transformers' Trainer gives them in the same trackers.

Rows are a function of the log alone: a later process builds the same rows again and skips those that were logged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from engine.config.metric_specs import metric_spec
from engine.runs.run import events
from engine.runs.run.events import Event

KINDS: tuple[type[Event], ...] = (
    events.Hello,
    events.Step,
    events.Memory,
    events.Eval,
    events.GeneralLoss,
    events.BenchmarkScored,
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
                self._set(event, _of_step(event, self._tokens))
            case events.Eval() if event.step >= self._step or event.when != "during":
                self._set(event, _of_score(event))
            case events.GeneralLoss():
                self._set(event, _of_general(event))
            case events.BenchmarkScored():
                self._set(event, {f"benchmark/{event.benchmark}/{event.metric}": event.score.mean})

    def flush(self) -> Iterator[MetricRow]:
        """The row in progress, if it has values."""
        if self._values:
            yield MetricRow(self._step, self._t, self._values)
            self._values = {}

    def _set(self, event: Event, values: dict[str, float | None]) -> None:
        everything = {**values, "train/global_step": float(self._step), **_of_memory(self._memory)}
        self._values |= {
            name: value for name, value in everything.items() if value is not None and math.isfinite(value)
        }
        self._t = event.t


def _of_step(event: events.Step, tokens: int) -> dict[str, float | None]:
    return {
        "train/loss": event.loss,
        "train/learning_rate": event.learning_rate,
        "train/grad_norm": event.grad_norm,
        "train/epoch": event.epoch,
        "train/num_input_tokens_seen": float(tokens),
        "train/tokens_per_second": event.tokens_per_second,
        "train/step_seconds": event.seconds,
    }


def _of_score(event: events.Eval) -> dict[str, float | None]:
    """Validation as `eval/…`, test rows as `test/…`; scores before training are in the row of step 0."""
    if event.split == "validation":
        return {"eval/loss" if event.when == "during" else "eval/final_loss": event.loss}
    values = {"test/loss": event.loss, "test/perplexity": event.perplexity}
    if metric_spec(event.metric).is_loss:
        return values | {f"test/{name}": score.mean for name, score in event.extra.items()}
    name = f"test/{event.metric}"
    return values | {name: event.score, f"{name}_low": event.low, f"{name}_high": event.high}


def _of_general(event: events.GeneralLoss) -> dict[str, float | None]:
    """Loss on general text after training, and its rise over the base model's."""
    tokens = sum(event.tokens) or 1
    after = sum(event.after) / tokens
    rise = after - sum(event.before) / tokens if event.before else None
    return {"general/loss": after if event.after else None, "general/loss_increase": rise}


def _of_memory(sample: events.Memory | None) -> dict[str, float | None]:
    if sample is None:
        return {}
    values: dict[str, float | None] = {}
    for name, (source, divisor) in MEMORY.items():
        value = getattr(sample, source)
        values[name] = None if value is None else value / divisor
    return values
