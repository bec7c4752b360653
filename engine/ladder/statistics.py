"""Confidence intervals of scores, shares and differences, from one joint bootstrap paired by test item.

A rung's score varies for two reasons:

- The test items: resampled with replacement, the same items for all rungs (bootstrap, Efron 1979). From n items the
  deviations are as wide as a t-distribution with n-1 degrees of freedom (Student 1908), because few items estimate
  their own variance badly. With fewer than MIN_ITEMS items no difference is significant.
- The seeds: resampling two or three seeds would understate their variance and its tails, so the error of their mean is
  t-distributed, with K(S-1) degrees of freedom from K trained rungs of S seeds. A rung's standard deviation counts as
  at least the pooled one, because three seeds agree by chance easily, and as the pooled one if only one of its seeds
  finished. With one seed for every rung the variance between seeds is unknown, and the verdict says so.

Intervals of several differences hold simultaneously at 95%: they use the largest standardized deviation of each
resample (single-step max-T, Westfall & Young 1993). The adjusted p is below 0.05 exactly where that interval excludes
zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.ladder.resampling import RESAMPLES, resample_items, t_widening
from engine.runs.result import Interval

LEVEL = 0.95
Z_95 = 1.96
"""Standard normal quantile of 97.5 %."""
POWER_Z = 0.8416
"""Standard normal quantile of 80 %."""
MAX_ITEMS = 1_000_000
"""A required number of test items above this is reported as unknown."""
MIN_ITEMS = 6
"""Paired items needed for a significant difference: five that agree have a sign-test p of 2 / 2**5 > 0.05."""
MAX_SEEDS = 1000
"""The same for seeds."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ItemScores:
    """The scores or summed losses of one rung by seed and test item."""

    values: Floats
    """(S seeds, n items)"""
    weights: Floats | None = None
    """(n,) answer tokens of the items if `values` are summed losses; None for equal weights."""
    seeds: tuple[int, ...] = ()
    """(S,) seed of each row; () for 0, 1, 2, …"""
    untrained: bool = False
    """Whether this is the base model: one row, no variance between seeds."""

    def by_seed(self) -> dict[int, Floats]:
        """The values (n,) of each seed."""
        return dict(zip(self.seeds or range(len(self.values)), self.values, strict=True))

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.values).all())

    @property
    def seed_means(self) -> Floats:
        """(S,) mean over the items."""
        total = self.values.shape[1] if self.weights is None else self.weights.sum()
        return np.asarray(self.values.sum(1) / total)

    @property
    def mean(self) -> float:
        return float(self.seed_means.mean())


@dataclass(frozen=True)
class Difference:
    """The difference a − b of two rungs, with its simultaneous 95% interval."""

    a: str
    b: str
    mean: float
    low: float
    high: float
    p: float
    p_adjusted: float
    item_variance: float
    """Variance of the paired difference of one item."""
    seed_variance: float
    """Variance of the difference of one seed."""
    critical: float
    """Half the interval's width in standard errors."""
    critical_many_seeds: float
    """`critical` for many seeds; few seeds make it larger."""

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


