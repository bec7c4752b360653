"""What a report reads from the directories of its runs: curves from events, and test items with their answers.

Events are streamed: of a step 40 bytes are kept, of a memory sample 16.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.config.metric_specs import metric_spec
from engine.runs.ladder.ladder_state import is_base
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
    steps, memory = _TrainedSteps(), _MemoryTrace()
    empty = True
    for event in stream(events_file):
        empty = False
        memory.add(event)
        if isinstance(event, Step):
            steps.add(event)
        elif isinstance(event, Eval) and event.split == "validation" and event.when == "during":
            steps.evaluated[event.step] = event.loss  # a repeated evaluation replaces the earlier one
    return None if empty else Trace(rung, seed, *steps.curves(), memory.traces(), steps.per_point)


def _group_size(number: int, most: int) -> int:
    """How many of `number` values are drawn as one point, a power of two, so that there are at most `most` points."""
    size = 1
    while number > size * most:
        size *= 2
    return size


class _TrainedSteps:
    """The steps of a run, five numbers each, and its validation losses by step."""

    def __init__(self) -> None:
        self._values = array("d")
        self.evaluated: dict[int, float | None] = {}

    def add(self, event: Step) -> None:
        """Add a step. A resumed run repeats steps: those from before are dropped."""
        while self._values and self._values[-5] >= event.step:
            del self._values[-5:]
        loss = math.nan if event.loss is None else event.loss * event.answer_tokens
        self._values.extend((event.step, event.tokens, event.seconds, event.answer_tokens, loss))

    @property
    def per_point(self) -> int:
        """Steps averaged in one point of the training curve."""
        return _group_size(len(self._values) // 5, MAX_LOSS_POINTS)

    def curves(self) -> tuple[LossCurve, LossCurve]:
        """(training, validation); training has at most MAX_LOSS_POINTS means, weighted by answer tokens."""
        table = np.frombuffer(self._values).reshape(-1, 5)
        steps, (tokens, seconds) = table[:, 0], table[:, 1:3].cumsum(0).T
        starts = np.arange(0, len(table), self.per_point)
        ends = np.minimum(starts + self.per_point, len(table)) - 1
        sums = np.add.reduceat(table[:, 3:], starts, axis=0) if len(table) else table[:, 3:]
        losses = [float(loss / weight) if weight else math.nan for weight, loss in sums]
        known = {step: loss for step, loss in sorted(self.evaluated.items()) if loss is not None}
        at = np.searchsorted(steps, list(known), side="right")
        before = np.vstack([np.zeros((1, 2)), table[:, 1:3].cumsum(0)])[at]
        validation = LossCurve(before[:, 0].tolist(), before[:, 1].tolist(), list(known.values()))
        return LossCurve(tokens[ends].tolist(), seconds[ends].tolist(), losses), validation


class _MemoryTrace:
    """Memory by kind, without the time before a run was resumed and the time it waited for the GPU."""

    def __init__(self) -> None:
        self._clock = 0.0
        self._last: float | None = None
        self._waiting = False
        self._samples: dict[str, array[float]] = {}
        """By kind: seconds and bytes of each sample in turn."""

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
                    self._samples.setdefault(kind, array("d")).extend((self._clock, value))

    def traces(self) -> dict[str, tuple[list[float], list[float]]]:
        """By kind (seconds, bytes) of at most MAX_MEMORY_POINTS points, each the highest of a group."""
        traces = {}
        for kind, values in self._samples.items():
            samples = np.frombuffer(values).reshape(-1, 2)
            size = _group_size(len(samples), MAX_MEMORY_POINTS)
            groups = [samples[start : start + size] for start in range(0, len(samples), size)]
            seconds, peaks = np.array([group[group[:, 1].argmax()] for group in groups]).T
            traces[kind] = seconds.tolist(), peaks.tolist()
        return traces


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


def collect_samples(sources: Sequence[PredictionSource], metric: str) -> Samples:
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
    samples = _texts(readable, set(ranked[:MAX_SAMPLES]))
    disagreed = sum(_rank(scores)[0] < 0 for scores in values.values()) if not metric_spec(metric).is_loss else 0
    return Samples([samples[item] for item in ranked[:MAX_SAMPLES] if item in samples], len(texts), disagreed, problems)


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
