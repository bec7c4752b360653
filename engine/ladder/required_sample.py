"""Test items and seeds that would show that two rungs differ, or that each is as good as the other."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from engine.runs.ladder.rung_results import NeededFor

POWER_Z: dict[NeededFor, float] = {"difference": 0.8416, "as_good": 1.2816}
"""Standard normal quantile for a power of 80 %: of 80 %, and of 90 % where both ends of the interval have to be within
the margin, each with a risk of 10 % (Chow, Shao and Wang, Sample Size Calculations in Clinical Research)."""
MAX_ITEMS = 1_000_000
"""A required number of test items above this is reported as unknown."""
MAX_SEEDS = 1000
"""The same for seeds."""


@dataclass(frozen=True)
class RequiredSample:
    """Test items and seeds that show `needed_for` with 80% power."""

    items: tuple[int | None, int | None] = (None, None)
    """For a small and a large variance between seeds; None: no realistic number is enough."""
    seeds: tuple[int | None, int | None] = (None, None)
    """The same for seeds; None if more items are enough."""
    needed_for: NeededFor = "difference"


@dataclass(frozen=True)
class ComparisonGoal:
    """What more test items and seeds would show, by excluding a value at a distance from the true difference."""

    needed_for: NeededFor
    distance: float


def comparison_goal(difference: float, margin: float | None) -> ComparisonGoal:
    """That two rungs differ, which excludes 0, or that each is as good as the other, which excludes the margin.

    A difference of less than half the margin is closer to 0 than to the margin, so the second takes fewer items.
    """
    size = abs(difference)
    if margin is not None and size < margin / 2:
        return ComparisonGoal("as_good", margin - size)
    return ComparisonGoal("difference", size)


def required_range(
    show: ComparisonGoal,
    item_variance: float,
    seed_variances: Iterable[float],
    present: tuple[int, int],
    criticals: tuple[float, float],
) -> RequiredSample:
    """`required` for a small and a large variance between seeds."""
    low, high = (
        required(show.distance, item_variance, float(variance), present, criticals, POWER_Z[show.needed_for])
        for variance in seed_variances
    )
    return RequiredSample((low[0], high[0]), (low[1], high[1]), show.needed_for) if low[0] else RequiredSample()


def required(
    distance: float,
    item_variance: float,
    seed_variance: float,
    present: tuple[int, int],
    criticals: tuple[float, float],
    power_z: float = POWER_Z["difference"],
) -> tuple[int | None, int | None]:
    """(test items, seeds) at which an interval excludes a value at this distance with 80% power.

    Seeds are None if more items are enough; else both grow, each with half of the allowed variance. Both are None if no
    realistic number is enough. Normal approximation: (critical + power_z)^2 variance <= distance^2.

    Args:
        distance: From the true difference to 0, or to the margin.
        item_variance: Variance of the paired difference of one item.
        seed_variance: Variance of the difference of one seed.
        present: Test items and seeds of the ladder.
        criticals: Half the interval's width in standard errors, with the present seeds and with many.
        power_z: Standard normal quantile of the power.
    """
    (items, seeds), (critical, many_seeds) = present, criticals
    left = (distance / (critical + power_z)) ** 2 - seed_variance / seeds
    if left > 0:
        more_items = math.ceil(item_variance / left)
        if more_items <= MAX_ITEMS:
            return max(more_items, items + 1), None
    allowed = (distance / (many_seeds + power_z)) ** 2
    more_items = max(items, math.ceil(2 * item_variance / allowed))
    more_seeds = math.ceil(seed_variance / (allowed - item_variance / more_items))
    if more_items > MAX_ITEMS or more_seeds > MAX_SEEDS:
        return None, None
    return more_items, max(more_seeds, seeds + 1)
