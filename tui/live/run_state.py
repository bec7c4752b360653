"""State of a run computed from its events, in bounded memory however long the run is; the time left of it and of a
ladder. A small event log is read at once, a huge one as samples first, then completely, in portions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from engine.config.files import open_regular
from engine.config.quantities import duration
from engine.memory.formula.estimate import CONTEXT, Device, error_of
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.run import events
from engine.runs.run.event_log import Follower
from engine.runs.run.events import Event, decode
from tui.charts import Series
from tui.live.event_lines import lines
from tui.live.log_lines import LogLines


class TimeLeft(NamedTuple):
    """Seconds until the end of a run, or of its phase."""

    seconds: float
    phase: str = ""
    """The phase whose end is meant; '' for the end of the run."""

    def __str__(self) -> str:
        return f"{rounded(self.seconds)} left{f' in {self.phase}' if self.phase else ''}"


def rounded(seconds: float) -> str:
    """An estimated duration in whole seconds: `9 s`, `4:05`."""
    return duration(seconds) if seconds >= 59.5 else f"{seconds:.0f} s"


ANSWERS = "test answers"
"""Text of the worker's progress while it generates the answers to the test rows."""


class RunTimer:
    """Estimates when a run ends from its own events: seconds per step with validation and checkpoints, rows per second.

    The evaluation after training takes about as long as that of the base model, which scores the same rows. Without it
    only the end of the current phase is known.
    """

    def __init__(self) -> None:
        self._phase = ""
        self._phase_began = self._now = self._seen_at = 0.0
        self._baseline: float | None = None
        self._first_step: tuple[float, int] | None = None
        self._step: events.Step | None = None
        self._step_at = 0.0
        self._work = ""
        self._first_rows = self._last_rows = (0.0, 0)
        self._progress: events.Progress | None = None

    def add(self, event: events.Event) -> None:
        """Take note of an event; events are in order, but some may be missing."""
        self._now, self._seen_at = event.t if event.elapsed is None else event.elapsed, event.t
        match event:
            case events.Hello():
                self._enter("")
                self._first_step = self._step = None
            case events.Phase():
                if self._phase == "baseline":
                    self._baseline = max(self._baseline or 0.0, self._now - self._phase_began)
                self._enter(event.name)
            case events.Eval(when="before", split="test"):
                self._baseline = max(self._baseline or 0.0, event.seconds)
            case events.Step():
                self._first_step = self._first_step or (self._now, event.step)
                self._step, self._step_at = event, self._now
            case events.Progress():
                if event.text != self._work or event.done < self._last_rows[1]:
                    self._work, self._first_rows, self._last_rows = event.text, (self._now, event.done), (0.0, -1)
                if event.done != self._last_rows[1]:
                    self._last_rows = (self._now, event.done)
                self._progress = event

    def left(self, now: float | None = None) -> TimeLeft | None:
        """The estimate at `now`, in Unix seconds, or at the last event; None while nothing is known."""
        left, waited = self._left(), 0.0 if now is None else max(0.0, now - self._seen_at)
        return left and left._replace(seconds=max(0.0, left.seconds - waited))

    def _left(self) -> TimeLeft | None:
        if self._phase == "training":
            if self._step is None or self._first_step is None:
                return None
            began, first = self._first_step
            done = self._step.step - first
            pace = (self._step_at - began) / done if done > 0 else self._step.seconds
            seconds = max(0.0, pace * (self._step.steps - self._step.step) - (self._now - self._step_at))
            return TimeLeft(seconds, "training") if self._baseline is None else TimeLeft(seconds + self._baseline)
        progress, (began, first_row), (latest, row) = self._progress, self._first_rows, self._last_rows
        if progress and self._phase in ("baseline", "evaluation") and progress.text != ANSWERS:
            progress = None  # the answers are the longest part of an evaluation
        if progress is not None and progress.total is not None and row > first_row:
            rate = (latest - began) / (row - first_row)
            seconds = max(0.0, rate * (progress.total - row) - (self._now - latest))
            return TimeLeft(seconds, "" if self._phase == "evaluation" else self._phase)
        if self._phase == "evaluation" and self._baseline is not None:
            return TimeLeft(max(0.0, self._baseline - (self._now - self._phase_began)))
        return None

    def _enter(self, phase: str) -> None:
        self._phase, self._phase_began = phase, self._now
        self._work, self._progress = "", None


