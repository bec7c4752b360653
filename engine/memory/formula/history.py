"""Evaluate earlier runs: errors of memory predictions, and throughput of a method on a device."""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

from engine.config import gpu_prices
from engine.config.errors import UserError
from engine.memory.formula.memory_budget import MemoryBudget
from engine.runs.run.event_log import stream
from engine.runs.run.events import Step
from engine.runs.run.result import Result
from engine.runs.run.run_dir import RunDir

ENOUGH_STEPS = 10
"""Shorter runs are used for throughput only if there is no other: their first steps prepare kernels."""
MAX_RUNS = 20
"""Number of latest runs used for throughput."""

PredictionTier = Literal["formula", "dry run", "probe"]


class PredictionError(Struct, frozen=True, kw_only=True):
    """A predicted and a measured peak of training, in bytes."""

    run: str
    machine: str
    method: str
    model: str
    tier: PredictionTier
    predicted: int
    measured: int

    @property
    def error(self) -> float:
        """predicted / measured - 1; negative if the prediction was too small."""
        return self.predicted / self.measured - 1


class TierAccuracy(Struct, frozen=True, kw_only=True):
    """Errors of one tier."""

    tier: PredictionTier
    count: int
    median: float
    """Median of absolute errors."""
    worst: float
    """The error with the largest absolute value, with its sign."""


class Throughput(Struct, frozen=True, kw_only=True):
    """Training throughput in tokens/s."""

    middle: float
    low: float
    high: float
    runs: int
    what: str
    """What low and high are taken over."""


def prediction_errors(results: Iterable[Result]) -> list[PredictionError]:
    """All predictions with a measurement, oldest run first."""
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


def tier_accuracy(predictions: Iterable[PredictionError]) -> list[TierAccuracy]:
    """Errors by tier, for tiers with at least one measurement."""
    errors: dict[PredictionTier, list[float]] = {}
    for prediction in predictions:
        errors.setdefault(prediction.tier, []).append(prediction.error)
    return [
        TierAccuracy(tier=tier, count=len(of), median=statistics.median(map(abs, of)), worst=max(of, key=abs))
        for tier, of in errors.items()
    ]


def results(runs: Path) -> Iterator[tuple[RunDir, Result]]:
    """All runs with a result; damaged ones are skipped."""
    for run in RunDir.iterate(runs):
        try:
            result = run.result()
        except UserError:
            continue
        if result:
            yield run, result


def is_here(result: Result, budget: MemoryBudget) -> bool:
    """Whether a run used the planned device: the same device, or the GPU model of the price list."""
    device = str(result.machine.get("device", ""))
    if budget.source != "listed":
        return device == (budget.recorded_name or budget.name)
    gpu = gpu_prices.find_gpu(device, gpu_prices.list_gpus())
    return gpu is not None and gpu.name == budget.name


def throughput(
    runs: Iterable[tuple[RunDir, Result]], model: str, method: str, budget: MemoryBudget
) -> Throughput | None:
    """Throughput of the latest finished runs of this model and method on the planned device; None without such runs.

    Low and high are over runs; for a single run, the 10th and 90th percentile of its steps.
    """
    matching = [
        (run, result)
        for run, result in runs
        if (result.model, result.method, result.status) == (model, method, "finished")
        and result.tokens_per_second
        and is_here(result, budget)
    ]
    matching = [pair for pair in matching if pair[1].steps >= ENOUGH_STEPS] or matching
    matching = sorted(matching, key=lambda pair: pair[1].created)[-MAX_RUNS:]
    if not matching:
        return None
    rates = [result.tokens_per_second or 0.0 for _, result in matching]
    if len(rates) > 1:
        return Throughput(
            middle=statistics.median(rates), low=min(rates), high=max(rates), runs=len(rates), what="runs"
        )
    events = stream(matching[0][0].events_file, Step)
    steps = sorted(array("d", (event.tokens_per_second for event in events if isinstance(event, Step))))
    low, high = (steps[len(steps) // 10], steps[-1 - len(steps) // 10]) if steps else (rates[0], rates[0])
    return Throughput(middle=rates[0], low=min(low, rates[0]), high=max(high, rates[0]), runs=1, what="its steps")


class TimeEstimate(Struct, frozen=True, kw_only=True):
    """Predicted duration and cost of training on a device."""

    seconds: float | None = None
    """Median duration of training; evaluation before and after is not included. None if unknown."""
    low: float | None = None
    """Shortest duration."""
    high: float | None = None
    """Longest duration."""
    cost: float | None = None
    """Median, at the price per hour, in `currency`."""
    cost_low: float | None = None
    """Lowest cost."""
    cost_high: float | None = None
    """Highest cost."""
    currency: str = ""
    """ISO 4217 code."""
    runs: int = 0
    """Number of runs it is based on."""
    what: str = ""
    """What low and high are taken over."""
    why: str = ""
    """Why there is no duration; '' if there is one."""
    at_least: float | None = None
    """Without a duration: a lower bound in seconds (`roofline`), if known."""
    why_no_cost: str = ""
    """Why there is no cost; '' if there is one."""


def time_estimate(
    speed: Throughput | None,
    tokens: int | None,
    price: float | None,
    currency: str,
    bound: Callable[[], float | None] = lambda: None,
) -> TimeEstimate:
    """Duration and cost from throughput, number of tokens and price per hour, each None if unknown.

    `bound`: a lower bound in seconds, for a model without throughput.
    """
    no_cost = "" if price is not None else "unknown price: `--set cost.price_per_hour=PRICE`, or name a GPU"
    if speed is None:
        why = "no finished run of this model on this device; start one with `ftbench run`"
        return TimeEstimate(why=why, at_least=bound(), why_no_cost=no_cost)
    if tokens is None:
        return TimeEstimate(why="unknown number of training tokens", why_no_cost=no_cost)
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
