"""How far scores of rungs may be trusted: every statement from one set of joint draws, paired by test item.

A rung's score has two sources of chance. Which items were asked: resampled with replacement, the same items for all
rungs at once (Efron 1979). Which seed trained it: two or three seeds resampled would understate their spread and know
no tails, so a t-distributed error of the mean takes their place, with K(S-1) degrees of freedom from K trained rungs of
S seeds; a rung's spread counts as at least the pooled one, since three seeds agree by luck easily, and as the pooled
one where only one of its seeds has finished. With one seed of every rung nothing is known of seeds, and the verdict has
to say so. Few items know their own variance badly: what is drawn from n of them is as wide as a t-distribution with n-1
degrees of freedom (Student 1908), and fewer than FEWEST tell nothing apart.

Several differences are looked at together: their intervals hold simultaneously at 95 %, by the largest standardized
deviation among the draws (single-step max-T, Westfall & Young 1993). The adjusted p is below 0.05 exactly where that
interval leaves out zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from engine.runs.result import Interval

DRAWS = 4000
LEVEL = 0.95
NORMAL = 1.96
"""Standard normal quantile of 97.5 %."""
POWER_Z = 0.8416
"""Standard normal quantile of 80 %."""
MOST_ITEMS = 1_000_000
FEWEST = 6
"""Paired items from which a difference can be told apart: five that agree have a sign test's p of 2 / 2**5 > 0.05."""
KEPT = 1 << 22
"""Numbers of a resampling that are held at a time."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """One rung on the test items: values (S seeds, n items)."""

    values: Floats
    weights: Floats | None = None
    """(n,) answer tokens of the items where `values` are summed losses; None where every item counts alike."""
    seeds: tuple[int, ...] = ()
    """Of the rows of `values`; without them the rows are 0, 1, 2 …"""
    untrained: bool = False
    """The base: one row, which training's seeds do not touch."""

    def by_seed(self) -> dict[int, Floats]:
        """Seed -> (n,) values."""
        return dict(zip(self.seeds or range(len(self.values)), self.values, strict=True))

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.values).all())

    @property
    def seed_means(self) -> Floats:
        """(S,) each seed's mean over the items."""
        total = self.values.shape[1] if self.weights is None else self.weights.sum()
        return np.asarray(self.values.sum(1) / total)

    @property
    def mean(self) -> float:
        return float(self.seed_means.mean())


@dataclass(frozen=True)
class Difference:
    """Rung a less rung b."""

    a: str
    b: str
    mean: float
    low: float
    high: float
    p: float
    adjusted: float
    items_variance: float
    """Of one item's paired difference."""
    seeds_variance: float
    """Of one seed's difference."""
    critical: float
    """The multiple of the standard error that makes the simultaneous interval."""
    lasting: float
    """What that multiple would be if seeds were many: a spread of few seeds makes it large."""

    @property
    def told_apart(self) -> bool:
        return self.low > 0 or self.high < 0


