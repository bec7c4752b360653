"""Test items and seeds that would decide a comparison, if the observed difference is the true one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine.runs.rung_results import Decision

POWER_Z: dict[Decision, float] = {"difference": 0.8416, "as_good": 1.2816}
"""Standard normal quantile for a power of 80 %: of 80 %, and of 90 % where both ends of the interval have to be within
the margin, each with a risk of 10 % (Chow, Shao and Wang, Sample Size Calculations in Clinical Research)."""
MAX_ITEMS = 1_000_000
"""A required number of test items above this is reported as unknown."""
MAX_SEEDS = 1000
"""The same for seeds."""


@dataclass(frozen=True)
class RequiredSample:
    """Test items and seeds at which a comparison is decided with 80% power."""

    items: tuple[int | None, int | None] = (None, None)
    """For a small and a large variance between seeds; None: no realistic number is enough."""
    seeds: tuple[int | None, int | None] = (None, None)
    """The same for seeds; None if more items are enough."""
    decision: Decision = "difference"


def distance_to_decision(difference: float, margin: float | None) -> tuple[float, Decision]:
    """How far the true difference is from what has to be excluded, and what is shown by that.

    A difference of less than half the margin is farther from the margin than from 0: fewer items show that each rung is
    as good as the other than that they differ.
    """
    size = abs(difference)
    if margin is not None and size < margin / 2:
        return margin - size, "as_good"
    return size, "difference"


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
