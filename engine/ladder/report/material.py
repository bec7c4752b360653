"""What a report reads from the directories of its runs: curves from events, and test items with their answers.

Events are streamed and curves are thinned as they grow, so that memory does not depend on the length of the log.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.config.metric_specs import metric_spec
from engine.runs.ladder.rungs import is_base
from engine.runs.run.event_log import stream
from engine.runs.run.events import Eval, Event, Hello, Memory, Phase, Step
from engine.runs.run.predictions import ScoredItem, read_predictions

MEMORY_KINDS = ("allocated", "reserved", "nvml_used", "rss")
"""Allocated by tensors, reserved by PyTorch, used on the GPU by all processes, resident memory of the process."""
MAX_LOSS_POINTS = 100
"""Points of a training curve; with more steps, each point is a mean of several."""
MAX_MEMORY_POINTS = 240
"""Points of a memory curve; with more samples, each point is the highest of several."""


@dataclass(frozen=True)
class LossCurve:
    """A loss over training; all lists have the same length."""

    tokens: list[float] = field(default_factory=list)
    """Tokens trained so far."""
    seconds: list[float] = field(default_factory=list)
    """Seconds in optimizer steps so far."""
    loss: list[float] = field(default_factory=list)
    """Nats/token; NaN where the loss is not finite."""


@dataclass(frozen=True)
class Trace:
    """The curves of one run."""

    rung: str
    seed: int
    train: LossCurve
    validation: LossCurve
    memory: dict[str, tuple[list[float], list[float]]]
    """By kind: (seconds since the start of the run, bytes)."""
    steps_per_point: int = 1
    """Steps averaged in one point of the training curve."""


def trace(rung: str, seed: int, events_file: Path) -> Trace | None:
    """Read the curves of a run; None if there are no events."""
    final_steps, losses, memory = _FinalSteps(events_file), _Losses(), _MemoryTrace()
    empty = True
    for event in stream(events_file):
        empty = False
        memory.add(event)
        if isinstance(event, Step):
            if final_steps.counts(event.step):
                losses.step(event)
        elif isinstance(event, Eval) and event.split == "validation" and event.when == "during":
            losses.evaluated(event)
    return None if empty else Trace(rung, seed, *losses.curves(), memory.traces(), losses.steps_per_point)


class _FinalSteps:
    """Which steps in a log count: a step that was repeated after resuming counts only the last time."""

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

    def counts(self, step: int) -> bool:
        """Whether this step counts. Call it with every step in the order of the log."""
        if self._last is None or step <= self._last:
            self._sequence += 1
        self._last = step
        return step < self._limits[min(self._sequence, len(self._limits) - 1)]


def _limits(starts: list[int]) -> Iterator[float]:
    """For each sequence of steps: the first step that a later sequence repeats."""
    for number in range(len(starts)):
        yield min(starts[number + 1 :], default=math.inf)


@dataclass
class _StepSum:
    """Sums over consecutive steps."""

    steps: int = 0
    tokens: float = 0.0
    seconds: float = 0.0
    weight: int = 0
    loss: float = 0.0
    """Weighted by answer tokens; NaN if one of the losses is unknown."""

    def add(self, other: _StepSum) -> None:
        self.steps, self.weight = self.steps + other.steps, self.weight + other.weight
        self.tokens, self.seconds = self.tokens + other.tokens, self.seconds + other.seconds
        self.loss += other.loss


class _Losses:
    """Sums over groups of steps; the groups double in size when there are too many."""

    def __init__(self) -> None:
        self.steps_per_point = 1
        self._groups: list[_StepSum] = []
        self._tokens, self._seconds = 0.0, 0.0
        self._evaluated: dict[int, tuple[float, float, float | None]] = {}

    def step(self, event: Step) -> None:
        self._tokens, self._seconds = self._tokens + event.tokens, self._seconds + event.seconds
        loss = math.nan if event.loss is None else event.loss * event.answer_tokens
        step = _StepSum(1, event.tokens, event.seconds, event.answer_tokens, loss)
        if self._groups and self._groups[-1].steps < self.steps_per_point:
            self._groups[-1].add(step)
            return
        if len(self._groups) == MAX_LOSS_POINTS:
            self._halve()
        self._groups.append(step)

    def _halve(self) -> None:
        merged = self._groups[::2]
        for group, other in zip(merged, self._groups[1::2], strict=False):
            group.add(other)
        self._groups, self.steps_per_point = merged, 2 * self.steps_per_point

    def evaluated(self, event: Eval) -> None:
        """A repeated evaluation of a step replaces the earlier one."""
        self._evaluated[event.step] = (self._tokens, self._seconds, event.loss)

    def curves(self) -> tuple[LossCurve, LossCurve]:
        """(training, validation); training has at most MAX_LOSS_POINTS means, weighted by answer tokens."""
        train, validation, tokens, seconds = LossCurve(), LossCurve(), 0.0, 0.0
        for group in self._groups:
            tokens, seconds = tokens + group.tokens, seconds + group.seconds
            train.tokens.append(tokens)
            train.seconds.append(seconds)
            train.loss.append(group.loss / group.weight if group.weight else math.nan)
        for _, (tokens, seconds, loss) in sorted(self._evaluated.items()):
            if loss is not None:
                validation.tokens.append(tokens)
                validation.seconds.append(seconds)
                validation.loss.append(loss)
        return train, validation


class _MemoryTrace:
    """Memory by kind, without the time before a run was resumed and the time it waited for the GPU."""

    def __init__(self) -> None:
        self._clock = 0.0
        self._last: float | None = None
        self._waiting = False
        self._peaks: dict[str, _Peaks] = {}

    def add(self, event: Event) -> None:
        now = event.t if event.elapsed is None else event.elapsed
        if self._last is not None and not (self._waiting or isinstance(event, Hello)):
            self._clock += max(0.0, now - self._last)
        self._last = now
        if isinstance(event, Phase):
            self._waiting = event.name == "waiting"
        elif isinstance(event, Memory):
            for kind in MEMORY_KINDS:
                if (value := getattr(event, kind)) is not None:
                    self._peaks.setdefault(kind, _Peaks()).add(self._clock, float(value))

    def traces(self) -> dict[str, tuple[list[float], list[float]]]:
        return {kind: peaks.points() for kind, peaks in self._peaks.items()}


class _Peaks:
    """At most MAX_MEMORY_POINTS points, each the highest of a group, so that no peak is lost."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []
        self._group_size, self._in_last = 1, 0

    def add(self, x: float, y: float) -> None:
        if self._points and self._in_last < self._group_size:
            self._points[-1] = max(self._points[-1], (x, y), key=lambda point: point[1])
            self._in_last += 1
            return
        if len(self._points) == MAX_MEMORY_POINTS:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [max(pair, key=lambda point: point[1]) for pair in pairs]
            self._group_size *= 2
        self._points.append((x, y))
        self._in_last = 1

    def points(self) -> tuple[list[float], list[float]]:
        """(seconds, bytes)."""
        return [x for x, _ in self._points], [y for _, y in self._points]