SIMILAR = 1.1
"""Ratio of the bounds of an estimate up to which their mean is shown instead of both."""


def ladder_left(ladder: Ladder, now: float, run: str = "", left: TimeLeft | None = None) -> str:
    """`ladder 12:30 left`, `ladder 10:00 to 13:00 left`, `ladder up to 20 s left`.

    '' while a rung was neither measured nor finished. `now` in Unix seconds.

    `left` is the time left of the active run `run`, where the end of the run is known; of every other active run it is
    its estimate less the time since it was started. Exports are not estimated.
    """
    runs = [(0.0, 0.0)]  # bounds of each run in seconds; the first ones are for a ladder without a run left
    for entry in ladder.entries:
        if entry.is_done or entry.kind in ("probe", "export"):
            continue
        if entry.status == "live" and entry.run == run and left is not None and not left.phase:
            runs.append((left.seconds, left.seconds))
            continue
        like = [
            other.seconds
            for other in ladder.entries
            if (other.rung, other.kind, other.status) == (entry.rung, entry.kind, "finished")
            and other.seconds is not None
        ]
        estimated = ((known.low, known.high) for known in ladder.estimates if known.rung == entry.rung)
        bounds = (min(like), max(like)) if like else next(estimated, None)  # finished runs, else the timing probe
        if bounds is None:
            return ""
        passed = now - entry.started if entry.status == "live" and entry.started is not None else 0.0
        runs.append((max(0.0, bounds[0] - passed), max(0.0, bounds[1] - passed)))
    # several runs are active at a time; the ladder takes at least as long as its longest run
    low, high = (max(*seconds, sum(seconds) / max(1, ladder.runs_at_once)) for seconds in zip(*runs, strict=True))
    if low < 0.5:
        between = f"up to {rounded(high)}"
    elif high <= low * SIMILAR:
        between = rounded((low + high) / 2)
    else:
        between = f"{rounded(low)} to {rounded(high)}"
    return f"ladder {between} left" if high >= 0.5 else ""


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
    has_model: bool = False
    """Whether the model was loaded, so that its device is known."""
    on_gpu: bool = False
    overhead: int = 0
    """Bytes of the worker's process that the peaks of its events do not include."""
    log: LogLines = field(default_factory=LogLines)
    sampled: bool = False
    """Whether only samples of a huge log have been read so far."""

    def feed(self, fresh: Iterable[Event]) -> None:
        for event in fresh:
            self.counted += 1
            self.timer.add(event)
            match event:
                case events.Step():
                    self.step = event
                    self.loss.add(event.step, event.loss)
                    self.rate.add(event.step, event.learning_rate)
                    self.grad_norm.add(event.step, event.grad_norm)
                    self.speed.add(event.step, event.tokens_per_second)
                    continue
                case events.Memory():
                    self.memory = event
                    if self.step is not None and self.phase in ("", "training"):
                        used = event.rss if event.reserved is None else event.reserved + self.overhead
                        self.memory_use.add(self.step.step, used)
                    continue
                case events.Hello():
                    self.end, self.error = None, None
                    self.phase, self.note, self.progress = "", "", None  # a resumed worker starts from its first phase
                case events.Phase():
                    self.phase, self.note, self.progress = event.name, event.note, None
                case events.Progress():
                    self.progress = event
                case events.ModelLoaded():
                    self.has_model = True
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
                case events.Eval(split="validation", when="during"):  # after training it is measured on other rows
                    self.validation.add(event.step, event.loss)
                    if event.loss is not None and (self.lowest is None or event.loss < (self.lowest.loss or 0.0)):
                        self.lowest = event
                case events.Eval(split="test", when="before"):
                    self.before = event
                case events.Eval(split="test"):
                    self.after = event
            for text in lines(event, self.overhead):
                self.log.add(text)

    def left(self, now: float | None = None) -> TimeLeft | None:
        """Estimated time until the end of the run, or of its phase; None once it has ended, or if it is not known."""
        return None if self.end is not None else self.timer.left(now)

    def best(self) -> Series:
        """A curve of one point: the validation loss of the weights that are kept, or the lowest one so far."""
        series, kept = Series(), self.selected or self.lowest
        if kept is not None:
            series.add(kept.step, kept.loss)
        return series

    def expected_peak(self) -> ExpectedPeak | None:
        """Of the worker's process: measured by the memory probe, else predicted before the first step."""
        plan = self.plan
        if plan is None or not plan.predictions:
            return None
        peaks = [(plan.predictions[-1].training, plan.predictions[-1].tier)]
        if not self.on_gpu:  # where the probe does not measure the evaluation, it is predicted
            peaks += [(tier.evaluation, tier.tier) for tier in plan.predictions if tier.evaluation is not None][-1:]
        peak, tier = max(peaks, key=lambda pair: pair[0])
        device: Device = "cuda" if self.on_gpu else "cpu"
        error = error_of("dry run" if tier == "dry run" else "formula", device).worst
        return ExpectedPeak(peak + self.overhead, tier == "probe", error)

    @property
    def training_peak(self) -> int:
        """Peak of the worker's process while it trains, as the machine pane measures it; 0 otherwise."""
        memory = self.memory
        if memory is None or not memory.training:
            return 0
        return memory.rss_peak if memory.reserved_peak is None else memory.reserved_peak + self.overhead


