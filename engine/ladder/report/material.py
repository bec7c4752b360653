"""What a report reads from the directories of its runs: curves from events, and test items with their answers.

Events are streamed: of a step 32 bytes are kept.
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
from engine.runs.run.events import Eval, Hello, Step
from engine.runs.run.predictions import ScoredItem, read_predictions

MAX_LOSS_POINTS = 100
"""Points of a training curve; with more steps, each point is a mean of several."""


@dataclass(frozen=True)
class LossCurve:
    """A loss over training; all lists have the same length."""

    tokens: list[float] = field(default_factory=list)
    """Tokens trained so far."""
    loss: list[float] = field(default_factory=list)
    """Nats/token; NaN where the loss is not finite."""


@dataclass(frozen=True)
class Trace:
    """The curves of one run."""

    rung: str
    seed: int
    train: LossCurve
    validation: LossCurve
    steps_per_point: int = 1
    """Steps averaged in one point of the training curve."""


def trace(rung: str, seed: int, events_file: Path) -> Trace | None:
    """Read the curves of a run; None if there are no events."""
    table = array("d")
    """Of each step: number, tokens, answer tokens, summed loss of these."""
    evaluated: dict[int, float | None] = {}
    """Validation losses by step."""
    has_events = False
    for event in stream(events_file, Hello, Step, Eval):
        has_events = True
        if isinstance(event, Step):
            while table and table[-4] >= event.step:  # a resumed run repeats steps
                del table[-4:]
            loss = math.nan if event.loss is None else event.loss * event.answer_tokens
            table.extend((event.step, event.tokens, event.answer_tokens, loss))
        elif isinstance(event, Eval) and event.split == "validation" and event.when == "during":
            evaluated[event.step] = event.loss  # a repeated evaluation replaces the earlier one
    if not has_events:
        return None

    steps = np.frombuffer(table).reshape(-1, 4)
    size = _group_size(len(steps), MAX_LOSS_POINTS)
    so_far = steps[:, 1].cumsum()
    starts = np.arange(0, len(steps), size)
    ends = np.minimum(starts + size, len(steps)) - 1
    sums = np.add.reduceat(steps[:, 2:], starts, axis=0) if len(steps) else steps[:, 2:]
    means = [float(loss / weight) if weight else math.nan for weight, loss in sums]
    known = {step: loss for step, loss in sorted(evaluated.items()) if loss is not None}
    before = np.r_[0.0, so_far][np.searchsorted(steps[:, 0], list(known), side="right")]
    validation = LossCurve(before.tolist(), list(known.values()))
    return Trace(rung, seed, LossCurve(so_far[ends].tolist(), means), validation, size)


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
