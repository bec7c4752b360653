"""Predict the result of rating all items from the first items of a random order, at any time of stopping.

Raters stop when the result looks clear. An interval for a fixed number of items is then too narrow, and a prediction
from it is overturned too often. A confidence sequence instead contains the mean over all N items at all times with a
given probability: no strategy of betting against the true mean, item by item, multiplies its capital by
1 / error rate at any time with a probability above the error rate (Ville 1939; Waudby-Smith & Ramdas 2024,
"Estimating means of bounded random variables by betting", section 5: sampling without replacement).

- Order. The next item is drawn with a probability in proportion to its weight among those left, so that items on which
  the rungs' scores differ come earlier (`random_order` in `pairs.py`). A value divided by that probability estimates
  the sum over the items that are left without bias, for all weights and also for dependent items (Shekhar et al. 2023,
  "Risk-limiting financial audits via weighted sampling without replacement"). Values are differences from one half, so
  that ties add no error.
- Bets. FRACTIONS of the largest bet that cannot lose more than the capital; the capital of all of them together is
  their mean. The bounds are the means against which the capital reaches 1 / error rate.
- Finding. All ratings show a preference if their mean is further from one half than half the width of their interval in
  the ladder's statistics. That width is computed for values with the variance of those rated. For items in
  groups it also depends on their correlation, which few rated pairs estimate poorly: the least and the largest width
  for correlations within one standard error are used.
- Interval. Two independent errors are added in quadrature: that of the rated items as a sample of all items (the
  confidence sequence), and that of all items as a sample (the ladder's interval). With all items rated, it is the
  ladder's interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from engine.extensions.judge.preferences import PreferenceFinding
from engine.ladder.statistics import Difference, Floats, ItemScores, MeanSamples, item_scores
from engine.runs.run.result import MIN_ITEMS

EVEN = 0.5
"""The win rate of a rung whose answers are preferred to half of the others."""
FRACTIONS = np.array([0.02, 0.05, 0.1, 0.2, 0.35, 0.55, 0.8])
"""Bets, as parts of the largest one. More or fewer of them change the number of ratings by a few percent."""
BISECTIONS = 14
LEAST_P = -3.0
"""log10 of the smallest p that is computed."""


def even_difference(scores: ItemScores, level: float) -> Difference:
    """The mean score against one half, by the ladder's statistics: item and seed effects are those of a rung."""
    weights = np.ones(scores.values.shape[1]) if scores.weights is None else scores.weights
    even = ItemScores(EVEN * weights[None], scores.weights, untrained=True, items=scores.items)
    (difference,) = MeanSamples({"": scores, "even": even}, (0.0, 1.0)).differences([("", "even")], level)
    return difference


