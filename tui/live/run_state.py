"""State of a run computed from its events, in bounded memory however long the run is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from engine.memory.formula.estimate import CONTEXT
from engine.runs.run import events
from engine.runs.run.events import Event
from tui.charts.series import Series
from tui.live.event_lines import lines
from tui.live.log_lines import LogLines
from tui.live.time_left import RunTimer, TimeLeft

MAX_SAMPLES = 60
CPU_NAME = "CPU cores"
"""End of the device name in the event `model` of a run without a GPU."""


@dataclass
class RunState:
    """Updated with events in order; steps that a resumed run repeats replace the earlier ones."""

    name: str = ""
    phase: str = ""
    progress: events.Progress | None = None
    """Progress within the phase, where the phase reports it."""
    note: str = ""
    """Details of the phase: which run it waits for."""
    plan: events.Plan | None = None
    step: events.Step | None = None
    memory: events.Memory | None = None
    checkpoint: events.Checkpoint | None = None
    end: events.End | None = None
    error: events.Error | None = None
    before: events.Eval | None = None
    after: events.Eval | None = None
    counted: int = 0
    """Number of events."""
    loss: Series = field(default_factory=Series)
    validation: Series = field(default_factory=Series)
    lowest: events.Eval | None = None
    """The lowest validation loss so far."""
    selected: events.Selected | None = None
    """The weights that are kept; None before training has ended, and without a choice."""
    rate: Series = field(default_factory=Series)
    grad_norm: Series = field(default_factory=Series)
    speed: Series = field(default_factory=Series)
    """Tokens/s."""
    memory_use: Series = field(default_factory=Series)
    """Bytes of the worker's process by step, as the machine pane measures them."""
    samples: list[events.Sample] = field(default_factory=list)
    """The latest answers to test and validation prompts, at most MAX_SAMPLES."""
    timer: RunTimer = field(default_factory=RunTimer)
    on_gpu: bool = False
    overhead: int = 0
    """Bytes of the worker's process that the peaks of its events do not include."""
    log: LogLines = field(default_factory=LogLines)
    sampled: bool = False
    """Whether only samples of a huge log have been read so far."""

    def feed(self, fresh: Iterable[Event]) -> None:
        for event in fresh:
            self._apply(event)

    def left(self) -> TimeLeft | None:
        """Estimated time until the end of the run, or of its phase; None once it has ended, or if it is not known."""
        return None if self.end is not None else self.timer.left()

    def best(self) -> Series:
        """A curve of one point: the validation loss of the weights that are kept, or the lowest one so far."""
        series, kept = Series(), self.selected or self.lowest
        if kept is not None:
            series.add(kept.step, kept.loss)
        return series

    def expected_peak(self) -> ExpectedPeak | None:
        """Of the worker's process: measured by the memory probe, else predicted before the first step."""
        plan = self.plan
        if plan is None or plan.predicted is None:
            return None
        training = plan.measured or plan.predicted
        evaluation = plan.measured_evaluation or plan.predicted_evaluation or 0
        peak = training if self.on_gpu else max(training, evaluation)
        return ExpectedPeak(peak + self.overhead, peak in (plan.measured, plan.measured_evaluation))

    def _apply(self, event: Event) -> None:
        self.counted += 1
        self.timer.add(event)
        match event:
            case events.Step():
                self._step(event)
                return
            case events.Memory():
                self._memory(event)
                return
            case events.Hello():
                self.end, self.error = None, None
                self.phase, self.note, self.progress = "", "", None  # a resumed worker starts from its first phase
            case events.Phase():
                self.phase, self.note, self.progress = event.name, event.note, None
            case events.Progress():
                self.progress = event
            case events.ModelLoaded():
                self.on_gpu = not event.device.endswith(CPU_NAME)
                self.overhead = CONTEXT if self.on_gpu else event.resident_before or 0
            case events.Plan():
                self.plan, self.selected = event, None
            case events.Selected():
                self.selected = event
            case events.Checkpoint():
                self.checkpoint = event
            case events.Sample():
                self.samples = [*self.samples, event][-MAX_SAMPLES:]
            case events.Error():
                self.error = event
            case events.End():
                self.end = event
            case events.Eval():
                self._eval(event)
        for text in lines(event, self.overhead):
            self.log.add(text)

    def _step(self, event: events.Step) -> None:
        self.step = event
        self.loss.add(event.step, event.loss)
        self.rate.add(event.step, event.learning_rate)
        self.grad_norm.add(event.step, event.grad_norm)
        self.speed.add(event.step, event.tokens_per_second)

    def _memory(self, event: events.Memory) -> None:
        self.memory = event
        used = event.rss if event.reserved is None else event.reserved + self.overhead
        if self.step is not None and self.phase in ("", "training"):
            self.memory_use.add(self.step.step, used)

    def _eval(self, event: events.Eval) -> None:
        if event.split == "validation":
            if event.when == "during":  # the loss after training is measured on other rows
                self.validation.add(event.step, event.loss)
                if event.loss is not None and (self.lowest is None or event.loss < (self.lowest.loss or 0.0)):
                    self.lowest = event
        elif event.when == "before":
            self.before = event
        else:
            self.after = event


class ExpectedPeak(NamedTuple):
    """The peak of a run's process, in bytes."""

    bytes: int
    is_probed: bool = False
    """Measured by the memory probe before the first step; else predicted."""
    parts: Mapping[str, int] = {}
    """Bytes by part, as predicted by the formula."""

    @property
    def label(self) -> str:
        """Its name in the interface."""
        return "memory probe" if self.is_probed else "predicted peak"
