"""A run's curves from its events: loss by tokens and by seconds, memory by the time since it started.

Events are streamed and curves are thinned while they grow, so that a log of any length takes the same memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engine.runs.events import Eval, Event, Hello, Memory, Phase, Step
from engine.runs.follow import stream

MEANINGS = ("allocated", "reserved", "nvml_used", "rss")
"""Of memory: tensors, torch's pool, the card by everybody, the process."""
POINTS = 100
"""Of a curve that are drawn at most; more steps are averaged in portions."""
SAMPLES = 240
"""Of a memory trace that are drawn at most; of more the highest in each portion."""


@dataclass(frozen=True)
class Curve:
    """A loss over the training; all lists are alike long."""

    tokens: list[float] = field(default_factory=list)
    """Trained so far."""
    seconds: list[float] = field(default_factory=list)
    """In optimizer steps so far."""
    loss: list[float] = field(default_factory=list)
    """Nats a token; NaN where the run found no finite loss."""


@dataclass(frozen=True)
class Trace:
    """The course of one run."""

    rung: str
    seed: int
    train: Curve
    validation: Curve
    memory: dict[str, tuple[list[float], list[float]]]
    """By meaning: (seconds since the run began, bytes)."""
    portion: int = 1
    """Steps behind one point of the training curve."""


def trace(rung: str, seed: int, events_file: Path) -> Trace | None:
    """The run's course, None where there are no events."""
    lasting, losses, memory = _Lasting(events_file), _Losses(), _MemoryTrace()
    empty = True
    for event in stream(events_file):
        empty = False
        memory.add(event)
        if isinstance(event, Step):
            if lasting.lasts(event.step):
                losses.step(event)
        elif isinstance(event, Eval) and event.split == "validation" and event.when == "during":
            losses.evaluated(event)
    return None if empty else Trace(rung, seed, *losses.curves(), memory.traces(), losses.portion)


class _Lasting:
    """Which of the steps in a log last: one that is done again later, after a kill, does not count."""

    def __init__(self, events_file: Path) -> None:
        starts, last = [], None
        for event in stream(events_file, Step):
            if isinstance(event, Step):
                if last is None or event.step <= last:
                    starts.append(event.step)
                last = event.step
        self._limits = list(_limits(starts))
        self._last: int | None = None
        self._sequence = -1

    def lasts(self, step: int) -> bool:
        """Called with every step in the order of the log."""
        if self._last is None or step <= self._last:
            self._sequence += 1
        self._last = step
        return step < self._limits[min(self._sequence, len(self._limits) - 1)]


def _limits(starts: list[int]) -> Iterator[float]:
    """For each sequence of steps the first step that a later one does again."""
    for number in range(len(starts)):
        yield min(starts[number + 1 :], default=math.inf)


@dataclass
class _Portion:
    """Consecutive steps, summed up."""

    steps: int = 0
    tokens: float = 0.0
    seconds: float = 0.0
    weight: int = 0
    loss: float = 0.0
    """Times the answer tokens; NaN where one of the losses is not known."""

    def add(self, other: _Portion) -> None:
        self.steps, self.weight = self.steps + other.steps, self.weight + other.weight
        self.tokens, self.seconds = self.tokens + other.tokens, self.seconds + other.seconds
        self.loss += other.loss


class _Losses:
    """Sums up portions of steps; twice as long ones when there are too many."""

    def __init__(self) -> None:
        self.portion = 1
        self._portions: list[_Portion] = []
        self._tokens, self._seconds = 0.0, 0.0
        self._evaluated: dict[int, tuple[float, float, float | None]] = {}

    def step(self, event: Step) -> None:
        self._tokens, self._seconds = self._tokens + event.tokens, self._seconds + event.seconds
        loss = math.nan if event.loss is None else event.loss * event.answer_tokens
        one = _Portion(1, event.tokens, event.seconds, event.answer_tokens, loss)
        if self._portions and self._portions[-1].steps < self.portion:
            self._portions[-1].add(one)
            return
        if len(self._portions) == POINTS:
            self._halve()
        self._portions.append(one)

    def _halve(self) -> None:
        merged = self._portions[::2]
        for kept, other in zip(merged, self._portions[1::2], strict=False):
            kept.add(other)
        self._portions, self.portion = merged, 2 * self.portion

    def evaluated(self, event: Eval) -> None:
        """The same step measured again takes the place of the first."""
        self._evaluated[event.step] = (self._tokens, self._seconds, event.loss)

    def curves(self) -> tuple[Curve, Curve]:
        """Of training, at most POINTS means weighted by answer tokens, and of validation."""
        train, validation, tokens, seconds = Curve(), Curve(), 0.0, 0.0
        for part in self._portions:
            tokens, seconds = tokens + part.tokens, seconds + part.seconds
            train.tokens.append(tokens)
            train.seconds.append(seconds)
            train.loss.append(part.loss / part.weight if part.weight else math.nan)
        for _, (tokens, seconds, loss) in sorted(self._evaluated.items()):
            if loss is not None:
                validation.tokens.append(tokens)
                validation.seconds.append(seconds)
                validation.loss.append(loss)
        return train, validation


class _MemoryTrace:
    """By meaning; the time between two lives of a run and the time it waited for the GPU do not count."""

    def __init__(self) -> None:
        self._clock = 0.0
        self._last: float | None = None
        self._waiting = False
        self._found: dict[str, _Peaks] = {}

    def add(self, event: Event) -> None:
        moment = event.t if event.elapsed is None else event.elapsed
        if self._last is not None and not (self._waiting or isinstance(event, Hello)):
            self._clock += max(0.0, moment - self._last)
        self._last = moment
        if isinstance(event, Phase):
            self._waiting = event.name == "waiting"
        elif isinstance(event, Memory):
            for meaning in MEANINGS:
                if (value := getattr(event, meaning)) is not None:
                    self._found.setdefault(meaning, _Peaks()).add(self._clock, float(value))

    def traces(self) -> dict[str, tuple[list[float], list[float]]]:
        return {meaning: peaks.points() for meaning, peaks in self._found.items()}


class _Peaks:
    """At most SAMPLES points: of each portion the highest, so that no peak is lost."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []
        self._portion, self._in_last = 1, 0

    def add(self, x: float, y: float) -> None:
        if self._points and self._in_last < self._portion:
            self._points[-1] = max(self._points[-1], (x, y), key=lambda point: point[1])
            self._in_last += 1
            return
        if len(self._points) == SAMPLES:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [max(pair, key=lambda point: point[1]) for pair in pairs]
            self._portion *= 2
        self._points.append((x, y))
        self._in_last = 1

    def points(self) -> tuple[list[float], list[float]]:
        """Seconds and bytes."""
        return [x for x, _ in self._points], [y for _, y in self._points]