@dataclass(frozen=True)
class OrderedRatings:
    """Ratings of the first n of N items that have a random order."""

    values: Floats
    """(n,) preferences from 0 to 1, in this order."""
    weights: Floats
    """(N,) how likely an item was to be the next one."""
    groups: tuple[str, ...] = ()
    """(N,) keys of items that depend on each other; '' for an item alone, () if all are."""

    @cached_property
    def estimation_weights(self) -> Floats:
        """(n,) of the rated items, mean 1: every stratum of equal weights counts as it does among all items."""
        own = self.weights[: len(self.values)]
        strata, places, counts = np.unique(own, return_inverse=True, return_counts=True)
        weights = np.array([(self.weights == stratum).sum() for stratum in strata])[places] / counts[places]
        return np.asarray(weights / weights.mean())

    @property
    def mean(self) -> float:
        """Of the rated items, weighted by stratum."""
        return float((self.estimation_weights * self.values).mean())

    def settled(self, finding: PreferenceFinding, level: float) -> float | None:
        """The confidence with which all ratings show this finding at this level; None for too few ratings."""
        if len(self.values) < MIN_ITEMS:
            return None
        if len(self.values) == len(self.weights):
            return 1.0
        narrow, wide = self.final_half_widths(level)
        against = {
            "better": [(EVEN + wide, True)],
            "worse": [(EVEN - wide, False)],
            "undecided": [(EVEN + narrow, False), (EVEN - narrow, True)],
        }
        return max(0.0, 1 - 1 / min(self.capital(mean, above) for mean, above in against[finding]))

    def bounds(self, level: float) -> tuple[float, float]:
        """The interval of the win rate while items are left, at any time."""
        mean, (_, half) = self.mean, self.final_half_widths(level)
        most = 2 / (1 - level)
        low = _last_kept(mean, 0.0, lambda tried: self.capital(tried, above=True) < most)
        high = _last_kept(mean, 1.0, lambda tried: self.capital(tried, above=False) < most)
        return max(0.0, mean - math.hypot(mean - low, half)), min(1.0, mean + math.hypot(high - mean, half))

    def even_p(self) -> float:
        """The smallest error rate at which the bounds exclude one half."""

        def excludes_even(decades: float) -> bool:
            low, high = self.bounds(1 - 10**decades)
            return not low <= EVEN <= high

        return float(10 ** _last_kept(0.0, LEAST_P, excludes_even))

    def capital(self, mean: float, above: bool) -> float:
        """The largest capital so far, starting at 1, of bets that the mean over all items is above (else below) `mean`.

        Infinite if the known values exclude this mean.
        """
        count, rated, sign = len(self.weights), len(self.values), 1 if above else -1
        values = sign * (self.values - EVEN)
        left = count - np.arange(rated + 1)
        weight_left = np.cumsum(self.weights[::-1])[::-1][:rated]
        smallest = np.minimum.accumulate(self.weights[::-1])[::-1][:rated]
        # Sums over the items that are left before each draw, and after the last one.
        sums = count * sign * (mean - EVEN) - np.concatenate([[0.0], np.cumsum(values)])
        if (sums < -EVEN * left - 1e-9).any():
            return math.inf
        sums, lowest = sums[:-1], EVEN * weight_left / smallest  # a value cannot estimate less than minus `lowest`
        gains = (values * weight_left / self.weights[:rated] - sums) / np.maximum(lowest + sums, 1e-9)
        logarithms = np.log1p(FRACTIONS * np.maximum(gains, -1.0)[:, None]).cumsum(0)
        return float(np.exp(np.minimum(logarithms, 700.0)).mean(1).max(initial=1.0))

    def final_half_widths(self, level: float) -> tuple[float, float]:
        """Half the width of the interval from ratings of all items: the least and the most that it may be."""
        narrow, wide = self.final_variances()
        least = self.half_width(narrow, level)
        return least, least if wide == narrow else self.half_width(wide, level)

    def final_variances(self) -> tuple[float, float]:
        """Variance of the mean of ratings of all items: the least and the most that it may be."""
        weights, count, rated = self.estimation_weights, len(self.weights), len(self.values)
        errors = self.values - self.mean
        variance = float((weights * errors**2).sum()) / max(1, rated - 1)
        if not any(self.groups):
            return (variance / count,) * 2
        _, places = np.unique([key or f"\n{n}" for n, key in enumerate(self.groups)], return_inverse=True)
        partners = float((np.bincount(places) ** 2).sum()) / count - 1  # of an item in its group, on average
        own = places[:rated]

        def products(values: Floats) -> float:
            """Sum over the pairs of rated items in one group."""
            return float((np.bincount(own, values) ** 2).sum() - (values**2).sum())

        pairs, products_of_errors = products(weights), products(weights * errors)
        correlation = products_of_errors / (pairs * variance) if pairs and variance else 0.0
        error = math.sqrt(2 / max(2.0, pairs))
        ends = (min(1.0, max(0.0, correlation + sign * error)) for sign in (-1, 1))
        narrow, wide = (variance * (1 + end * partners) / count for end in ends)
        return narrow, wide

    def half_width(self, variance: float, level: float) -> float:
        """Half the width for all items if the variance of their mean is this, over the same groups."""
        keys: Sequence[str] = self.groups or [""] * len(self.weights)
        names = {key: number for number, key in enumerate(dict.fromkeys(filter(None, keys)))}
        signs = np.array([names.get(key, number) % 2 * 2.0 - 1 for number, key in enumerate(keys)])
        pattern = item_scores(EVEN + signs[None], None, keys)
        units = pattern.values.shape[1]
        spread = float((pattern.deviations**2).sum()) / (units * max(1, units - 1))
        scale = math.sqrt(variance / spread) if spread else 0.0
        return even_difference(item_scores(EVEN + scale * signs[None], None, keys), level).half_width


def _last_kept(kept: float, end: float, is_kept: Callable[[float], bool]) -> float:
    """Bisect between `kept` and `end`: the value closest to where `is_kept` changes, on the side of `end`."""
    if is_kept(end):
        return end
    for _ in range(BISECTIONS):
        middle = (kept + end) / 2
        kept, end = (middle, end) if is_kept(middle) else (kept, middle)
    return end