class ExpectedPeak(NamedTuple):
    """The peak of a run's process, in bytes."""

    bytes: int
    is_probed: bool = False
    """Measured by the memory probe before the first step; else predicted."""
    error: float = 0.0
    """Largest measured error of such predictions; of a probe, which has no measured one, the formula's."""
    parts: Mapping[str, int] = {}
    """Bytes by part, as predicted by the formula."""

    @property
    def label(self) -> str:
        return "memory probe" if self.is_probed else "predicted peak"

    @property
    def lowest(self) -> float:
        return self.bytes * (1 - self.error)

    @property
    def highest(self) -> float:
        """Bytes that the process may use if the prediction is as far off as the worst one measured."""
        return self.bytes * (1 + self.error)


MAX_UNSAMPLED = 8 << 20
"""Bytes up to which a file is read at once: some 30,000 events, 0.2 s."""
HEAD = 256 << 10
"""Bytes read at the start of a huge file: data, model, plan, scores before training."""
TAIL = 512 << 10
"""Bytes read at its end: the latest steps, scores after training, the end."""
WINDOWS, WINDOW = 400, 8 << 10
"""Number of evenly spaced samples between, and bytes of each: some 30 events for one or two columns of a chart."""


class EventLoader:
    """Reads the events of a run; the state is exact at once, or first sampled and exact later."""

    def __init__(self, path: Path, name: str = "") -> None:
        self.path, self.name = path, name
        self.follower = Follower(path)
        """Reads the events that follow those of the state."""
        self._reader, self._exact = Follower(path), RunState(name)
        self._portions: Iterator[list[Event]] | None = None

    @property
    def sampled(self) -> bool:
        """Whether only samples have been read so far."""
        return self._portions is not None

    def first(self) -> RunState:
        """The state of the run; where the file is huge, a state made of samples, with `sampled` set."""
        state, size = RunState(self.name), 0
        with contextlib.suppress(FileNotFoundError):
            size = self.path.lstat().st_size
        if size <= MAX_UNSAMPLED:
            for portion in self.follower.portions():
                state.feed(portion)
            return state
        state.sampled = True
        step = (size - HEAD - TAIL) / WINDOWS
        with open_regular(self.path) as file:
            state.feed(_events(file, 0, HEAD)[0])
            for number in range(WINDOWS):
                state.feed(_events(file, HEAD + int(number * step), WINDOW)[0])
            last, self.follower.offset = _events(file, size - TAIL, TAIL)
            state.feed(last)
        self._portions = self._reader.portions()
        return state

    def advance(self) -> RunState | None:
        """Read the next portion of a sampled run; returns the exact state once it has caught up with the follower.

        The follower then continues from there, so that no event is delivered twice.
        """
        if self._portions is None:
            return None
        portion = next(self._portions, None)
        if portion is not None:
            self._exact.feed(portion)
        if portion is not None and self._reader.offset < self.follower.offset:
            return None
        self.follower, self._portions = self._reader, None
        return self._exact


def _events(file: BinaryIO, start: int, length: int) -> tuple[list[Event], int]:
    """The complete events in a section of the file, and the offset after the last; partial lines are ignored."""
    file.seek(start)
    block = file.read(length)
    start_of_line = block.find(b"\n") + 1 if start else 0
    end = block.rfind(b"\n") + 1
    return [event for line in block[start_of_line:end].splitlines() if (event := decode(line))], start + end
