"""Confidence intervals of scores, shares and differences from variance components, paired by test item.

The score of rung r, test item i and seed s is modeled as

    score(r, i, s) = mean(r) + item effect(r, i) + seed effect(r, s) + residual(r, i, s)

and a rung's mean is estimated by the mean over items and seeds. Its error has two parts:

- Items: the rungs' item effects have a covariance, estimated from each item's mean over the seeds. It contains the
  residuals, so these are not counted a second time with the seeds. n items give deviations as wide as a t-distribution
  with n-1 degrees of freedom (Student 1908). With fewer than MIN_ITEMS items no difference is significant. Items of
  one group, which depend on each other, are one value with their number as its weight; if these are unequal, n is the
  effective number of groups (`small_sample`). Where few bounded scores differ, the ends of an interval are those of a
  score interval (`discordance_variance`, Tango 1998). Scores without bounds, such as losses, may be skewed, and the end
  of an interval on the side of the long tail is further away (`skewed_errors`, Hall 1992).
- Seeds: seed effects of rung r have a standard deviation that is estimated from the means of its seeds, less
  the variance that residuals explain, with a lognormal prior that all rungs share. Its uncertainty is part of the
  error: few seeds make intervals wide, and with one seed the prior stands alone. So intervals are about the mean over
  all seeds, not about the runs at hand.

The joint distribution of the errors is computed at fixed quasi-random points; nothing depends on a random seed.

Intervals of a score or a share are pointwise. Intervals of several differences hold simultaneously at 95%: each
deviation is divided by a quantile of its distribution, and the 95% quantile of the largest ratio scales all of them
(single-step max-T, Westfall & Young 1993, with balanced coverage, Beran 1988). The adjusted p is below 0.05 exactly
where that interval excludes zero. Why they cover, and where not: `tools/RESULTS.md`.

The standard deviation between seeds
------------------------------------
Two or three seeds say little about their own standard deviation, and one says nothing. The standard deviations s_r of
the rungs are therefore estimated together:

    log m   ~ Normal(log median, common spread)      typical standard deviation of this ladder
    log s_r ~ Normal(log m, spread of rungs)         of rung r
    seed means of rung r ~ Normal(·, s_r² + w_r)     w_r: variance of the residuals, already in the part of the items

The integrals over m and s_r are sums over fixed grids. Where the prior comes from, as tried in simulations:

- Where a rung has several seeds, the prior is nearly flat (REPLICATED), so that intervals also cover if the standard
  deviation is far from its median.
- With one seed for every rung the prior stands alone and is informative (UNREPLICATED): a median of 1.5 points of a
  share, and less than 6 points in 95 of 100 ladders.
- A rung with fewer seeds than others may be the one whose seeds vary most. What the others say about it can only make
  its standard deviation larger than its own seeds and the prior do. If its variance is significantly larger than the
  others', it is not compared (`find_outliers`).

Quasi-random points
-------------------
Richtmyer's lattice (1951), as used for multivariate normal and t probabilities by Genz & Bretz (2009): coordinate j of
point i is the fractional part of (i + 1/2) times the square root of a prime. The primes are chosen so that the
coordinates are nearly uncorrelated over POINTS points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, count, islice
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from engine.evaluation.intervals import (
    discordance_variance,
    group_sums,
    mean_interval,
    score_bound,
    skewed_errors,
    small_sample,
)
from engine.ladder.required_sample import RequiredSample, SampleVariances, required_sample
from engine.runs.run.result import MIN_ITEMS, Z_95, Interval

POINTS = 1 << 12

# fmt: off
PRIMES = (
    2, 3, 5, 7, 11, 13, 17, 19, 59, 61, 31, 37, 41, 43, 47, 67, 73, 83, 97, 103, 107, 163, 167, 197, 229, 239, 281, 307,
    317, 373, 397, 409, 479, 487, 541, 757, 1063, 1069, 1277, 1721, 1801, 1933, 1951, 1993, 2017, 2053, 2399, 2447,
)
# fmt: on
"""Of the first coordinates: any two have a correlation below 0.04, as normal values and squared. 14 rungs need 48."""

Floats = NDArray[np.float64]


@lru_cache(maxsize=64)
def uniform(coordinate: int) -> Floats:
    """(POINTS,) one coordinate of the points, between 0 and 1."""
    # The primes after those in PRIMES.
    larger = (n for n in count(PRIMES[-1] + 1) if all(n % divisor for divisor in range(2, math.isqrt(n) + 1)))
    prime = next(islice(chain(PRIMES, larger), coordinate, None))
    points: Floats = np.modf((np.arange(POINTS) + 0.5) * np.sqrt(prime))[0]
    points.setflags(write=False)
    return points


@lru_cache(maxsize=64)
def normal(coordinate: int) -> Floats:
    """(POINTS,) the same coordinate as standard normal values, with mean 0 and variance 1 over the points."""
    values: Floats = np.array([*map(NormalDist().inv_cdf, uniform(coordinate))])
    values = (values - values.mean()) / values.std()
    values.setflags(write=False)
    return values


def chi_square_ratio(coordinate: int, freedom: float) -> Floats:
    """(POINTS,) values of chi-square / freedom, by the approximation of Wilson & Hilferty (1931).

    Args:
        freedom: Degrees of freedom; values below 1 count as 1.
    """
    spread = 2 / (9 * max(1.0, freedom))
    return np.asarray(np.maximum(1 - spread + normal(coordinate) * np.sqrt(spread), 0.05) ** 3)


HEAVY_TAIL = 0.3
"""Skewness divided by the root of the number of items: a caveat above this, where intervals cover in 90 to 95% of
simulated ladders."""
REPLICATED, UNREPLICATED = (2.0, 1.3), (0.7, 0.4)
"""(common spread, spread of rungs), of logarithms; the spread of rungs by the rung's seeds, the common one by the
ladder's."""
SIGNIFICANCE_LEVEL = 0.01
"""Of the test whether a rung's spread is larger than the others'."""
UNSTABLE_LEVEL = 0.1
"""The same test, where the rung is compared: below this its standard deviation is at least what its own seeds say."""
GRID = np.linspace(np.log(0.01), np.log(100.0), 96)
"""Logarithms of standard deviations, in units of the median."""
COMMON_GRID = np.linspace(-3.0, 3.0, 15)
"""Grid of log m, in prior standard deviations."""
SIMPSON_INTERVALS = 2000