class BootstrapSamples:
    """Joint draws of the means of all rungs: the possible truths behind what was seen.

    `answers` maps a rung's name to what it answered; all have the same n items in the same order. `bounded` says that
    values lie between 0 and 1: then half an item of +1 and half an item of -1 are added to every difference's variance,
    so that items all alike do not prove certainty (Agresti & Min 2005 for paired proportions).
    """

    def __init__(self, answers: Mapping[str, Answers], bounded: bool, seed: int = 0) -> None:
        self.answers, self.bounded = dict(answers), bounded
        first = next(iter(self.answers.values()))
        self.n = first.values.shape[1]
        if any(answer.values.shape[1] != self.n for answer in self.answers.values()):
            raise ValueError("the rungs answered different items")
        self.spread, self.freedom = _spreads(self.answers)
        self.by_items = _by_items(self.answers, self.n, seed)
        random = np.random.default_rng(seed + 1)
        few = _widening(self.n, seed + 2)
        self.means: dict[str, Floats] = {}
        for name, answer in self.answers.items():
            seeds = len(answer.values)
            wobble = random.standard_t(self.freedom, DRAWS) if self.freedom else np.zeros(DRAWS)
            by_items = answer.mean + (self.by_items[name] - answer.mean) * few
            drawn = by_items + wobble * self.spread[name] / math.sqrt(seeds)
            self.means[name] = drawn + random.normal(0.0, self._floor / math.sqrt(2), DRAWS)

    @property
    def _floor(self) -> float:
        return 1.0 / self.n if self.bounded else 0.0

    def interval(self, name: str) -> Interval:
        """A rung's mean with its own 95 % interval."""
        answers = self.answers[name]
        found, values = self._interval(answers.mean, self.means[name], self.bounded), answers.values
        return found.widened(float(values.flat[0])) if self.bounded and values.min() == values.max() else found

    def share(self, part: str, whole: str) -> Interval:
        """part / whole of scores, never below 0; the caller has made sure that the whole is not near zero."""
        mean = self.answers[part].mean / self.answers[whole].mean
        found = self._interval(mean, self.means[part] / self.means[whole])
        found.low = None if found.low is None else max(0.0, found.low)
        return found

    def share_of_gain(self, part: str, whole: str, base: str) -> Interval:
        """(part - base) / (whole - base); the caller has made sure that the whole's gain is not near zero."""
        origin = self.answers[base].mean
        mean = (self.answers[part].mean - origin) / (self.answers[whole].mean - origin)
        gains = (self.means[part] - self.means[base]) / (self.means[whole] - self.means[base])
        return self._interval(mean, gains)

    def _interval(self, mean: float, draws: Floats, clip: bool = False) -> Interval:
        if self.n == 1:
            return Interval(mean=mean, low=None, high=None, rows=1)
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        if clip:
            low, high = max(0.0, low), min(1.0, high)
        return Interval(mean=mean, low=float(low), high=float(high), rows=self.n)

    def differences(self, pairs: Sequence[tuple[str, str]]) -> list[Difference]:
        """Each pair's difference, with intervals that hold for all of them together; infinite below FEWEST items."""
        seen = np.array([self.answers[a].mean - self.answers[b].mean for a, b in pairs])
        items = np.array([(self.by_items[a] - self.by_items[b]).var() for a, b in pairs])
        seeds = np.array([self._seed_variance(a) + self._seed_variance(b) for a, b in pairs])
        error = np.sqrt(items + seeds + self._floor**2)
        error = np.where(error > 0, error, 1e-12)
        drawn = np.array([self.means[a] - self.means[b] for a, b in pairs])  # (pairs, DRAWS)
        deviations = np.abs(drawn - seen[:, None]) / error[:, None]
        largest = deviations.max(0)
        critical = float(np.quantile(largest, LEVEL, method="higher"))  # one of the draws, as p counts them
        if self.n < FEWEST:
            critical = math.inf
        lasting = self._by_items_alone(pairs)
        found = []
        for number, (a, b) in enumerate(pairs):
            size = abs(seen[number]) / error[number] if self.n >= FEWEST else 0.0
            half, most = critical * error[number], 1.0 if self.bounded and self.n >= FEWEST else math.inf
            found.append(
                Difference(
                    a,
                    b,
                    float(seen[number]),
                    max(-most, float(seen[number] - half)),
                    min(most, float(seen[number] + half)),
                    _tail(deviations[number], size),
                    _tail(largest, size),
                    float(items[number]) * self.n,
                    self._spread_squared(a) + self._spread_squared(b),
                    critical,
                    lasting,
                )
            )
        return found

    def _by_items_alone(self, pairs: Sequence[tuple[str, str]]) -> float:
        """The simultaneous multiple of the standard error where no seed strays."""
        drawn = np.array([self.by_items[a] - self.by_items[b] for a, b in pairs])
        error = drawn.std(1, keepdims=True)
        largest = np.abs((drawn - drawn.mean(1, keepdims=True)) / np.where(error > 0, error, 1.0)).max(0)
        return max(NORMAL, float(np.quantile(largest, LEVEL)))

    def _spread_squared(self, name: str) -> float:
        return self.spread[name] ** 2

    def _seed_variance(self, name: str) -> float:
        return self._spread_squared(name) / len(self.answers[name].values)


