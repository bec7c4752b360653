"""Win rates with the ladder's paired statistics, and measurements of how far a judge can be believed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.ladder.statistics import CONFIDENCE_LEVEL, Floats, MeanSamples, item_scores
from engine.runs.ladder.preferences import Preferred, RaterAgreement, WinRate
from engine.runs.ladder.rung_results import finding_of
from engine.runs.run.result import MIN_ITEMS, Z_95, Interval

EVEN = "even"
"""The reference of every win rate: a rung whose answers are preferred to half of the others."""
VALUES: dict[Preferred, float] = {"a": 1.0, "tie": 0.5, "b": 0.0}
"""What a decision adds to the win rate of rung a."""


@dataclass(frozen=True)
class PairScores:
    """The decisions about two rungs as scores of rung a, from 0 to 1."""

    values: Floats
    """(S seeds, n items): the mean over orders or raters."""
    seeds: tuple[int, ...] = ()
    wins: float = 0.0
    """Share of decisions for a."""
    losses: float = 0.0
    """Share of decisions for b."""
    groups: tuple[str, ...] = ()
    """(n,) keys of items that depend on each other; '' for an item alone, () if all are."""


def win_rates(pairs: Mapping[tuple[str, str], PairScores], level: float = CONFIDENCE_LEVEL) -> list[WinRate]:
    """The win rate of each pair; all of the same items, so that the intervals hold simultaneously at this level.

    A pair is a rung of the ladder's statistics whose score is the win rate, compared with one half: item and seed
    effects are those of the ladder.
    """
    if not pairs:
        return []
    first = next(iter(pairs.values()))
    items = first.values.shape[1]
    groups = first.groups or ("",) * items
    scores = {
        _key(pair): item_scores(pair_scores.values, None, groups, pair_scores.seeds)
        for pair, pair_scores in pairs.items()
    }
    scores[EVEN] = item_scores(np.full((1, items), 0.5), None, groups, untrained=True)
    samples = MeanSamples(scores, (0.0, 1.0))
    differences = samples.differences([(_key(pair), EVEN) for pair in pairs], level)
    rates = []
    for (pair, pair_scores), difference in zip(pairs.items(), differences, strict=True):
        known = math.isfinite(difference.low) and math.isfinite(difference.high)
        low, high = (max(0.0, 0.5 + difference.low), min(1.0, 0.5 + difference.high)) if known else (None, None)
        is_outlier = _key(pair) in samples.outliers
        finding = finding_of(difference.low, difference.high, None) if known and not is_outlier else "undecided"
        rates.append(
            WinRate(
                a=pair[0],
                b=pair[1],
                rate=Interval(mean=0.5 + difference.mean, low=low, high=high, rows=items),
                wins=pair_scores.wins,
                ties=max(0.0, 1 - pair_scores.wins - pair_scores.losses),
                losses=pair_scores.losses,
                seeds=len(pair_scores.values),
                p=difference.p,
                p_adjusted=difference.p_adjusted,
                finding="undecided" if finding == "as_good" else finding,
            )
        )
    return rates


def _key(pair: tuple[str, str]) -> str:
    return "\n".join(pair)


def agreement(
    items: Sequence[int | str], ours: Sequence[Preferred], theirs: Sequence[Preferred]
) -> RaterAgreement | None:
    """Cohen's kappa (1960) of what two decided about the same comparisons, with a 95% interval by the jackknife over
    items; None without a comparison.

    `items`: of each comparison its test item, or the group of items, whose comparisons are not independent.
    """
    if not items:
        return None
    tables: dict[int | str, Floats] = {}
    order = list(VALUES)
    for item, own, other in zip(items, ours, theirs, strict=True):
        table = tables.setdefault(item, np.zeros((len(order), len(order))))
        table[order.index(own), order.index(other)] += 1
    counts = np.stack([*tables.values()])
    total = counts.sum(0)
    kappa, count = _kappa(total), len(counts)
    low = high = None
    if count >= MIN_ITEMS and kappa is not None:
        left_out = [partial for partial in (_kappa(total - table) for table in counts) if partial is not None]
        spread = np.array(left_out) - np.mean(left_out)
        error = math.sqrt((len(left_out) - 1) / len(left_out) * float((spread**2).sum()))
        floor = Z_95**2 / (count + Z_95**2) if error == 0 else 0.0  # perfect agreement on few items is not certain
        low, high = max(-1.0, kappa - Z_95 * error - floor), min(1.0, kappa + Z_95 * error)
    return RaterAgreement(
        comparisons=int(total.sum()),
        same=float(np.trace(total) / total.sum()),
        kappa=Interval(mean=kappa, low=low, high=high, rows=count),
    )


def _kappa(table: Floats) -> float | None:
    """None where both always decide alike by chance: one of them has a single answer."""
    total = table.sum()
    if total <= 0:
        return None
    expected = float((table.sum(0) * table.sum(1)).sum() / total**2)
    return None if expected >= 1 else float((np.trace(table) / total - expected) / (1 - expected))


def length_correlation(preferences: Sequence[float], a: Sequence[int], b: Sequence[int]) -> float | None:
    """Pearson's r of preferences for a (0 to 1) and log(length of a / length of b); None if one does not vary."""
    ratios = np.log((np.asarray(a, dtype=float) + 1) / (np.asarray(b, dtype=float) + 1))
    given = np.asarray(preferences, dtype=float)
    if len(given) < 2 or given.std() == 0 or ratios.std() == 0:
        return None
    return float(np.corrcoef(given, ratios)[0, 1])


def settled(values: Floats, of: int) -> float | None:
    """The probability that deciding the remaining items would not change the finding.

    values: (n,) scores of the decided items. The mean of all `of` items is predicted from those decided (normal, with
    their variance), and the interval of the ladder's statistics is scaled to all items.
    """
    n = len(values)
    if n < MIN_ITEMS:
        return None
    if n >= of:
        return 1.0
    pair = PairScores(values[None])
    (now,) = win_rates({("a", "b"): pair})
    assert now.rate.low is not None and now.rate.high is not None and now.rate.mean is not None
    half = (now.rate.high - now.rate.low) / 2 * math.sqrt(n / of)
    spread = math.sqrt((float(values.var(ddof=1)) + 1 / n) * (of - n) / (of * n))
    better = 1 - _normal((0.5 + half - now.rate.mean) / spread)
    worse = _normal((0.5 - half - now.rate.mean) / spread)
    return {"better": better, "worse": worse, "undecided": 1 - better - worse}[now.finding]


def _normal(z: float) -> float:
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))