@dataclass(frozen=True)
class SeedEvidence:
    """What the seeds of one rung say about their standard deviation."""

    seeds: int
    squares: float
    """Sum of squared deviations of the seeds' means from their mean."""
    residual: float
    """Variance of one seed's mean from item-by-seed residuals, which the part of the items contains."""


def seed_deviations(evidence: Sequence[SeedEvidence], median: float) -> list[Floats]:
    """(POINTS,) standard deviation between seeds of each rung at the quasi-random points, from their joint posterior.

    median: of the prior. Uses as many coordinates of the points as there are rungs, and own more.
    """
    deviations = _posterior(evidence, median, range(1, len(evidence) + 1))
    most, larger = max(own.seeds for own in evidence), tail_of_spread(evidence)
    for rung, own in enumerate(evidence):
        if own.seeds < most or larger[rung] < UNSTABLE_LEVEL:
            (alone,) = _posterior([own], median, [rung + 1])
            deviations[rung] = np.maximum(deviations[rung], alone)
    return deviations


def find_outliers(evidence: Sequence[SeedEvidence]) -> list[bool]:
    """Whether a rung has fewer seeds than another one and a significantly larger variance than the others together.

    One-sided F-test at SIGNIFICANCE_LEVEL.
    """
    most = max((own.seeds for own in evidence), default=0)
    return [
        own.seeds < most and tail < SIGNIFICANCE_LEVEL
        for own, tail in zip(evidence, tail_of_spread(evidence), strict=True)
    ]


def tail_of_spread(evidence: Sequence[SeedEvidence]) -> list[float]:
    """One-sided p of an F-test of each rung's variance against that of the others together; 1 for a single seed."""
    tails = []
    for place, own in enumerate(evidence):
        others = [other for number, other in enumerate(evidence) if number != place and other.seeds > 1]
        freedom, pooled = sum(other.seeds - 1 for other in others), sum(other.squares for other in others)
        if own.seeds < 2 or own.squares <= 0 or not freedom:
            tails.append(1.0)
            continue
        ratio = own.squares / (own.seeds - 1) * freedom / pooled if pooled > 0 else np.inf
        tails.append(f_tail(ratio, own.seeds - 1, freedom))
    return tails


