"""What earlier runs say: how good the planner has been, and how fast a method is on a machine. Reads `result.json`s."""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

from engine.config import gpu_prices
from engine.config.errors import UserError
from engine.memory.formula.memory_budget import MemoryBudget
from engine.runs import run_dir
from engine.runs.events import Step
from engine.runs.follow import stream
from engine.runs.result import Result
from engine.runs.run_dir import RunDir

ENOUGH_STEPS = 10
"""A run of fewer steps says little about speed: the first ones prepare kernels."""
NEWEST = 20
"""Runs that are looked at for speed."""

Tier = Literal["formula", "dry run", "probe"]


class PredictionError(Struct, frozen=True, kw_only=True):
    """A prediction against what was then measured: the peak of training, bytes."""

    run: str
    machine: str
    method: str
    model: str
    tier: Tier
    predicted: int
    measured: int

    @property
    def error(self) -> float:
        """predicted / measured - 1: below 0 it was too small."""
        return self.predicted / self.measured - 1


class TierAccuracy(Struct, frozen=True, kw_only=True):
    """How good one tier has been."""

    tier: Tier
    count: int
    median: float
    """Of absolute errors."""
    worst: float
    """The error that was farthest from 0, with its sign."""


class Throughput(Struct, frozen=True, kw_only=True):
    """Tokens a second, while training."""

    middle: float
    low: float
    high: float
    runs: int
    what: str
    """What the range is over."""


def prediction_errors(results: Iterable[Result]) -> list[PredictionError]:
    """Every prediction that can be held against a measurement, the oldest run first."""
    return [
        PredictionError(
            run=result.name,
            machine=str(result.machine.get("device", "")),
            method=result.method,
            model=result.model,
            tier=predicted.tier,
            predicted=predicted.training,
            measured=result.peak_training_bytes,
        )
        for result in sorted(results, key=lambda result: result.created)
        for predicted in result.predicted
        if result.peak_training_bytes
    ]


def tier_accuracy(found: Iterable[PredictionError]) -> list[TierAccuracy]:
    """One for each tier that was ever held against a measurement."""
    errors: dict[Tier, list[float]] = {}
    for one in found:
        errors.setdefault(one.tier, []).append(one.error)
    return [
        TierAccuracy(tier=tier, count=len(of), median=statistics.median(map(abs, of)), worst=max(of, key=abs))
        for tier, of in errors.items()
    ]


def results(runs: Path) -> Iterator[tuple[RunDir, Result]]:
    """Every run that has an outcome; a damaged one is passed over."""
    for run in run_dir.iterate(runs):
        try:
            result = run.result()
        except UserError:
            continue
        if result:
            yield run, result


def is_here(result: Result, room: MemoryBudget) -> bool:
    """Whether a run was made where the plan is for: on the same device, or on a card that is listed as this one."""
    device = str(result.machine.get("device", ""))
    if room.source != "listed":
        return device == room.name
    card = gpu_prices.named(device, gpu_prices.list_cards())
    return card is not None and card.name == room.name


def throughput(
    found: Iterable[tuple[RunDir, Result]], model: str, method: str, room: MemoryBudget
) -> Throughput | None:
    """From finished runs of this model and method where the plan is for, the newest; None where there are none.

    The range is over runs, and of a single run over the middle eight tenths of its steps.
    """
    alike = [
        (run, result)
        for run, result in found
        if (result.model, result.method, result.status) == (model, method, "finished")
        and result.tokens_per_second
        and is_here(result, room)
    ]
    alike = [one for one in alike if one[1].steps >= ENOUGH_STEPS] or alike
    alike = sorted(alike, key=lambda one: one[1].created)[-NEWEST:]
    if not alike:
        return None
    rates = [result.tokens_per_second or 0.0 for _, result in alike]
    if len(rates) > 1:
        return Throughput(
            middle=statistics.median(rates), low=min(rates), high=max(rates), runs=len(rates), what="runs"
        )
    events = stream(alike[0][0].events_file, Step)
    steps = sorted(array("d", (event.tokens_per_second for event in events if isinstance(event, Step))))
    low, high = (steps[len(steps) // 10], steps[-1 - len(steps) // 10]) if steps else (rates[0], rates[0])
    return Throughput(middle=rates[0], low=min(low, rates[0]), high=max(high, rates[0]), runs=1, what="its steps")


class TimeEstimate(Struct, frozen=True, kw_only=True):
    """How long a preset's steps will take on a device, and what that costs."""

    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    """Of training alone: scoring before and after comes on top."""
    cost: float | None = None
    cost_low: float | None = None
    cost_high: float | None = None
    currency: str = ""
    runs: int = 0
    """Runs it is taken from."""
    what: str = ""
    """What the range is over."""
    why: str = ""
    """Why there is no time, '' where there is one."""
    why_no_cost: str = ""


def time_estimate(speed: Throughput | None, tokens: int | None, price: float | None, currency: str) -> TimeEstimate:
    """From a pace, the tokens of all steps, and what an hour costs; each None where it is not known."""
    no_cost = "" if price is not None else "no price known: set cost.price_per_hour, or name a card"
    if speed is None:
        return TimeEstimate(
            why="no finished run of this model on this device; `ftbench run` makes one", why_no_cost=no_cost
        )
    if tokens is None:
        return TimeEstimate(why="how many tokens there are to train on is not known", why_no_cost=no_cost)
    seconds, low, high = (tokens / rate for rate in (speed.middle, speed.high, speed.low))
    cost, cost_low, cost_high = ((s * price / 3600 if price is not None else None) for s in (seconds, low, high))
    return TimeEstimate(
        seconds=seconds,
        low=low,
        high=high,
        cost=cost,
        cost_low=cost_low,
        cost_high=cost_high,
        currency=currency,
        runs=speed.runs,
        what=speed.what,
        why_no_cost=no_cost,
    )
