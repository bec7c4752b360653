"""Posterior distribution of the standard deviation between seeds of each rung, by a hierarchical lognormal prior.

Two or three seeds say little about their own standard deviation, and one says nothing. The standard deviations s_r of
the rungs are therefore estimated together:

    log m   ~ Normal(log median, common spread)      typical standard deviation of this ladder
    log s_r ~ Normal(log m, spread of rungs)         of rung r
    seed means of rung r ~ Normal(·, s_r² + w_r)     w_r: variance of the residuals, already in the part of the items

The integrals over m and s_r are sums over fixed grids. Where the prior comes from, as tried in simulations
(`tests/bench/RESULTS.md`):

- Where a rung has several seeds, the prior is nearly flat (REPLICATED), so that intervals also cover if the standard
  deviation is far from its median.
- With one seed for every rung the prior stands alone and is informative (UNREPLICATED): a median of 1.5 points of a
  share, and less than 6 points in 95 of 100 ladders.
- A rung with fewer seeds than others may be the one whose seeds vary most. What the others say about it can only make
  its standard deviation larger than its own seeds and the prior do. If its variance is significantly larger than the
  others', it is not compared (`unlike_the_others`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from engine.ladder.quasi_random import POINTS, Floats, uniform

REPLICATED, UNREPLICATED = (2.0, 1.3), (0.7, 0.4)
"""(common spread, spread of rungs), of logarithms; the spread of rungs by the rung's seeds, the common one by the
ladder's."""
SIGNIFICANCE_LEVEL = 0.01
"""Of the test whether a rung's spread is unlike the others'."""
GRID = np.linspace(np.log(0.01), np.log(100.0), 96)
"""Logarithms of standard deviations, in units of the median."""
COMMON_GRID = np.linspace(-3.0, 3.0, 15)
"""Of log m, in units of the common spread."""
STEPS = 2000
"""Of Simpson's rule."""


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

    median: of the prior. Uses as many coordinates of the points as there are rungs, and one more.
    """
    found = _posterior(evidence, median, range(1, len(evidence) + 1))
    most = max(one.seeds for one in evidence)
    for rung, one in enumerate(evidence):
        if one.seeds < most:
            (alone,) = _posterior([one], median, [rung + 1])
            found[rung] = np.maximum(found[rung], alone)
    return found


def unlike_the_others(evidence: Sequence[SeedEvidence]) -> list[bool]:
    """Whether a rung has fewer seeds than another one and a significantly larger variance than the others together.

    One-sided F-test at SIGNIFICANCE_LEVEL. A rung with one seed has no variance to test.
    """
    most = max((one.seeds for one in evidence), default=0)
    found = []
    for rung, one in enumerate(evidence):
        others = [other for number, other in enumerate(evidence) if number != rung and other.seeds > 1]
        freedom, pooled = sum(other.seeds - 1 for other in others), sum(other.squares for other in others)
        unlike = False
        if 1 < one.seeds < most and one.squares > 0:
            ratio = one.squares / (one.seeds - 1) * freedom / pooled if pooled > 0 else np.inf
            unlike = f_tail(ratio, one.seeds - 1, freedom) < SIGNIFICANCE_LEVEL
        found.append(unlike)
    return found


def f_tail(ratio: float, above: int, below: int) -> float:
    """P(F >= ratio), F with these degrees of freedom of numerator and denominator: an incomplete beta integral."""
    end = float(np.arcsin(np.sqrt(below / (below + above * ratio))))
    return _beta_integral(end, above, below) / _beta_integral(np.pi / 2, above, below)


def _beta_integral(limit: float, above: int, below: int) -> float:
    """The integral of the beta density from 0 to sin²(limit), up to a factor, by Simpson's rule."""
    weights = np.ones(STEPS + 1)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    angles = np.linspace(0.0, limit, STEPS + 1)
    values = np.sin(angles) ** (below - 1) * np.cos(angles) ** (above - 1)
    return float((weights * values).sum() * limit / STEPS / 3)


def _posterior(evidence: Sequence[SeedEvidence], median: float, coordinates: Sequence[int]) -> list[Floats]:
    """(POINTS,) of each rung, which uses one of the coordinates; m uses coordinate 0."""
    deviations = median * np.exp(GRID)
    common_spread = (REPLICATED if any(one.seeds > 1 for one in evidence) else UNREPLICATED)[0]
    weights = np.exp(-(COMMON_GRID**2) / 2)
    joint = np.stack([_prior(common_spread, one.seeds > 1) * _likelihood(one, deviations) for one in evidence])
    mass = joint.sum(2)  # (rungs, common grid)
    common = np.cumsum(weights * mass.prod(0))
    order, sorted_points = _sorted(0)
    ends = np.searchsorted(sorted_points, common / common[-1])  # the points of each value of m
    found = []
    for rung, coordinate in enumerate(coordinates):
        values, points, begin = np.empty(POINTS), uniform(coordinate)[order], 0
        for level, end in enumerate(ends):
            if end > begin:
                shares = joint[rung, level] / mass[rung, level]
                values[order[begin:end]] = np.interp(points[begin:end], np.cumsum(shares) - shares / 2, GRID)
                begin = end
        found.append(median * np.exp(values))
    return found


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


def _likelihood(one: SeedEvidence, deviations: Floats) -> Floats:
    """Density of the sum of squares, up to a factor: chi-square with seeds − 1 degrees of freedom."""
    if one.seeds < 2:
        return np.ones_like(deviations)
    variance = deviations**2 + one.residual
    logarithm = -(one.seeds - 1) / 2 * np.log(variance) - one.squares / (2 * variance)
    return np.asarray(np.exp(logarithm - logarithm.max()))
