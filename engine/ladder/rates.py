"""The grid of learning rates to try, and the choice of the best one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.runs.ladder import LadderRun


def grid(rate: float, count: int) -> list[float]:
    """`count` rates around `rate`, half a decade apart, rounded to two digits; an even count has one more above it."""
    below = (count - 1) // 2
    rates = [_rounded(rate * 10 ** ((place - below) / 2)) if place != below else rate for place in range(count)]
    return [min(value, 1.0) for value in rates]


def choose(trials: Sequence[LadderRun]) -> LadderRun | None:
    """The trial with the lowest validation loss; None if no trial has one."""
    finished = [trial for trial in trials if trial.status == "finished" and trial.validation_loss is not None]
    return min(finished, key=lambda trial: trial.validation_loss or 0.0, default=None)


def at_the_edge(chosen: LadderRun, trials: Sequence[LadderRun]) -> bool:
    """Whether the best rate is the lowest or highest of the grid: a wider grid may have a better one."""
    rates = [trial.learning_rate for trial in trials]
    return len(rates) > 1 and chosen.learning_rate in (min(rates), max(rates))


def _rounded(value: float) -> float:
    digits = 1 - math.floor(math.log10(value))
    return round(value, digits)
