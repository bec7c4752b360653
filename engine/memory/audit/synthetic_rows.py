"""Rows of the lengths of real data, for an audit without the data."""

from __future__ import annotations

import math
import random

from engine.data.rows import Row

MEAN_TOKENS = 600
SPREAD = 0.6
"""Standard deviation of the logarithm of the length: half of the rows between 334 and 752 tokens."""


def log_normal_lengths(count: int, longest: int, mean: int = MEAN_TOKENS, seed: int = 0) -> list[int]:
    """Lengths of `count` rows in tokens, at most `longest`, from a log-normal distribution."""
    generator = random.Random(seed)
    location = math.log(mean) - SPREAD**2 / 2
    return [min(longest, max(8, round(generator.lognormvariate(location, SPREAD)))) for _ in range(count)]


def rows_of(lengths: list[int]) -> list[Row]:
    """Rows of these lengths with half of their tokens in the loss, without common prefixes."""
    return [
        Row([1 + number] * length, [-100] * (length // 2) + [5] * (length - length // 2), [1], "", "", False)
        for number, length in enumerate(lengths)
    ]
