"""Simulated ratings of all items of two rungs, and how often a rater who stops when nothing would change is wrong.

The preference for an item depends on how much the rungs' scores differ on it: `none` not at all, `binary` on whether
they differ (3 of 10 items), `graded` on the difference. Items on which scores agree are ties more often. Items of a
group have a latent preference in common. `measure_stops` plays a rater who looks at the result after every few ratings.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import product
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from engine.extensions.judge.confidence_sequence import OrderedRatings, even_difference
from engine.extensions.judge.judge_dir import SETTLED
from engine.extensions.judge.pairs import disagreement_weights
from engine.extensions.judge.preferences import PreferenceFinding
from engine.extensions.judge.win_rates import PairScores, win_rate_so_far, win_rates
from engine.ladder.statistics import CONFIDENCE_LEVEL, Floats, item_scores
from engine.runs.run.result import MIN_ITEMS, Interval

LOOK_EVERY = 5
"""Ratings between two looks, as on the rating screen; a fiftieth of the items where that is more."""
ERROR_RATE = 1 - SETTLED


class Ratings(NamedTuple):
    """One cell: what all ratings of a pair of rungs are like."""

    items: int
    rate: float
    """Win rate of the items that are no ties."""
    ties: float
    """Share of ties, on average over the items."""
    disagreement: str = "none"
    group: int = 1
    """Items of a group, half of whose variance is common to all of them."""


def cells() -> Iterator[Ratings]:
    """Every number of items, win rate, share of ties and disagreement; and groups."""
    for items, rate, ties in product((50, 100, 300, 1000), (0.5, 0.6, 0.7, 0.8, 0.9), (0.0, 0.3, 0.6)):
        yield from (Ratings(items, rate, ties, disagreement) for disagreement in ("none", "binary", "graded"))
    for items, rate, ties in product((50, 100, 300, 1000), (0.5, 0.6, 0.7, 0.8, 0.9), (0.0, 0.3)):
        yield Ratings(items, rate, ties, group=5)


def all_ratings(cell: Ratings, random: np.random.Generator) -> tuple[Floats, Floats, tuple[str, ...]]:
    """Preferences, differences of scores without sign, and groups of all items."""
    items, groups = cell.items, np.arange(cell.items) // cell.group
    latent = random.normal(size=items)
    if cell.group > 1:
        latent = (latent + random.normal(size=groups[-1] + 1)[groups]) * math.sqrt(0.5)
    # Of the preference and of the share of ties, by the difference of the scores; their mean over the items is 1.
    gap, stronger, fewer = np.zeros(items), np.ones(items), np.ones(items)
    if cell.disagreement == "binary":
        gap = np.where(random.random(items) < 0.3, 1.0, 0.0)
        stronger, fewer = 0.66 + 1.14 * gap, 1.3 - gap
    elif cell.disagreement == "graded":
        gap = random.random(items)
        stronger, fewer = 2 * gap, 1.5 - gap
    thresholds = [*map(NormalDist().inv_cdf, np.clip(0.5 + (cell.rate - 0.5) * stronger, 0.02, 0.98).tolist())]
    values: Floats = np.where(latent < thresholds, 1.0, 0.0)
    values[random.random(items) < np.clip(cell.ties * fewer, 0, 0.95)] = 0.5
    return values, gap, tuple(map(str, groups)) if cell.group > 1 else ()


def finding(values: Floats, groups: tuple[str, ...]) -> PreferenceFinding:
    """What ratings of all these items show."""
    (rate,) = win_rates({("a", "b"): PairScores(values[None], groups=groups)})
    return rate.finding


class Stop(NamedTuple):
    """When a rater stops, because other ratings are said to change nothing."""

    ratings: int
    overturned: bool = False
    """Whether ratings of all items show something else."""
    interval: Interval | None = None
    """Of the win rate, then; None if it is never said."""


def first_stop(cell: Ratings, random: np.random.Generator) -> Stop:
    """The first stop of one rater."""
    values, gaps, groups = all_ratings(cell, random)
    weights = np.array(disagreement_weights(gaps.tolist()), dtype=float)
    order = np.argsort(random.exponential(size=cell.items) / weights)
    values, weights, groups = values[order], weights[order], tuple(groups[item] for item in order if groups)
    widest = _widest(cell.items, cell.group)
    for count in range(MIN_ITEMS, cell.items, _between_looks(cell)):
        ratings = OrderedRatings(values[:count], weights, groups)
        side: PreferenceFinding = "better" if ratings.mean > 0.5 else "worse"
        # What is necessary and fast comes first.
        away = ratings.capital(0.5, above=side == "better") >= 1 / ERROR_RATE
        near = all(ratings.capital(0.5 + sign * widest, sign < 0) >= 1 / ERROR_RATE for sign in (-1, 1))
        findings: tuple[PreferenceFinding, ...] = (side,) * away + ("undecided",) * near
        for found in findings:
            if (ratings.settled(found, CONFIDENCE_LEVEL) or 0.0) < SETTLED:
                continue
            shown = win_rate_so_far(("a", "b"), ratings, 0.0, 0.0)
            if shown.finding == found:
                return Stop(count, found != finding(values, groups), shown.rate)
    return Stop(cell.items)


def _between_looks(cell: Ratings) -> int:
    return max(LOOK_EVERY, cell.items // 50)


@lru_cache(maxsize=64)
def _widest(items: int, group: int) -> float:
    """Half the width of the interval of all items if no two values of a pair of groups are equal."""
    signs = (np.arange(items) // group) % 2.0
    keys = [str(item // group) for item in range(items)] if group > 1 else [""] * items
    return even_difference(item_scores(signs[None], None, keys), CONFIDENCE_LEVEL).half_width


def predicted_stop(cell: Ratings, random: np.random.Generator) -> Stop:
    """The same with a rule that is not calibrated: items by disagreement, and a normal prediction of all ratings."""
    values, gaps, groups = all_ratings(cell, random)
    order = np.argsort(-gaps, kind="stable")
    values, groups = values[order], tuple(groups[item] for item in order if groups)
    for count in range(MIN_ITEMS, cell.items, _between_looks(cell)):
        (now,) = win_rates({("a", "b"): PairScores(values[None, :count])})
        assert now.rate.low is not None and now.rate.high is not None and now.rate.mean is not None
        half = (now.rate.high - now.rate.low) / 2 * math.sqrt(count / cell.items)
        left = (cell.items - count) / (cell.items * count)
        predicted = NormalDist(now.rate.mean, math.sqrt((float(values[:count].var(ddof=1)) + 1 / count) * left))
        better, worse = 1 - predicted.cdf(0.5 + half), predicted.cdf(0.5 - half)
        if {"better": better, "worse": worse, "undecided": 1 - better - worse}[now.finding] >= SETTLED:
            (shown,) = win_rates({("a", "b"): PairScores(values[None, :count], groups=groups[:count])})
            return Stop(count, shown.finding != finding(values, groups), shown.rate)
    return Stop(cell.items)


def true_rate(cell: Ratings) -> float:
    """The win rate over all possible items."""
    values, *_ = all_ratings(cell._replace(items=200_000, group=1), np.random.default_rng(0))
    return float(values.mean())


def measure_stops(cell: Ratings, raters: int, rule: Callable[..., Stop] = first_stop) -> dict[str, float]:
    """Of so many raters: stops, how many of them all ratings overturn, whose intervals contain the true win rate; and
    the mean number of ratings."""
    seed, true = zlib.crc32(repr(cell).encode()), true_rate(cell)
    plays = [rule(cell, np.random.default_rng([seed, rater])) for rater in range(raters)]
    ends = [(stop.interval.low or 0.0, stop.interval.high or 1.0) for stop in plays if stop.interval]
    return {
        "stops": len(ends),
        "overturned": sum(stop.overturned for stop in plays),
        "covered": sum(low <= true <= high for low, high in ends),
        "ratings": float(np.mean([stop.ratings for stop in plays])),
    }
