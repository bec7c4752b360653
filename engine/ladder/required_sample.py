"""Test items and seeds that a difference of the observed size needs to become significant."""

from __future__ import annotations

import math
from dataclasses import dataclass

POWER_Z = 0.8416
"""Standard normal quantile of 80 %."""
MAX_ITEMS = 1_000_000
"""A required number of test items above this is reported as unknown."""
MAX_SEEDS = 1000
"""The same for seeds."""


@dataclass(frozen=True)
class RequiredSample:
    """Test items and seeds at which a difference of the observed size is significant with 80% power."""

    items: tuple[int | None, int | None] = (None, None)
    """For a small and a large variance between seeds; None: no realistic number is enough."""
    seeds: tuple[int | None, int | None] = (None, None)
    """The same for seeds; None if more items are enough."""


def required(
    difference: float,
    item_variance: float,
    seed_variance: float,
    present: tuple[int, int],
    criticals: tuple[float, float],
) -> tuple[int | None, int | None]:
    """(test items, seeds) at which a difference is significant with 80% power.

    Seeds are None if more items are enough; else both grow, each with half of the allowed variance. Both are None if no
    realistic number is enough. Normal approximation: (critical + 0.84)^2 variance <= difference^2.

    Args:
        difference: The true difference.
        item_variance: Variance of the paired difference of one item.
        seed_variance: Variance of the difference of one seed.
        present: Test items and seeds of the ladder.
        criticals: Half the interval's width in standard errors, with the present seeds and with many.
    """
    (items, seeds), (critical, many_seeds) = present, criticals
    left = (difference / (critical + POWER_Z)) ** 2 - seed_variance / seeds
    if left > 0:
        more_items = math.ceil(item_variance / left)
        if more_items <= MAX_ITEMS:
            return max(more_items, items + 1), None
    allowed = (difference / (many_seeds + POWER_Z)) ** 2
    more_items = max(items, math.ceil(2 * item_variance / allowed))
    more_seeds = math.ceil(seed_variance / (allowed - item_variance / more_items))
    if more_items > MAX_ITEMS or more_seeds > MAX_SEEDS:
        return None, None
    return more_items, max(more_seeds, seeds + 1)
