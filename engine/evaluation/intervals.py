"""Means and paired differences with 95% confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from engine.runs.run.result import MIN_ITEMS, Z_95, Interval, student_quantile

RESAMPLES = 2000
BLOCK = 1 << 16
"""Item indices that are drawn at once."""
MIN_SKEWNESS = 1e-6
"""Skewness divided by the root of the number of items below which values count as symmetric."""


def score_interval(
    values: Sequence[float],
    bounds: tuple[float, float] = (0.0, 1.0),
    groups: Sequence[str] = (),
    weights: Sequence[float] | None = None,
) -> Interval:
    """`mean_interval` of the items' scores, or with answer tokens as weights of their mean losses.

    `groups`: as in `paired_interval`.
    """
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    sums, sizes = group_sums(np.asarray(values, dtype=float)[None] * weight, weight, groups)
    return mean_interval(sums[0], sizes, bounds, len(values))


def mean_interval(
    sums: np.ndarray, sizes: np.ndarray | None, bounds: tuple[float, float], items: int | None = None
) -> Interval:
    """Mean with Student's interval, which for a model without seeds is the same in a run and in a ladder.

    To the variance of bounded scores half of what a ladder adds to a difference is added (Agresti & Min 2005), and the
    interval of equal scores is widened; of scores without bounds the skewness counts. Fewer than two items give no
    interval; a non-finite value gives no mean.

    Args:
        sums: (n,) of the items or groups of items, as `group_sums` returns them.
        sizes: (n,) of these; None if all are 1.
        bounds: Lowest and highest possible score of an item.
        items: Number of items, n by default.
    """
    units = len(sums)
    sizes, items = np.ones(units) if sizes is None else sizes, units if items is None else items
    if not units or not np.isfinite(sums).all() or sizes.sum() <= 0:
        return Interval(mean=None, low=None, high=None, rows=items)
    mean = float(sums.sum() / sizes.sum())
    if units < 2:
        return Interval(mean=mean, low=None, high=None, rows=items)
    deviations = (sums - mean * sizes) / sizes.mean()
    inflation, freedom = small_sample(sizes)
    variance, reach = inflation * float((deviations**2).sum()) / units**2, student_quantile(max(1, int(freedom)))
    errors = np.array([-reach, reach])
    if math.isfinite(extent := bounds[1] - bounds[0]):
        variance += (extent / units) ** 2 / 2
    else:
        skewness = float(np.mean(deviations**3) / max(float(np.mean(deviations**2)) ** 1.5, 1e-300))
        errors = skewed_errors(errors, skewness, freedom + 1)
    low, high = (float(end) for end in np.clip(mean + errors * math.sqrt(variance), *bounds))
    interval = Interval(mean=mean, low=low, high=high, rows=units)
    scores = sums[sizes > 0] / sizes[sizes > 0]
    if scores.min() == scores.max():
        interval = interval.widened(float(scores[0]), bounds)
    interval.rows = items
    return interval


def skewed_errors(errors: np.ndarray, skewness: float, items: float) -> np.ndarray:
    """Standardized errors of a mean of skewed values from symmetric ones, by the inverse of Hall's transformation.

    Where it makes an error smaller, on the side of the short tail, the symmetric one is kept: few values understate
    their skewness. Hall, On the removal of skewness by transformation (1992, J. R. Stat. Soc. B 54, 221).
    """
    scale = skewness / math.sqrt(items)
    if abs(scale) < MIN_SKEWNESS:
        return errors
    moved = 3 / scale * (1 - np.cbrt(1 - scale * (errors + scale / 6)))
    return np.where(errors > 0, np.maximum(errors, moved), np.minimum(errors, moved))


def paired_interval(
    differences: Sequence[float],
    bounds: tuple[float, float],
    weights: Sequence[float] | None = None,
    groups: Sequence[str] = (),
) -> Interval:
    """Mean of paired differences with its 95% interval; none below MIN_ITEMS independent items.

    The widest of three: the bootstrap's, Student's, and for bounded scores the score interval of paired proportions
    (Tango 1998), in which no difference among few items does not mean that there is none; for losses, which may have
    heavy tails, the studentized bootstrap's. To the variance of bounded scores half an item of +range and half an item
    of -range are added, as in a ladder (Agresti & Min 2005).

    Args:
        bounds: Lowest and highest possible score of an item. If one is infinite, only items with weights are expected.
        weights: As in `bootstrap`.
        groups: Keys of items that depend on each other, which count as one; '' for an item alone. () for none.
    """
    item_weights = np.ones(len(differences)) if weights is None else np.asarray(weights, dtype=float)
    value, weight = group_sums(np.asarray(differences, dtype=float)[None] * item_weights, item_weights, groups)
    items = value.shape[1]
    inflation, freedom = small_sample(weight)
    interval = bootstrap((value[0] / weight).tolist(), weight.tolist())
    if items < MIN_ITEMS or interval.mean is None or interval.low is None or interval.high is None:
        return Interval(mean=interval.mean, low=None, high=None, rows=len(differences))
    extent, mean, total = bounds[1] - bounds[0], interval.mean, float(weight.sum())
    observed = float(((value[0] - mean * weight) ** 2).sum()) * inflation / total**2
    below = above = student_quantile(max(1, int(freedom)))
    if math.isfinite(extent):
        observed += (extent / items) ** 2
        variance = discordance_variance(observed, value[0], weight, extent)
        ends = [score_bound(mean, Z_95, variance, end) for end in (-extent, extent)]
    else:
        smallest, largest = _studentized(value[0], weight, mean)
        below, above, ends = max(below, largest), max(above, -smallest), [mean, mean]
    error = math.sqrt(observed)
    low, high = max(-extent, min(ends[0], mean - below * error)), min(extent, max(ends[1], mean + above * error))
    return Interval(mean=mean, low=min(interval.low, low), high=max(interval.high, high), rows=len(differences))


def _studentized(values: np.ndarray, weights: np.ndarray, mean: float) -> tuple[float, float]:
    """2.5% and 97.5% quantile of (resampled mean - mean) / its standard error (bootstrap-t, Efron and Tibshirani 1993).

    Of skewed values, such as losses, it is wider on the side on which the mean is uncertain. Resamples of equal values
    have no error and are left out.
    """
    ratios: list[np.ndarray] = []
    for chosen in _resamples(len(values)):
        value, weight = values[chosen], weights[chosen]
        total = np.maximum(weight.sum(axis=1), 1e-300)
        means = value.sum(axis=1) / total
        errors = np.sqrt(((value - means[:, None] * weight) ** 2).sum(axis=1)) / total
        ratios.append((means[errors > 0] - mean) / errors[errors > 0])
    known = np.concatenate(ratios)
    if not len(known):
        return 0.0, 0.0
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def group_sums(values: np.ndarray, weights: np.ndarray, groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(S, groups) sums of the items' summed scores (S, n) over each group, and (groups,) of their weights (n,).

    An item with the key '' is a group of its own. The quotient of the sums is the mean over the items, and groups are
    the units of its variance, as in the linearization of a ratio (Cochran 1977): items of a group may depend on each
    other.
    """
    if not any(groups):
        return values, weights
    numbers: dict[str | int, int] = {}
    places = [numbers.setdefault(key or place, len(numbers)) for place, key in enumerate(groups)]
    sums = np.stack([np.bincount(places, given) for given in values])
    return sums, np.bincount(places, weights)


