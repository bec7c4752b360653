"""Simulated timings of two rungs, and how often the interval of their ratio contains the true one.

Noise is lognormal: a timing is the true one times the exponential of a normal value. In disturbed cells one timing in
ten takes up to three times as long, and nobody noticed.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from engine.ladder.cost_ratios import ratio_interval
from engine.ladder.decisions import RULE_COST_RATIO
from engine.ladder.statistics import Floats

NOISE = (0.03, 0.05, 0.1, 0.15, 0.2)
UNEQUAL_NOISE = ((0.03, 0.2), (0.2, 0.03), (0.1, 0.2))
UNEQUAL_SEEDS = ((1, 3), (3, 1), (2, 3), (1, 5), (2, 5), (5, 2), (3, 5))
DISTURBED, LONGEST = 0.1, 3.0
CHEAPER = 0.08 / RULE_COST_RATIO
"""A ratio of 0.08, as a part of one eighth."""


class CostCell(NamedTuple):
    """Seeds of both rungs, the noise of their timings, and whether some are disturbed."""

    seeds: tuple[int, int]
    noise: tuple[float, float]
    disturbed: bool = False


def cost_cells() -> Iterator[CostCell]:
    """1 to 5 seeds with equal and unequal noise, unequal seeds, and disturbed timings."""
    for seeds in range(1, 6):
        yield from (CostCell((seeds, seeds), noise) for noise in (*((own, own) for own in NOISE), *UNEQUAL_NOISE))
    for both, noise in product(UNEQUAL_SEEDS, ((0.03, 0.03), (0.2, 0.2), *UNEQUAL_NOISE[:2])):
        yield CostCell(both, noise)
    for seeds, own in product(range(1, 6), (0.05, 0.2)):
        yield CostCell((seeds, seeds), (own, own), disturbed=True)


def measure_costs(cell: CostCell, samples: int) -> tuple[float, float, float]:
    """Share of intervals that contain the true ratio, median factor from the ratio to their end, and share of those
    that show of a ratio of 0.08 that it is at most one eighth."""
    random = np.random.default_rng(zlib.crc32(repr(cell).encode()))
    logarithms: list[Floats] = []
    for seeds, noise in zip(cell.seeds, cell.noise, strict=True):
        logarithms.append(random.normal(0, noise, (samples, seeds)))
        if cell.disturbed:
            longer = np.log(random.uniform(1, LONGEST, (samples, seeds)))
            logarithms[-1] += np.where(random.random((samples, seeds)) < DISTURBED, longer, 0.0)
    ends = np.array([ratio_interval(own, full) for own, full in zip(*map(np.exp, logarithms), strict=True)])
    covered = (ends[:, 0] <= 1) & (ends[:, 1] >= 1)
    factor = math.sqrt(float(np.median(ends[:, 1] / ends[:, 0])))
    return float(covered.mean()), factor, float((CHEAPER * ends[:, 1] <= 1).mean())