class BootstrapSamples:
    """Joint bootstrap samples of the mean scores of all rungs.

    Args:
        scores: Scores by rung; all of the same n items in the same order.
        bounds: Lowest and highest possible score of an item; intervals do not exceed them. If both are finite, half an
            item of +1 and half an item of -1 times their distance are added to the variance of every difference, so
            that identical items do not give zero variance (Agresti & Min 2005 for paired proportions).
        seed: Of the random generator.
    """

    def __init__(self, scores: Mapping[str, ItemScores], bounds: tuple[float, float], seed: int = 0) -> None:
        self.scores, self.bounds = dict(scores), bounds
        first = next(iter(self.scores.values()))
        self.n = first.values.shape[1]
        if any(one.values.shape[1] != self.n for one in self.scores.values()):
            raise ValueError("the rungs were scored on different items")
        self.seed_std, self.freedom = _seed_deviations(self.scores)
        weights = next(iter(self.scores.values())).weights  # the same for all rungs
        values = {name: one.values.mean(0) for name, one in self.scores.items()}
        self.item_means = resample_items(values, weights, self.n, seed)
        random = np.random.default_rng(seed + 1)
        widening = t_widening(self.n, seed + 2)
        self.means: dict[str, Floats] = {}
        for name, one in self.scores.items():
            seeds = len(one.values)
            seed_error = random.standard_t(self.freedom, RESAMPLES) if self.freedom else np.zeros(RESAMPLES)
            by_items = one.mean + (self.item_means[name] - one.mean) * widening
            means = by_items + seed_error * self.seed_std[name] / math.sqrt(seeds)
            self.means[name] = means + random.normal(0.0, self._min_error / math.sqrt(2), RESAMPLES)

    @property
    def _range(self) -> float:
        """The largest possible difference of two scores; infinite if one of the bounds is."""
        return self.bounds[1] - self.bounds[0]

    @property
    def _min_error(self) -> float:
        """Standard error that is added to every difference of bounded scores."""
        return self._range / self.n if math.isfinite(self._range) else 0.0

    def interval(self, name: str) -> Interval:
        """A rung's mean with its 95% interval."""
        scores = self.scores[name]
        interval, values = self._interval(scores.mean, self.means[name], clip=True), scores.values
        all_equal = values.min() == values.max()
        return self._widened(interval, float(values.flat[0])) if math.isfinite(self._range) and all_equal else interval

    def _widened(self, interval: Interval, value: float) -> Interval:
        """`Interval.widened` on the scale from 0 to 1."""
        origin, scale = self.bounds[0], self._range
        if interval.low is None or interval.high is None or interval.mean is None:
            return interval
        unit = [(number - origin) / scale for number in (interval.mean, interval.low, interval.high, value)]
        wide = Interval(mean=unit[0], low=unit[1], high=unit[2], rows=interval.rows).widened(unit[3])
        low, high = (origin + scale * (number or 0.0) for number in (wide.low, wide.high))
        return Interval(mean=interval.mean, low=low, high=high, rows=interval.rows)

    def share(self, rung: str, reference: str) -> Interval:
        """rung / reference, at least 0. The caller makes sure that the reference's score is not near zero."""
        mean = self.scores[rung].mean / self.scores[reference].mean
        interval = self._interval(mean, self.means[rung] / self.means[reference])
        interval.low = None if interval.low is None else max(0.0, interval.low)
        return interval

    def share_of_gain(self, rung: str, reference: str, base: str) -> Interval:
        """(rung − base) / (reference − base). The caller makes sure that the reference's gain is not near zero."""
        origin = self.scores[base].mean
        mean = (self.scores[rung].mean - origin) / (self.scores[reference].mean - origin)
        gains = (self.means[rung] - self.means[base]) / (self.means[reference] - self.means[base])
        return self._interval(mean, gains)

    def _interval(self, mean: float, samples: Floats, clip: bool = False) -> Interval:
        if self.n == 1:
            return Interval(mean=mean, low=None, high=None, rows=1)
        low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        if clip:
            low, high = max(self.bounds[0], low), min(self.bounds[1], high)
        return Interval(mean=mean, low=float(low), high=float(high), rows=self.n)

    def differences(self, pairs: Sequence[tuple[str, str]]) -> list[Difference]:
        """The difference of each pair, with simultaneous intervals; they are infinite below MIN_ITEMS items."""
        observed = np.array([self.scores[a].mean - self.scores[b].mean for a, b in pairs])
        items = np.array([(self.item_means[a] - self.item_means[b]).var() for a, b in pairs])
        seeds = np.array([self._seed_mean_variance(a) + self._seed_mean_variance(b) for a, b in pairs])
        error = np.sqrt(items + seeds + self._min_error**2)
        error = np.where(error > 0, error, 1e-12)
        samples = np.array([self.means[a] - self.means[b] for a, b in pairs])  # (pairs, RESAMPLES)
        deviations = np.abs(samples - observed[:, None]) / error[:, None]
        largest = deviations.max(0)
        critical = float(np.quantile(largest, LEVEL, method="higher"))  # one of the samples, so that it agrees with p
        enough = self.n >= MIN_ITEMS
        critical, bound = critical if enough else math.inf, self._range if enough else math.inf
        many_seeds = self._critical_many_seeds(pairs)
        return [
            Difference(
                a=a,
                b=b,
                mean=float(mean),
                low=max(-bound, float(mean - critical * error[pair])),
                high=min(bound, float(mean + critical * error[pair])),
                p=_tail(deviations[pair], abs(mean) / error[pair] if enough else 0.0),
                p_adjusted=_tail(largest, abs(mean) / error[pair] if enough else 0.0),
                item_variance=float(items[pair]) * self.n,
                seed_variance=self.seed_std[a] ** 2 + self.seed_std[b] ** 2,
                critical=critical,
                critical_many_seeds=many_seeds,
            )
            for pair, ((a, b), mean) in enumerate(zip(pairs, observed, strict=True))
        ]

    def _critical_many_seeds(self, pairs: Sequence[tuple[str, str]]) -> float:
        """`Difference.critical` without variance between seeds."""
        samples = np.array([self.item_means[a] - self.item_means[b] for a, b in pairs])
        error = samples.std(1, keepdims=True)
        largest = np.abs((samples - samples.mean(1, keepdims=True)) / np.where(error > 0, error, 1.0)).max(0)
        return max(Z_95, float(np.quantile(largest, LEVEL)))

    def _seed_mean_variance(self, name: str) -> float:
        return self.seed_std[name] ** 2 / len(self.scores[name].values)


