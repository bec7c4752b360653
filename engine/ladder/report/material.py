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
from engine.runs.run.events import Eval, Hello, Memory, Phase, Step
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
    table = array("d")
    """Of each step: number, tokens, seconds, answer tokens, summed loss of these."""
    evaluated: dict[int, float | None] = {}
    """Validation losses by step."""
    samples: dict[str, array[float]] = {}
    """By kind of memory: seconds and bytes of each sample in turn."""
    clock, last, waiting = 0.0, math.nan, False
    for event in stream(events_file):
        # The time axis of memory leaves out the time before a resume and the time spent waiting for the GPU.
        now = event.t if event.elapsed is None else event.elapsed
        if not (math.isnan(last) or waiting or isinstance(event, Hello)):
            clock += max(0.0, now - last)
        last = now
        if isinstance(event, Phase):
            waiting = event.name == "waiting"
        elif isinstance(event, Memory):
            for kind in MEMORY_KINDS:
                if (used := getattr(event, kind)) is not None:
                    samples.setdefault(kind, array("d")).extend((clock, used))
        elif isinstance(event, Step):
            while table and table[-5] >= event.step:  # a resumed run repeats steps
                del table[-5:]
            loss = math.nan if event.loss is None else event.loss * event.answer_tokens
            table.extend((event.step, event.tokens, event.seconds, event.answer_tokens, loss))
        elif isinstance(event, Eval) and event.split == "validation" and event.when == "during":
            evaluated[event.step] = event.loss  # a repeated evaluation replaces the earlier one
    if math.isnan(last):
        return None

    steps = np.frombuffer(table).reshape(-1, 5)
    size = _group_size(len(steps), MAX_LOSS_POINTS)
    so_far = steps[:, 1:3].cumsum(0)
    starts = np.arange(0, len(steps), size)
    ends = np.minimum(starts + size, len(steps)) - 1
    sums = np.add.reduceat(steps[:, 3:], starts, axis=0) if len(steps) else steps[:, 3:]
    means = [float(loss / weight) if weight else math.nan for weight, loss in sums]
    tokens, seconds = so_far[ends].T.tolist()
    train = LossCurve(tokens, seconds, means)
    known = {step: loss for step, loss in sorted(evaluated.items()) if loss is not None}
    before = np.vstack([np.zeros((1, 2)), so_far])[np.searchsorted(steps[:, 0], list(known), side="right")]
    tokens, seconds = before.T.tolist()
    validation = LossCurve(tokens, seconds, list(known.values()))

    memory = {}
    for kind, values in samples.items():
        points = np.frombuffer(values).reshape(-1, 2)
        length = _group_size(len(points), MAX_MEMORY_POINTS)
        groups = [points[start : start + length] for start in range(0, len(points), length)]
        seconds, peaks = np.array([group[group[:, 1].argmax()] for group in groups]).T
        memory[kind] = seconds.tolist(), peaks.tolist()
    return Trace(rung, seed, train, validation, memory, size)


def _group_size(number: int, most: int) -> int:
    """How many of `number` values are drawn as one point, a power of two, so that there are at most `most` points."""
    size = 1
    while number > size * most:
        size *= 2
    return size


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
        run, hashes, scored = source.path.parent.name, dict[int, int](), list[tuple[int, str, float]]()
        try:
            for line in read_predictions(source.path):
                hashes[line.item] = hash((line.prompt, line.target, *line.references))
                for name, answer in ((source.base, line.base), (source.rung, line.tuned)):
                    if answer and (score := value(answer, metric)) is not None:
                        scored.append((line.item, name, score))
        except FileNotFoundError:
            problems.append(f"{run} has no predictions.jsonl")
        except (OSError, ValueError) as error:
            problems.append(f"cannot read {run}/predictions.jsonl: {error}")
        else:
            if any(texts.get(item, text) != text for item, text in hashes.items()):
                problems.append(f"{run} was scored on different test items")
                continue
            readable.append(source)
            texts |= hashes
            for item, name, score in scored:
                values.setdefault(item, {}).setdefault(name, []).append(score)

    ranked = sorted(texts, key=lambda item: (*_rank(values.get(item, {})), item))[:MAX_SAMPLES]
    disagreed = sum(_rank(scores)[0] < 0 for scores in values.values()) if not metric_spec(metric).is_loss else 0
    samples: dict[int, ItemAnswers] = {}
    for source in readable:
        for line in read_predictions(source.path):
            if line.item not in ranked:
                continue
            sample = samples.setdefault(line.item, ItemAnswers(line.item, line.where, line.prompt, line.targets))
            for name, answer in ((source.base, line.base), (source.rung, line.tuned)):
                if answer:
                    sample.answers.setdefault(name, []).append(answer)
    return Samples([samples[item] for item in ranked if item in samples], len(texts), disagreed, problems)


def value(answer: ScoredItem, metric: str) -> float | None:
    """The score; nats/token if the metric is the loss."""
    if metric_spec(metric).is_loss:
        return answer.nll / answer.loss_weight if answer.loss_weight else None
    return (answer.scores or {}).get(metric)


def _rank(scores: Mapping[str, Sequence[float]]) -> tuple[float, float]:
    """Sort key: the range of the rungs' mean scores, then the range including the base models, largest first."""
    means = {name: sum(values) / len(values) for name, values in scores.items()}
    rungs = [mean for name, mean in means.items() if not is_base(name)]
    every = list(means.values())
    return min(rungs, default=0.0) - max(rungs, default=0.0), min(every, default=0.0) - max(every, default=0.0)