MAX_SAMPLES = 30
"""Test items in a report."""


@dataclass(frozen=True)
class PredictionSource:
    """The predictions of a run: of which rung, and of which base model."""

    rung: str
    base: str
    """Row of the answers from before training: `base` or `base-4bit`."""
    path: Path


@dataclass
class ItemAnswers:
    """A test item with the answers by rung or base model, one per seed in the order of the runs."""

    item: int
    where: str
    prompt: str
    targets: list[str]
    """All accepted answers."""
    answers: dict[str, list[ScoredItem]] = field(default_factory=dict)


@dataclass(frozen=True)
class Samples:
    """The test items that a report shows."""

    shown: list[ItemAnswers]
    items: int = 0
    """Number of test items."""
    disagreed: int = 0
    """Items on which the rungs' mean scores differ."""
    problems: list[str] = field(default_factory=list)


def collect_samples(sources: Sequence[PredictionSource], metric: str, limit: int = MAX_SAMPLES) -> Samples:
    """Collect the items of all runs. Reads the files twice: the scores of all items, then the texts of those shown."""
    values: dict[int, dict[str, list[float]]] = {}
    texts: dict[int, int] = {}
    problems: list[str] = []
    readable = []
    for source in sources:
        name = source.path.parent.name
        try:
            items = _scan(source, metric)
        except FileNotFoundError:
            problems.append(f"{name} has no predictions.jsonl")
        except (OSError, ValueError) as error:
            problems.append(f"cannot read {name}/predictions.jsonl: {error}")
        else:
            if any(texts.get(item, text) != text for item, (text, _) in items.items()):
                problems.append(f"{name} was scored on different test items")
                continue
            readable.append(source)
            for item, (text, scores) in items.items():
                texts[item] = text
                for name, score in scores.items():
                    values.setdefault(item, {}).setdefault(name, []).append(score)
    ranked = sorted(texts, key=lambda item: (*_rank(values.get(item, {})), item))
    samples = _texts(readable, set(ranked[:limit]))
    disagreed = sum(_rank(scores)[0] < 0 for scores in values.values()) if not metric_spec(metric).is_loss else 0
    return Samples([samples[item] for item in ranked[:limit] if item in samples], len(texts), disagreed, problems)


def value(answer: ScoredItem, metric: str) -> float | None:
    """The score; nats/token if the metric is the loss."""
    if metric_spec(metric).is_loss:
        return answer.nll / answer.loss_weight if answer.loss_weight else None
    return (answer.scores or {}).get(metric)


def _scan(source: PredictionSource, metric: str) -> dict[int, tuple[int, dict[str, float]]]:
    """One file: item -> (hash of its texts, row name -> score)."""
    items = {}
    for line in read_predictions(source.path):
        answers = {source.base: line.base, source.rung: line.tuned}
        scores = {name: value(answer, metric) for name, answer in answers.items() if answer}
        known = {name: score for name, score in scores.items() if score is not None}
        items[line.item] = hash((line.prompt, line.target, *line.references)), known
    return items


def _rank(scores: Mapping[str, Sequence[float]]) -> tuple[float, float]:
    """Sort key: the range of the rungs' mean scores, then the range including the base models, largest first."""
    means = {name: sum(values) / len(values) for name, values in scores.items()}
    rungs = [mean for name, mean in means.items() if not is_base(name)]
    return -_range(rungs), -_range(list(means.values()))


def _range(numbers: Sequence[float]) -> float:
    return max(numbers) - min(numbers) if numbers else 0.0


def _texts(sources: Sequence[PredictionSource], items: set[int]) -> dict[int, ItemAnswers]:
    samples: dict[int, ItemAnswers] = {}
    for source in sources:
        for line in read_predictions(source.path):
            if line.item not in items:
                continue
            sample = samples.setdefault(line.item, ItemAnswers(line.item, line.where, line.prompt, line.targets))
            for name, answer in ((source.base, line.base), (source.rung, line.tuned)):
                if answer:
                    sample.answers.setdefault(name, []).append(answer)
    return samples
