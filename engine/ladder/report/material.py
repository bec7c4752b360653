"""What a report reads from the events of its runs: curves of losses.

Events are streamed: of a step 32 bytes are kept.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.runs.run.event_log import stream
from engine.runs.run.events import Eval, Hello, Step

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