def f_tail(ratio: float, above: int, below: int) -> float:
    """P(F >= ratio), F with these degrees of freedom of numerator and denominator: an incomplete beta integral."""
    end = float(np.arcsin(np.sqrt(below / (below + above * ratio))))
    return _beta_integral(end, above, below) / _beta_integral(np.pi / 2, above, below)


def _beta_integral(limit: float, above: int, below: int) -> float:
    """The integral of the beta density from 0 to sin²(limit), up to a factor, by Simpson's rule."""
    weights = np.ones(SIMPSON_INTERVALS + 1)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    angles = np.linspace(0.0, limit, SIMPSON_INTERVALS + 1)
    values = np.sin(angles) ** (below - 1) * np.cos(angles) ** (above - 1)
    return float((weights * values).sum() * limit / SIMPSON_INTERVALS / 3)


def _posterior(evidence: Sequence[SeedEvidence], median: float, coordinates: Sequence[int]) -> list[Floats]:
    """(POINTS,) of each rung, which uses one of the coordinates; m uses coordinate 0."""
    deviations = median * np.exp(GRID)
    common_spread = (REPLICATED if any(own.seeds > 1 for own in evidence) else UNREPLICATED)[0]
    weights = np.exp(-(COMMON_GRID**2) / 2)
    joint = np.stack([_prior(common_spread, own.seeds > 1) * _likelihood(own, deviations) for own in evidence])
    mass = joint.sum(2)  # (rungs, common grid)
    common = np.cumsum(weights * mass.prod(0))
    order, sorted_points = _sorted(0)
    ends = np.searchsorted(sorted_points, common / common[-1])  # the points of each value of m
    posteriors = []
    for rung, coordinate in enumerate(coordinates):
        values, points, begin = np.empty(POINTS), uniform(coordinate)[order], 0
        for level, end in enumerate(ends):
            if end > begin:
                shares = joint[rung, level] / mass[rung, level]
                values[order[begin:end]] = np.interp(points[begin:end], np.cumsum(shares) - shares / 2, GRID)
                begin = end
        posteriors.append(median * np.exp(values))
    return posteriors


@lru_cache(maxsize=1)
def _sorted(coordinate: int) -> tuple[NDArray[np.intp], Floats]:
    """The order of a coordinate, and the sorted coordinate."""
    order = np.argsort(uniform(coordinate), kind="stable")
    return order, uniform(coordinate)[order]


@lru_cache(maxsize=4)
def _prior(common_spread: float, replicated: bool) -> Floats:
    """(common grid, grid) prior probability of each standard deviation given m."""
    spread = (REPLICATED if replicated else UNREPLICATED)[1]
    density = np.exp(-(((GRID - common_spread * COMMON_GRID[:, None]) / spread) ** 2) / 2)
    return np.asarray(density / density.sum(1, keepdims=True))


def _likelihood(evidence: SeedEvidence, deviations: Floats) -> Floats:
    """Density of the sum of squares, up to a factor: chi-square with seeds − 1 degrees of freedom."""
    if evidence.seeds < 2:
        return np.ones_like(deviations)
    variance = deviations**2 + evidence.residual
    logarithm = -(evidence.seeds - 1) / 2 * np.log(variance) - evidence.squares / (2 * variance)
    return np.asarray(np.exp(logarithm - logarithm.max()))