def required_sample(difference: Difference, items: int, seeds: int) -> tuple[int | None, int | None]:
    """(test items, seeds) at which a difference of the observed size is significant with 80% power.

    Seeds are None if more items are enough; else both grow, each with half of the allowed variance. Both are None if no
    realistic number is enough. Normal approximation: (critical + 0.84)^2 variance <= difference^2.
    """
    if difference.mean == 0 or not math.isfinite(difference.mean) or not math.isfinite(difference.critical):
        return None, None
    allowed = (difference.mean / (difference.critical + POWER_Z)) ** 2
    left = allowed - difference.seed_variance / seeds
    if left > 0:
        more_items = math.ceil(difference.item_variance / left)
        if more_items <= MAX_ITEMS:
            return max(more_items, items + 1), None
    allowed = (difference.mean / (difference.critical_many_seeds + POWER_Z)) ** 2
    more_items = max(items, math.ceil(2 * difference.item_variance / allowed))
    more_seeds = math.ceil(difference.seed_variance / (allowed - difference.item_variance / more_items))
    if more_items > MAX_ITEMS or more_seeds > MAX_SEEDS:
        return None, None
    return more_items, max(more_seeds, seeds + 1)


def mcnemar(a: Floats, b: Floats) -> float:
    """Exact two-sided p of McNemar's test for two scores (n,) of 0 or 1: binomial over the items where they differ."""
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    trials = only_a + only_b
    if not trials:
        return 1.0
    tail: int = sum(math.comb(trials, k) for k in range(min(only_a, only_b) + 1))
    return float(min(1.0, 2 * tail / 2**trials))


def _seed_deviations(scores: Mapping[str, ItemScores]) -> tuple[dict[str, float], int]:
    """(standard deviation of one seed's mean by rung, its degrees of freedom)."""
    several = {name: one.seed_means for name, one in scores.items() if len(one.values) > 1}
    freedom = sum(len(means) - 1 for means in several.values())
    if not freedom:
        return dict.fromkeys(scores, 0.0), 0
    pooled = sum(((means - means.mean()) ** 2).sum() for means in several.values()) / freedom
    variances = {name: float(means.var(ddof=1)) for name, means in several.items()}
    return {
        name: 0.0 if one.untrained else math.sqrt(max(variances.get(name, 0.0), pooled)) for name, one in scores.items()
    }, freedom


def _tail(deviations: Floats, size: float) -> float:
    """The share of samples that deviate at least that much; never 0, because the samples are finitely many."""
    return float((1 + (deviations >= size).sum()) / (1 + len(deviations)))
