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

from engine.extensions.judge.confidence_sequence import EVEN, OrderedRatings
from engine.extensions.judge.judge_dir import SETTLED
from engine.extensions.judge.pairs import disagreement_weights
from engine.extensions.judge.preferences import PreferenceFinding
from engine.extensions.judge.win_rates import PairScores, preference_finding, win_rates
from engine.ladder.statistics import CONFIDENCE_LEVEL, Floats
from engine.runs.run.result import MIN_ITEMS, Interval

TABLE_ERROR = 1.02
"""Factor by which a tabulated half-width may be wrong."""
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
    for count in range(MIN_ITEMS, cell.items, _between_looks(cell)):
        ratings = OrderedRatings(values[:count], weights, groups)
        for found in _possible_findings(ratings, cell):
            if (ratings.settled(found, CONFIDENCE_LEVEL) or 0.0) < SETTLED:
                continue
            low, high = ratings.bounds(CONFIDENCE_LEVEL)
            if preference_finding(low, high) == found:
                shown = Interval(mean=ratings.mean, low=low, high=high, rows=count)
                return Stop(count, found != finding(values, groups), shown)
    return Stop(cell.items)


def _possible_findings(ratings: OrderedRatings, cell: Ratings) -> Iterator[PreferenceFinding]:
    """What may be settled, by half-widths that are looked up in a table: fast, and never without one that is."""

    def bets_win(*means: float, above: bool) -> bool:
        return all(ratings.capital(mean, above) >= 1 / ERROR_RATE for mean in means)

    side = 1 if ratings.mean > EVEN else -1
    if bets_win(EVEN, above=side > 0):
        narrow, wide = (_tabulated_half_width(variance, cell) for variance in ratings.final_variances())
        if bets_win(EVEN + side * wide / TABLE_ERROR, above=side > 0):
            yield "better" if side > 0 else "worse"
    if bets_win(EVEN + _widest(cell), above=False) and bets_win(EVEN - _widest(cell), above=True):
        narrow, wide = (_tabulated_half_width(variance, cell) for variance in ratings.final_variances())
        near = narrow * TABLE_ERROR
        if bets_win(EVEN + near, above=False) and bets_win(EVEN - near, above=True):
            yield "undecided"


def _between_looks(cell: Ratings) -> int:
    return max(LOOK_EVERY, cell.items // 50)


def _tabulated_half_width(variance: float, cell: Ratings) -> float:
    """About half the width of the interval of all items whose mean has this variance."""
    return float(np.interp(math.sqrt(variance), *_half_widths(cell.items, cell.group)))


def _widest(cell: Ratings) -> float:
    """More than half the width of the interval of all items, for any values of the items."""
    return TABLE_ERROR * float(_half_widths(cell.items, cell.group)[1].max())


@lru_cache(maxsize=64)
def _half_widths(items: int, group: int) -> tuple[Floats, Floats]:
    """Standard errors of the mean of all items, and half the width of its interval at each."""
    keys = tuple(str(item // group) for item in range(items)) if group > 1 else ()
    ratings = OrderedRatings(np.array([EVEN]), np.ones(items), keys)
    errors = np.linspace(0.0, 0.75 * math.sqrt(group / items), 40)
    return errors, np.array([ratings.half_width(error**2, CONFIDENCE_LEVEL) for error in errors])


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


@lru_cache(maxsize=1)
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
