"""Confidence intervals of ratios of costs, which are measured once per seed.

The noise of a measurement is assumed to be a factor, lognormal and independent between seeds; each of the two costs has
a noise of its own. Three or more seeds of both measure it. Fewer are not enough: Student's quantile is
12.7 for two measurements, and one shows no noise at all. There the interval is not wider than noise of MAX_NOISE
makes it (or of the observed deviation, if that is larger). That is an assumption: measured are 2.4 and 3.0% between the
seeds of 24 rungs on an undisturbed CPU (`tools/rule`). Measurements that other load disturbed are left out before
(`engine/ladder/results.py`). The few steps of a timing probe are not evidence: they vary within one run, not between
runs.

A prior for noise between 3 and 20% would have to believe mainly in 20% to cover at 20%, and gives intervals of ± 0.34
(of the logarithm) for two seeds at a noise of 3%, instead of 0.18. Coverage and widths: `tools/RESULTS.md`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from engine.runs.run.result import Z_95, student_quantile

MIN_NOISE_SEEDS = 3
"""Seeds of both costs from which their noise is measured, not assumed."""
MAX_NOISE = 0.2
"""Largest noise for which intervals from fewer seeds cover: a standard deviation of the logarithm."""


def ratio_interval(own: Sequence[float], reference: Sequence[float]) -> tuple[float, float]:
    """95% interval of the ratio of two costs, each measured once per seed; all are positive.

    Welch's (1947) on the logarithms. If a cost has fewer than MIN_NOISE_SEEDS seeds, the interval is at most as wide as
    noise of MAX_NOISE makes it, or the observed noise if that is larger.
    """
    logs = [np.log(np.asarray(values, dtype=float)) for values in (own, reference)]
    counts = [len(values) for values in logs]
    observed = [float(values.var(ddof=1)) if len(values) > 1 else 0.0 for values in logs]
    half = _welch_half_width(observed, counts)
    if min(counts) < MIN_NOISE_SEEDS or not half:  # equal values show no noise either
        largest = (max(variance, MAX_NOISE**2) / count for variance, count in zip(observed, counts, strict=True))
        half = min(half or math.inf, Z_95 * math.sqrt(sum(largest)))
    middle = float(logs[0].mean() - logs[1].mean())
    return math.exp(middle - half), math.exp(middle + half)


def _welch_half_width(variances: Sequence[float], counts: Sequence[int]) -> float:
    """Half the width of Welch's interval for the difference of two means; 0 where the values show no noise.

    With two values of one sample and more of the other there is one degree of freedom: the variance of two values is
    often far too small, and Welch's degrees of freedom then are those of the other sample.
    """
    of_means = [variance / count for variance, count in zip(variances, counts, strict=True)]
    variance = sum(of_means)
    if min(counts) < 2 or not variance:
        return 0.0
    degrees = variance**2 / sum(own**2 / (count - 1) for own, count in zip(of_means, counts, strict=True))
    if min(counts) == 2 < max(counts):
        degrees = 1.0
    return _quantile(degrees) * math.sqrt(variance)


def _quantile(degrees: float) -> float:
    """Student's quantile between two whole degrees of freedom: its logarithm is nearly linear in their inverse."""
    few = math.floor(degrees)
    share = (1 / few - 1 / degrees) / (1 / few - 1 / (few + 1))
    return float(student_quantile(few) ** (1 - share) * student_quantile(few + 1) ** share)
