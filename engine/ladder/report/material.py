"""The curves of losses that a report draws, from the events of its runs."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.runs.run.event_log import stream
from engine.runs.run.events import Eval, Hello, Step

MAX_LOSS_POINTS = 100
"""Points of a training curve; with more steps, each point is a mean of several."""


Curve = tuple[list[float], list[float]]
"""Points of a loss curve: tokens trained so far, and the loss in nats/token, NaN where it is not finite."""


@dataclass(frozen=True)
class Trace:
    """The curves of one run."""

    rung: str
    train: Curve
    validation: Curve
    steps_per_point: int
    """Steps averaged in one point of the training curve."""


def trace(rung: str, events_file: Path) -> Trace | None:
    """Read the curves of a run; None if there are no events."""
    table = array("d")
    """Four numbers of each step, 32 bytes: the step, its tokens, its answer tokens, and their summed loss."""
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
    size = 1
    while len(steps) > size * MAX_LOSS_POINTS:
        size *= 2
    so_far = steps[:, 1].cumsum()
    starts = np.arange(0, len(steps), size)
    ends = np.minimum(starts + size, len(steps)) - 1
    sums = np.add.reduceat(steps[:, 2:], starts, axis=0) if len(steps) else steps[:, 2:]
    means = [float(loss / weight) if weight else math.nan for weight, loss in sums]
    known = {step: loss for step, loss in sorted(evaluated.items()) if loss is not None}
    before = np.r_[0.0, so_far][np.searchsorted(steps[:, 0], list(known), side="right")]
    return Trace(rung, (so_far[ends].tolist(), means), (before.tolist(), list(known.values())), size)