def needed(difference: Difference, items: int, seeds: int) -> tuple[int | None, int | None]:
    """(items, seeds) at which a difference of the observed size is told apart in 80 % of cases; None: not so.

    Items alone where they can do it with the seeds there are (then seeds is None); else both, half of the variance
    that may remain given to each, and the seeds then many. The usual normal approximation:
    (c + 0.84)^2 variance <= difference^2.
    """
    if difference.mean == 0 or not math.isfinite(difference.mean) or not math.isfinite(difference.critical):
        return None, None
    allowed = (difference.mean / (difference.critical + POWER_Z)) ** 2
    left = allowed - difference.seeds_variance / seeds
    if left > 0:
        wanted = math.ceil(difference.items_variance / left)
        if wanted <= MOST_ITEMS:
            return max(wanted, items + 1), None
    allowed = (difference.mean / (difference.lasting + POWER_Z)) ** 2
    wanted = max(items, math.ceil(2 * difference.items_variance / allowed))
    more = math.ceil(difference.seeds_variance / (allowed - difference.items_variance / wanted))
    return (wanted, max(more, seeds + 1)) if wanted <= MOST_ITEMS and more <= 1000 else (None, None)


def mcnemar(a: Floats, b: Floats) -> float:
    """Exact two-sided p that two yes/no scores (n,) differ: binomial over the items where they disagree."""
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    trials = only_a + only_b
    if not trials:
        return 1.0
    tail: int = sum(math.comb(trials, k) for k in range(min(only_a, only_b) + 1))
    return float(min(1.0, 2 * tail / 2**trials))


def _spreads(answers: Mapping[str, Answers]) -> tuple[dict[str, float], int]:
    """(standard deviation of one seed's mean by rung, degrees of freedom behind it)."""
    several = {name: answer.seed_means for name, answer in answers.items() if len(answer.values) > 1}
    freedom = sum(len(means) - 1 for means in several.values())
    if not freedom:
        return dict.fromkeys(answers, 0.0), 0
    pooled = sum(((means - means.mean()) ** 2).sum() for means in several.values()) / freedom
    own = {name: float(means.var(ddof=1)) for name, means in several.items()}
    return {
        name: 0.0 if answer.untrained else math.sqrt(max(own.get(name, 0.0), pooled))
        for name, answer in answers.items()
    }, freedom


def _tail(deviations: Floats, size: float) -> float:
    """The share of draws at least that far out, never 0: there are only so many draws."""
    return float((1 + (deviations >= size).sum()) / (1 + len(deviations)))


def _by_items(answers: Mapping[str, Answers], n: int, seed: int) -> dict[str, Floats]:
    """(DRAWS,) means of each rung over resampled items, the same items for all."""
    weights = next(iter(answers.values())).weights  # the items' own, and so the same for all rungs
    columns = [*(answer.values.mean(0) for answer in answers.values()), np.ones(n) if weights is None else weights]
    sums = np.concatenate([counts @ np.stack(columns, axis=1) for counts in _resampled(n, seed)])
    return dict(zip(answers, (sums[:, :-1] / sums[:, -1:]).T, strict=True))


def _widening(n: int, seed: int) -> Floats:
    """(DRAWS,) what makes the deviations of resampled means of n items t-distributed; 1 where there are many."""
    if n == 1:
        return np.ones(DRAWS)
    spread = np.random.default_rng(seed).chisquare(n - 1, DRAWS)
    return np.asarray(np.sqrt(n / spread))


def _resampled(n: int, seed: int) -> Iterator[Floats]:
    """Portions of (draws, n): how often each item came up, DRAWS in all; few at a time where there are many items."""
    if n * DRAWS <= KEPT:
        yield _counts(n, seed)
        return
    random = np.random.default_rng(seed)
    portion = max(1, KEPT // n)
    for start in range(0, DRAWS, portion):
        yield random.multinomial(n, np.full(n, 1 / n), min(portion, DRAWS - start)).astype(float)


@lru_cache(maxsize=2)
def _counts(n: int, seed: int) -> Floats:
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), DRAWS).astype(float)