def small_sample(sizes: np.ndarray) -> tuple[float, float]:
    """Correction factor of the observed variance of a mean, and degrees of freedom; n / (n - 1), n - 1 of equal sizes.

    Of groups of unequal sizes both are further from those of many items: a large group draws the mean towards itself
    and decides the variance alone. The factor is exact if all groups' means vary alike (Bell and McCaffrey 2002); the
    degrees of freedom are those of the effective number of groups, (sum of sizes)² / sum of squares (Kish 1965).

    Args:
        sizes: (n,) weights of items or groups.
    """
    sizes = sizes / sizes.max()  # equal ones are exactly 1, so that the degrees of freedom are exactly n - 1
    effective = float(sizes.sum() ** 2 / (sizes**2).sum())
    parts, squares = sizes / sizes.sum(), 1 / effective
    observed = squares - 2 * float((parts**3).sum()) + squares**2  # expected part of the variance of a group's mean
    return (squares / observed if len(sizes) > 1 else 1.0), effective - 1


def paired_variance(difference: float, better: float, worse: float, items: float) -> float:
    """Variance of the mean difference of paired scores of 0 or 1 if its true value is `difference`.

    By the maximum-likelihood estimate of the discordant probabilities under this value (Tango 1998, Statistics in
    Medicine 17, 891): unlike the observed variance it is not zero where no item differs.

    Args:
        difference: Between -1 and 1.
        better: Sum of the positive differences of the items; of scores of 0 or 1 their number.
        worse: Sum of the negative ones, without sign.
        items: Number of items.
    """
    if difference < 0:
        difference, better, worse = -difference, worse, better
    linear = -better - worse + (2 * items - better + worse) * difference
    root = math.sqrt(max(0.0, linear**2 + 8 * items * worse * difference * (1 - difference)))
    return max(0.0, 2 * (root - linear) / (4 * items) + difference * (1 - difference)) / items


