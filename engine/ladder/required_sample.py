"""Test items and seeds that would show that two rungs differ, or that each is as good as the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from engine.runs.ladder.rung_results import NeededFor

POWER = 0.8
"""Probability with which the required sample shows what it is for."""
MAX_ITEMS = 1_000_000
"""A required number of test items above this is reported as unknown."""
MAX_SEEDS = 1000
"""The same for seeds."""


@dataclass(frozen=True)
class RequiredSample:
    """Test items and seeds that show `needed_for` with 80% power."""

    items: int | None = None
    """None: no realistic number is enough, or only more seeds are, whose spread one seed does not show."""
    seeds: int | None = None
    """None if more items are enough."""
    needed_for: NeededFor = "difference"


@dataclass(frozen=True)
class SampleVariances:
    """What a ladder knows of the variance of a difference."""

    item: float
    """Of the paired difference of one item, over the items."""
    seed: NDArray[np.float64]
    """(P,) of the difference of one seed: equally likely values of its posterior."""
    items: int
    seeds: int
    """Present ones."""
    critical: float
    """Half the interval's width in standard errors, at the present seeds."""
    many_seeds: float
    """The same where the variance between seeds is known."""

    def power(self, distance: float, items: float, seeds: int, as_good: bool = False) -> float:
        """The probability that the interval excludes a value at this distance from the true difference, averaged over
        the posterior of the variance. With `as_good`: that it excludes the values at this distance on both sides.

        The posterior averages the power, not the variance: at its median 80% would be reached in half of all cases
        only. The critical value approaches that of a known variance as seeds are added.
        """
        critical = self.many_seeds + (self.critical - self.many_seeds) * self.seeds / seeds
        power = _normal_below(distance / np.sqrt(self.item / items + self.seed / seeds) - critical)
        return float((2 * power - 1 if as_good else power).mean())


def required_sample(difference: float, margin: float | None, known: SampleVariances) -> RequiredSample:
    """The fewest test items at the present seeds, else the fewest seeds with as many items as make both parts equal.

    The sample shows that two rungs differ: the interval of their difference excludes 0. If the difference is less than
    half the margin, it shows that each rung is as good as the other, which takes fewer items: the interval excludes the
    margin on both sides. From one seed no number of seeds follows: its spread is assumed, and with it the number would
    vary tenfold.
    """
    needed_for: NeededFor = "difference"
    distance = abs(difference)
    if margin is not None and distance < margin / 2:
        needed_for, distance = "as_good", margin - distance
    unknown = RequiredSample(needed_for=needed_for)
    if not distance:
        return unknown
    power = partial(known.power, distance, as_good=needed_for == "as_good")
    items = _fewest(lambda count: power(count, known.seeds), known.items + 1, MAX_ITEMS)
    if items is not None:
        return RequiredSample(items, None, needed_for)
    spread = float(np.median(known.seed))
    if known.seeds == 1 or not spread:
        return unknown

    def items_for(seeds: int) -> int:
        return min(MAX_ITEMS, max(known.items, math.ceil(known.item * seeds / spread)))

    seeds = _fewest(lambda count: power(items_for(count), count), known.seeds + 1, MAX_SEEDS)
    if seeds is None:
        return unknown
    items = _fewest(lambda count: power(count, seeds), known.items, items_for(seeds))
    return RequiredSample(items, seeds, needed_for)


def _fewest(power: Callable[[int], float], low: int, high: int) -> int | None:
    """The smallest number from low to high with enough power, which rises with it; None if even the largest has not."""
    if low > high or power(high) < POWER:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle + 1, high)
    return low


def _normal_below(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The standard normal distribution, to 1e-7 (Abramowitz and Stegun, 1964, 26.2.17)."""
    t = 1 / (1 + 0.2316419 * np.abs(values))
    series = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    tail = np.exp(-(values**2) / 2) / math.sqrt(2 * math.pi) * series
    return np.where(values >= 0, 1 - tail, tail)
