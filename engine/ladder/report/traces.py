"""What a run's events say over its course: loss by tokens and by seconds, memory by the time since it began."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.contract.events import Eval, Event, Hello, Memory, Phase, Step
from engine.contract.follow import Follower

MEANINGS = ("allocated", "reserved", "nvml_used", "rss")
"""Of memory: tensors, torch's pool, the card by everybody, the process."""
POINTS = 100
"""Of a curve that are drawn; more steps are averaged in portions."""
SAMPLES = 240
"""Of a memory trace that are drawn; of more the highest in each portion."""


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
    events = Follower(events_file).read()
    if not events:
        return None
    steps = list({event.step: event for event in events if isinstance(event, Step)}.values())
    steps.sort(key=lambda step: step.step)  # one done twice after a kill counts once, as it went the last time
    train, portion = _train_curve(steps)
    return Trace(rung, seed, train, _validation_curve(steps, events), _memory(events), portion)


def _train_curve(steps: Sequence[Step]) -> tuple[Curve, int]:
    """(at most POINTS means weighted by answer tokens, steps in each)."""
    curve, tokens, seconds = Curve(), 0.0, 0.0
    portion = max(1, math.ceil(len(steps) / POINTS))
    for start in range(0, len(steps), portion):
        part = steps[start : start + portion]
        tokens += sum(step.tokens for step in part)
        seconds += sum(step.seconds for step in part)
        weight = sum(step.answer_tokens for step in part)
        known = all(step.loss is not None for step in part) and weight > 0
        curve.tokens.append(tokens)
        curve.seconds.append(seconds)
        curve.loss.append(sum((step.loss or 0.0) * step.answer_tokens for step in part) / weight if known else math.nan)
    return curve, portion


def _validation_curve(steps: Sequence[Step], events: Sequence[Event]) -> Curve:
    """Held-out losses where they were measured."""
    losses = {e.step: e.loss for e in events if isinstance(e, Eval) and e.split == "validation"}
    curve, tokens, seconds = Curve(), 0.0, 0.0
    for step in steps:
        tokens, seconds = tokens + step.tokens, seconds + step.seconds
        if (loss := losses.get(step.step)) is not None:
            curve.tokens.append(tokens)
            curve.seconds.append(seconds)
            curve.loss.append(loss)
    return curve


def _memory(events: Sequence[Event]) -> dict[str, tuple[list[float], list[float]]]:
    """By meaning; the time between two lives of a run and the time it waited for the card do not count."""
    clock, last, waiting = 0.0, events[0].t, False
    found: dict[str, list[tuple[float, float]]] = {}
    for event in events:
        if not (waiting or isinstance(event, Hello)):
            clock += max(0.0, event.t - last)
        last = event.t
        if isinstance(event, Phase):
            waiting = event.name == "waiting"
        elif isinstance(event, Memory):
            for meaning in MEANINGS:
                if (value := getattr(event, meaning)) is not None:
                    found.setdefault(meaning, []).append((clock, float(value)))
    return {meaning: _peaks(points) for meaning, points in found.items()}


def _peaks(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """At most SAMPLES points: of each portion the highest, so that no peak is lost."""
    portion = max(1, math.ceil(len(points) / SAMPLES))
    kept = [max(points[start : start + portion], key=lambda p: p[1]) for start in range(0, len(points), portion)]
    return [x for x, _ in kept], [y for _, y in kept]