CONFIDENCE_LEVEL = 0.95
"""Of all intervals."""
SHARE_OF_RANGE, SHARE_OF_ITEMS = 0.015, 0.03
"""Median of the prior of the deviation between seeds: 1.5 points of a share; for scores without bounds, such as losses,
3% of the standard deviation of one item. For a share of one half, whose items have 50 points, both are equal."""
BASE_SHARE = 0.2
"""Part of the error rate that the comparisons with the base model get together; gains are larger than differences."""
MIN_TAIL = 24
"""Points beyond the quantile that a deviation is divided by."""


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
    items: int = 0
    """Test items; less are values if some are groups of items that depend on each other."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", self.items or self.values.shape[1])

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
    def deviations(self) -> Floats:
        """(S, n) linearized deviations of the items from each seed's mean; each row sums to 0."""
        if self.weights is None:
            return np.asarray(self.values - self.seed_means[:, None])
        return np.asarray((self.values - self.seed_means[:, None] * self.weights) / self.weights.mean())

    @property
    def seed_evidence(self) -> SeedEvidence:
        seeds, items = self.values.shape
        if seeds < 2 or items < 2:
            return SeedEvidence(seeds, 0.0 if seeds < 2 else float(((self.seed_means - self.mean) ** 2).sum()), 0.0)
        deviations = self.deviations
        squares = float(((deviations - deviations.mean(0)) ** 2).sum())
        residual = squares / ((seeds - 1) * (items - 1) * items)
        return SeedEvidence(seeds, float(((self.seed_means - self.mean) ** 2).sum()), residual)

    @property
    def mean(self) -> float:
        return float(self.seed_means.mean())


def item_scores(
    values: Floats, weights: Floats | None, groups: Sequence[str], seeds: tuple[int, ...] = (), untrained: bool = False
) -> ItemScores:
    """The scores or summed losses of test items, (S, n), with groups of dependent items as the units of the statistics.

    Args:
        weights: (n,) answer tokens of summed losses; None for scores, whose groups are weighted by their size.
        groups: (n,) key of the group of each item; '' for an item alone.
        seeds, untrained: As in `ItemScores`.
    """
    items = values.shape[1]
    sums, sizes = group_sums(values, np.ones(items) if weights is None else weights, groups)
    return ItemScores(sums, sizes if weights is not None or any(groups) else None, seeds, untrained, items)


@dataclass(frozen=True)
class Difference:
    """The difference a − b of two rungs, with its simultaneous 95% interval."""

    a: str
    b: str
    mean: float
    low: float
    high: float
    half_width: float
    """Half the interval's width before it is cut off at the bounds of the metric."""
    p_adjusted: float

    def interval(self, items: int) -> Interval:
        """The interval as it is stored, without bounds that are infinite; `items`: number of test items."""
        finite = math.isfinite(self.low) and math.isfinite(self.high)
        low, high = (self.low, self.high) if finite else (None, None)
        return Interval(mean=self.mean, low=low, high=high, rows=items)


