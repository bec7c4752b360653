"""The grid of learning rates to try, and the choice of the best one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.config.method_specs import method_spec
from engine.runs.ladder import LadderEntry
from engine.runs.rungs import REDUCTION, LadderPlan, round_sizes

MIN_STEPS = 4
"""The shortest trial, in optimizer steps."""


def rate_grid(rate: float, count: int) -> list[float]:
    """`count` rates around `rate`, half a decade apart, rounded to two digits; an even count has one more above it."""
    below = (count - 1) // 2
    rates = [_rounded(rate * 10 ** ((place - below) / 2)) if place != below else rate for place in range(count)]
    return [min(value, 1.0) for value in rates]


def halving_rounds(count: int, steps: int) -> list[tuple[int, int | None]]:
    """(rates, steps of a trial) of each round of successive halving; None: all steps, as in the last round.

    A third of the rates, at least two, is left after each round, whose trials are three times as long as those before
    (Jamieson and Talwalkar 2016, arXiv:1502.07943). Up to three rates are compared in one round of complete trials.
    """
    sizes = round_sizes(count)
    shares = [REDUCTION ** (len(sizes) - 1 - number) for number in range(len(sizes))]
    lengths = [None if share == 1 else max(MIN_STEPS, steps // share) for share in shares]
    return list(zip(sizes, lengths, strict=True))


def best_rates(trials: Sequence[LadderEntry], count: int) -> list[float]:
    """The rates of the trials with the lowest validation losses, the best first."""
    finished = [trial for trial in trials if trial.status == "finished" and trial.validation_loss is not None]
    finished.sort(key=lambda trial: trial.validation_loss or 0.0)
    return [trial.learning_rate for trial in finished[:count]]


def best_trial(trials: Sequence[LadderEntry]) -> LadderEntry | None:
    """The trial with the lowest validation loss; None if no trial has one."""
    finished = [trial for trial in trials if trial.status == "finished" and trial.validation_loss is not None]
    return min(finished, key=lambda trial: trial.validation_loss or 0.0, default=None)


def is_grid_edge(chosen: float, rates: Sequence[float]) -> bool:
    """Whether the best rate is the lowest or highest of the grid: a wider grid may have a better one."""
    return len(rates) > 1 and chosen in (min(rates), max(rates))


def _rounded(value: float) -> float:
    digits = 1 - math.floor(math.log10(value))
    return round(value, digits)


def equal_rates_warning(plan: LadderPlan) -> str:
    """A warning where methods that need different learning rates get the same one; '' otherwise."""
    rates = {rung.config.train.learning_rate for rung in plan.rungs}
    kinds = {method_spec(rung.method).trains for rung in plan.rungs}
    if len(kinds) > 1 and len(rates) == 1 and plan.learning_rates == 1:
        return "all rungs use the same learning rate: full fine-tuning needs about a tenth of LoRA's"
    return ""