def discordance_variance(
    observed: float, values: np.ndarray, sizes: np.ndarray, extent: float
) -> Callable[[float], float]:
    """The variance of a mean difference of bounded scores as a function of its true value; never below the observed.

    `paired_variance` for scores that are no longer 0 or 1: means over seeds, parts of an answer, sums over a group of
    items. Those that differ do so by a part of the extent, which scales the variance as overdispersion does. One group
    of the usual size that differs entirely is added to them, because few that differ say little.

    Args:
        observed: The observed variance of the mean.
        values: (groups,) summed differences of the items.
        sizes: (groups,) numbers of items.
        extent: Distance of the bounds of a score.
    """
    part, items = values / extent, float(sizes.sum())
    better, worse = float(part.clip(min=0).sum()), float(-part.clip(max=0).sum())
    unit = extent**2 * (float((sizes**2).sum()) / items + float((part**2).sum())) / (1 + better + worse)
    return lambda true: max(observed, unit * paired_variance(true / extent, better, worse, items))


def score_bound(mean: float, critical: float, variance: Callable[[float], float], limit: float) -> float:
    """The value nearest to `limit` that is no more than `critical` of its own standard errors from `mean`."""
    if abs(mean - limit) <= critical * math.sqrt(variance(limit)):
        return limit
    inside, outside = mean, limit
    for _ in range(50):
        middle = (inside + outside) / 2
        within = abs(mean - middle) <= critical * math.sqrt(variance(middle))
        inside, outside = (middle, outside) if within else (inside, middle)
    return outside


def bootstrap(values: Sequence[float], weights: Sequence[float] | None = None) -> Interval:
    """Weighted mean over items with its percentile bootstrap interval (Efron 1979), resampling items.

    `weights`: per item (answer tokens, for a loss per token). Fewer than two items give no interval; a non-finite value
    gives no mean.
    """
    value = np.asarray(values, dtype=float)
    weight = np.ones_like(value) if weights is None else np.asarray(weights, dtype=float)
    if not len(value) or not np.isfinite(value).all() or weight.sum() <= 0:
        return Interval(mean=None, low=None, high=None, rows=len(value))
    mean = float((value * weight).sum() / weight.sum())
    if len(value) < 2:
        return Interval(mean=mean, low=None, high=None, rows=1)
    product, means = value * weight, []  # of each resample, and `mean` for those without weight
    for chosen in _resamples(len(value)):
        total = weight[chosen].sum(axis=1)
        means.append(np.full(len(total), mean))
        np.divide(product[chosen].sum(axis=1), total, out=means[-1], where=total > 0)
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(mean=mean, low=float(low), high=float(high), rows=len(value))


def _resamples(items: int) -> Iterator[np.ndarray]:
    """(resamples, items) indices of the items of RESAMPLES resamples, the same in each call. In blocks: all indices of
    10,000 items would take 160 MB, and one resample at a time takes 20 times as long with 40 items (9.8 instead of
    0.5 ms).
    """
    random, size = np.random.default_rng(0), max(1, BLOCK // items)
    for start in range(0, RESAMPLES, size):
        yield random.integers(0, items, (min(size, RESAMPLES - start), items))