class MeanSamples:
    """Joint distribution of the true mean scores of all rungs, as samples at fixed quasi-random points.

    Args:
        scores: Scores by rung; all of the same n items in the same order.
        bounds: Lowest and highest possible score of an item; intervals do not exceed them. If both are finite, two
            pseudo-items of weight 1/2 are added to the variance of every difference, at plus and minus the distance of
            the bounds, so that identical items do not give zero variance (Agresti & Min 2005 for paired proportions).
    """

    def __init__(self, scores: Mapping[str, ItemScores], bounds: tuple[float, float]) -> None:
        self.scores, self.bounds = dict(scores), bounds
        self._critical: dict[tuple[tuple[str, str], ...], float] = {}
        first = next(iter(self.scores.values()))
        self.n, self.items = first.values.shape[1], first.items
        """Independent units, groups of items or items alone, and test items."""
        if any(rung.values.shape[1] != self.n for rung in self.scores.values()):
            raise ValueError("the rungs were scored on different items")
        names = sorted(self.scores)  # the order of the rungs does not matter
        trained = [name for name in names if not self.scores[name].untrained]
        # Errors of the rungs' means from the choice of items.
        coordinate = 2 * len(names) + 2
        self._deviations = {name: self.scores[name].deviations.mean(0) for name in names}
        deviations = np.stack([*self._deviations.values()])
        self._inflation, freedom = small_sample(np.ones(self.n) if first.weights is None else first.weights)
        self.effective = freedom + 1
        """As many units of equal weight vary as much."""
        covariance = self._inflation * deviations @ deviations.T / self.n**2
        if math.isfinite(self._range):  # a standard error that is added to every difference of bounded scores
            covariance += np.eye(len(names)) * (self._range / self.n) ** 2 / 2
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
        errors = root @ np.stack([normal(coordinate + 1 + number) for number in range(len(names))])
        errors /= np.sqrt(chi_square_ratio(coordinate, freedom))
        self.item_errors: dict[str, Floats] = dict(zip(names, errors, strict=True))
        """(POINTS,) of each rung."""
        evidence = [self.scores[name].seed_evidence for name in trained]
        self.seed_std = dict(zip(trained, seed_deviations(evidence, self.seed_median) if trained else [], strict=True))
        """(POINTS,) standard deviation of one seed's mean by rung."""
        self.outliers = [name for name, is_outlier in zip(trained, find_outliers(evidence), strict=True) if is_outlier]
        """Rungs with fewer seeds than others and a larger spread than theirs."""
        self.means = {name: self.scores[name].mean + self.item_errors[name] for name in names}
        for number, name in enumerate(trained):
            of_seeds = self.seed_std[name] * normal(len(trained) + 1 + number)
            self.means[name] = self.means[name] + of_seeds / math.sqrt(len(self.scores[name].values))

    @property
    def seed_median(self) -> float:
        """Median of the prior of a rung's standard deviation between seeds."""
        if math.isfinite(self._range):
            return SHARE_OF_RANGE * self._range
        trained = [rung for rung in self.scores.values() if not rung.untrained] or [*self.scores.values()]
        return max(1e-9, SHARE_OF_ITEMS * math.sqrt(float(np.mean([(rung.deviations**2).mean() for rung in trained]))))

    @property
    def _range(self) -> float:
        """The largest possible difference of two scores; infinite if one of the bounds is."""
        return self.bounds[1] - self.bounds[0]

    def _skewness(self, contrast: Mapping[str, float]) -> float:
        """Of the items' part in a sum of means."""
        deviations = sum(factor * self._deviations[name] for name, factor in contrast.items())
        return float(np.mean(deviations**3) / max(float(np.mean(deviations**2)) ** 1.5, 1e-300))

    @property
    def has_heavy_tails(self) -> bool:
        """Whether scores without bounds are so skewed that intervals cover less often than they should."""
        skewness = max(abs(self._skewness({name: 1.0})) for name in self.scores)
        return not math.isfinite(self._range) and skewness > HEAVY_TAIL * math.sqrt(self.effective)

    def _errors(self, contrast: Mapping[str, float]) -> Floats:
        """(POINTS,) by how much the true sum of means, each times its factor, is larger than the observed one."""
        both = sum(factor * (self.means[name] - self.scores[name].mean) for name, factor in contrast.items())
        deviations = sum(factor * self._deviations[name] for name, factor in contrast.items())
        error = math.sqrt(self._inflation * float((np.asarray(deviations) ** 2).sum())) / self.n
        if math.isfinite(self._range) or not error:
            return np.asarray(both)
        of_items = np.asarray(sum(factor * self.item_errors[name] for name, factor in contrast.items()))
        skewed = error * skewed_errors(of_items / error, self._skewness(contrast), self.effective)
        return np.asarray(both - of_items + skewed)

    def interval(self, name: str) -> Interval:
        """A rung's mean with its 95% interval; that of a model that is not trained is the one that a run has."""
        scores = self.scores[name]
        if scores.untrained:
            return mean_interval(scores.values.mean(0), scores.weights, self.bounds, scores.items)
        errors = self._errors({name: 1.0})
        # What other rungs say makes differences more precise, not what one rung scores.
        (alone,) = _posterior([scores.seed_evidence], self.seed_median, [[*self.seed_std].index(name) + 1])
        of_seeds = self.means[name] - scores.mean - self.item_errors[name]
        errors = errors + of_seeds * (np.maximum(alone / self.seed_std[name], 1.0) - 1)
        interval = self._interval(scores.mean, scores.mean + errors, clip=True)
        values = scores.values if scores.weights is None else scores.values / scores.weights
        if values.min() < values.max():
            return interval
        interval.rows = self.n
        widened = interval.widened(float(values.flat[0]), self.bounds)
        widened.rows = self.items
        return widened

    def share_of_gain(self, rung: str, reference: str, base: str, level: float = CONFIDENCE_LEVEL) -> Interval:
        """(rung − base) / (reference − base). The caller makes sure that the reference's gain is not near zero."""
        origin = self.scores[base].mean
        mean = (self.scores[rung].mean - origin) / (self.scores[reference].mean - origin)
        gains = (self.means[rung] - self.means[base]) / (self.means[reference] - self.means[base])
        return self._interval(mean, gains, level=level)

    def share_of_best(
        self, rung: str, rungs: Sequence[str], base: str, reference: str, level: float = CONFIDENCE_LEVEL
    ) -> Interval:
        """The share of the gain of the best of these rungs; the mean is that of `reference`, the best observed one.

        Which rung is truly best is not known, and the best observed one is overestimated. So the interval is from the
        lowest to the lowest end of simultaneous intervals of the ratio to each other rung, at most 1: multiple
        comparisons with the best (Hsu 1981, Annals of Statistics 9, 1026).
        """
        origin = self.scores[base].mean
        gain = self.scores[reference].mean - origin
        gains = {name: (self.means[name] - self.means[base]) * math.copysign(1, gain) for name in rungs}
        mean = (self.scores[rung].mean - origin) / gain
        others = [gains[name] for name in rungs if name != rung]
        if not others or self.n == 1:
            return Interval(mean=mean, low=None, high=None, rows=self.items)
        # A rung without a gain is not the best one.
        ratios = np.stack([np.where(of > 0, gains[rung] / np.where(of > 0, of, 1.0), np.inf) for of in others])
        ranks = (ratios.argsort(1).argsort(1) + 0.5) / POINTS
        tail = float(np.quantile(np.minimum(ranks, 1 - ranks).min(0), 1 - level, method="lower"))
        low = float(np.quantile(ratios, tail, 1, method="lower").min())
        high = float(np.quantile(ratios, 1 - tail, 1, method="higher").min())
        return Interval(mean=mean, low=min(1.0, low), high=min(1.0, high), rows=self.items)

    def share_of_gain_p(self, rung: str, reference: str, base: str, share: float) -> float:
        """Two-sided p of the share of the gain against a value: below 5% where the 95% interval excludes it."""
        gains = (self.means[rung] - self.means[base]) / (self.means[reference] - self.means[base])
        below = (float((gains < share).sum()) + 0.5) / (POINTS + 1)
        return 2 * min(below, 1 - below)

    def _interval(self, mean: float, samples: Floats, clip: bool = False, level: float = CONFIDENCE_LEVEL) -> Interval:
        if self.n == 1:
            return Interval(mean=mean, low=None, high=None, rows=self.items)
        low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
        if clip:
            low, high = max(self.bounds[0], low), min(self.bounds[1], high)
        return Interval(mean=mean, low=float(low), high=float(high), rows=self.items)

    def differences(self, pairs: Sequence[tuple[str, str]], level: float = CONFIDENCE_LEVEL) -> list[Difference]:
        """The difference of each pair, with simultaneous intervals; they are infinite below MIN_ITEMS items."""
        observed = np.array([self.scores[a].mean - self.scores[b].mean for a, b in pairs])
        errors = np.array([self._errors({a: 1.0, b: -1.0}) for a, b in pairs])
        # Comparisons with the base get BASE_SHARE of the error rate together.
        untrained = [self.scores[a].untrained or self.scores[b].untrained for a, b in pairs]
        split = any(untrained) and not all(untrained)
        parts = {True: BASE_SHARE if split else 1.0, False: 1 - BASE_SHARE if split else 1.0}
        levels = [1 - (1 - level) * parts[base] / untrained.count(base) for base in untrained]
        levels = [min(share, 1 - MIN_TAIL / POINTS) for share in levels]
        below, above = np.array([self._units(*pair) for pair in zip(errors, levels, strict=True)]).T
        largest = np.where(errors > 0, errors / above[:, None], -errors / below[:, None]).max(0)
        scale = float(np.quantile(largest, level, method="higher"))  # one of the samples, so that it agrees with p
        enough = self.n >= MIN_ITEMS
        bound = self._range if enough else math.inf
        differences = []
        for pair, ((a, b), mean) in enumerate(zip(pairs, observed, strict=True)):
            down, up = (scale * float(side[pair]) if enough else math.inf for side in (below, above))
            low, high, half_width = float(mean) - down, float(mean) + up, (down + up) / 2
            if math.isfinite(bound):
                low, high = self._ends(a, b, float(mean), half_width, bound)
            size = abs(mean) / (below if mean > 0 else above)[pair] if enough else 0.0
            differences.append(Difference(a, b, float(mean), low, high, half_width, _tail(largest, size)))
        return differences

    def _units(self, errors: Floats, level: float) -> tuple[float, float]:
        """The quantiles by which errors below and above 0 are divided: the same if scores are bounded."""
        if math.isfinite(self._range):
            sides = [np.quantile(np.abs(errors), level, method="higher")] * 2
        else:
            sides = [np.quantile(side * errors, (1 + level) / 2, method="higher") for side in (-1, 1)]
        return max(float(sides[0]), 1e-12), max(float(sides[1]), 1e-12)

    def _ends(self, a: str, b: str, mean: float, half: float, bound: float) -> tuple[float, float]:
        """The ends of an interval of half this width: where few items differ, further away (Tango 1998).

        The variance from the choice of items is that of `discordance_variance`; the part of the seeds does not change.
        """
        of_seeds = self._variance_of_seeds(a, b)
        observed = float((self.item_errors[a] - self.item_errors[b]).var())
        critical = half / math.sqrt(observed + of_seeds)
        of_a, of_b = self.scores[a], self.scores[b]
        sizes = np.ones(self.n) if of_a.weights is None else of_a.weights
        variance = discordance_variance(observed, of_a.values.mean(0) - of_b.values.mean(0), sizes, self._range)
        excess = variance(0.0) - observed  # so that the interval excludes 0 exactly where p is below 0.05

        def total(true: float) -> float:
            return max(observed, variance(true) - excess) + of_seeds

        low, high = (score_bound(mean, critical, total, end) for end in (-bound, bound))
        return low, high

    def _variance_of_seeds(self, a: str, b: str) -> float:
        """Median of the variance of the means' difference from the choice of seeds."""
        parts = [self.seed_std[name] ** 2 / len(self.scores[name].values) for name in (a, b) if name in self.seed_std]
        return float(np.median(sum(parts))) if parts else 0.0

    def required_sample(
        self, difference: Difference, pairs: Sequence[tuple[str, str]], margin: float | None = None
    ) -> RequiredSample:
        """The test items and seeds that would decide the comparison, averaged over the posterior of the variance."""
        known = self.variances(difference, pairs)
        return required_sample(difference.mean, margin, known) if known else RequiredSample()

    def variances(self, difference: Difference, pairs: Sequence[tuple[str, str]]) -> SampleVariances | None:
        """What the ladder knows of the variance of a difference; None without an interval."""
        if not math.isfinite(difference.half_width):
            return None
        a, b = difference.a, difference.b
        items = float((self.item_errors[a] - self.item_errors[b]).var())
        error = math.sqrt(items + self._variance_of_seeds(a, b))
        # Half the width of the intervals in standard errors without variance between seeds, the same for all pairs.
        key = tuple(pairs)
        if key not in self._critical:
            samples = np.array([self.item_errors[a] - self.item_errors[b] for a, b in pairs])
            errors = samples.std(1, keepdims=True)
            largest = np.abs(samples / np.where(errors > 0, errors, 1.0)).max(0)
            self._critical[key] = max(Z_95, float(np.quantile(largest, CONFIDENCE_LEVEL)))
        many_seeds = self._critical[key]
        return SampleVariances(
            item=items * self.items,
            seed=np.asarray(sum(self.seed_std.get(name, np.zeros(1)) ** 2 for name in (a, b))),
            items=self.items,
            seeds=min((len(self.scores[name].values) for name in (a, b) if name in self.seed_std), default=1),
            critical=max(many_seeds, difference.half_width / error) if error else many_seeds,
            many_seeds=many_seeds,
        )


def _tail(deviations: Floats, size: float) -> float:
    """The share of samples that deviate at least that much; never 0, because the samples are finitely many."""
    return float(min(1.0, ((deviations >= size).sum() + 0.5) / len(deviations)))
