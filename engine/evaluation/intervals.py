"""Means with bootstrap 95% confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.runs.result import Interval

RESAMPLES = 2000


def of_scores(values: Sequence[float]) -> Interval:
    """Bootstrap interval of scores between 0 and 1, widened if all rows have the same score."""
    interval = bootstrap(values)
    return interval.widened(values[0]) if len(set(values)) == 1 else interval


def bootstrap(values: Sequence[float], weights: Sequence[float] | None = None, seed: int = 0) -> Interval:
    """Weighted mean over rows with its percentile bootstrap interval (Efron 1979), resampling rows.

    `weights`: per row (answer tokens, for a loss per token). Fewer than two rows give no interval; a non-finite value
    gives no mean.
    """
    value = np.asarray(values, dtype=float)
    weight = np.ones_like(value) if weights is None else np.asarray(weights, dtype=float)
    if not len(value) or not np.isfinite(value).all() or weight.sum() <= 0:
        return Interval(mean=None, low=None, high=None, rows=len(value))
    mean = float((value * weight).sum() / weight.sum())
    if len(value) < 2:
        return Interval(mean=mean, low=None, high=None, rows=1)
    random = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        chosen = random.integers(0, len(value), len(value))
        total = weight[chosen].sum()
        means[number] = (value[chosen] * weight[chosen]).sum() / total if total > 0 else mean
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(mean=mean, low=float(low), high=float(high), rows=len(value))
