"""Simulated ladders under conditions that `simulated_grid` leaves out, with their true means.

Very unequal groups, methods that collapse in some seeds, skewed losses, shares of the best of equal rungs, correlated
and many seeds, exports at the margin, trends over sweeps. `tools/statistics_grid.py --conditions` measures them.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
from simulated_grid import EQUAL_RATES, MARGIN, PAIRS, RATES, _normal_table

from engine.config.metric_specs import LOSS
from engine.extensions.sweeps.sweep_report import slope
from engine.ladder.artifacts import _against_runs
from engine.ladder.statistics import Floats, ItemScores, MeanSamples, item_scores
from engine.runs.ladder.ladder_state import BASE
from engine.runs.ladder.rung_results import finding_of
from engine.runs.run.result import Z_95, Interval

COLLAPSE = 0.3
"""Points, as a share, that a collapsed seed loses."""
ONE_LARGE = (150, *(10,) * 10, *(2,) * 25)
"""Sizes of very unequal groups: half the test items are one group."""
Drawn = tuple[dict[str, ItemScores], dict[str, float]]
"""Scores of one ladder by rung, and true means."""


class Condition(NamedTuple):
    """A cell: what is drawn for one ladder, and how often each result was as named."""

    name: str
    measure: Callable[[np.random.Generator], dict[str, float]]
    """Of one ladder: 1 or 0 for each result, or a share between."""


def conditions() -> Iterator[Condition]:
    """All cells, those of one topic after another."""
    for alike, rates in ((1.0, EQUAL_RATES), (1.0, RATES), (0.5, EQUAL_RATES), (0.1, EQUAL_RATES)):
        what = f"{alike:.0%} of the variance in groups, {'equal' if rates is EQUAL_RATES else 'different'} rungs"
        yield ladder(f"150 + 10 × 10 + 25 × 2 items, {what}", partial(answers, rates, sizes=ONE_LARGE, alike=alike))
        yield ladder(f"Pareto sizes of groups, {what}", partial(answers, rates, sizes=(), alike=alike))
    for seeds in (3, 5):
        chances = {"lora": 0.2}
        yield ladder(
            f"LoRA collapses in 1 of 5 seeds, {seeds} seeds, 1,000 items",
            partial(answers, RATES, seeds, sizes=(1,) * 1000, collapse=chances),
        )
    for kind, items in product(("lognormal 1", "lognormal 1.5", "Pareto 2.2"), (30, 100, 300)):
        yield ladder(f"losses, {kind}, {items} items", partial(losses, kind, items), LOSS.bounds)
    for rungs, spread in ((12, 0.0), (4, 0.0), (12, 0.1)):
        best = "equal rungs" if not spread else f"rungs {100 * spread:g} points apart at most"
        yield Condition(f"share of the best of {rungs} {best}", partial(shares_of_best, rungs, spread))
    for seeds in (2, 3, 5):
        stds = {"qlora": 0.005, "lora": 0.005, "full": 0.05}
        yield ladder(f"one unstable rung, {seeds} seeds", partial(answers, EQUAL_RATES, seeds, stds=stds))
    for shared in (0.5, 0.9):
        yield ladder(
            f"seeds of all rungs correlated by {shared}", partial(answers, EQUAL_RATES, shared=shared, std=0.03)
        )
    for std, rates in product((0.005, 0.015, 0.03, 0.05), (EQUAL_RATES, RATES)):
        what = "equal" if rates is EQUAL_RATES else "different"
        yield ladder(f"8 seeds, seed SD {100 * std:g}, {what} rungs", partial(answers, rates, 8, std=std))
    for metric in ("exact match", "loss"):
        yield Condition(f"export at the margin, {metric}, 200 items", partial(export_at_margin, metric == "loss"))
    for cells in (3, 5):
        yield Condition(f"sweep of {cells} ladders without a trend", partial(trend_without_one, cells))


def answers(
    rates: dict[str, float],
    seeds: int = 3,
    *,
    std: float = 0.005,
    stds: dict[str, float] | None = None,
    sizes: Sequence[int] = (1,) * 300,
    alike: float = 0.0,
    shared: float = 0.0,
    collapse: dict[str, float] | None = None,
    random: np.random.Generator,
) -> Drawn:
    """Right and wrong answers, right if a normal variable of item, item x rung and residual is below a quantile.

    Args:
        std, stds: Standard deviation between seeds, of all or of some rungs.
        sizes: Items of each group; () draws 300 items in groups of Pareto sizes.
        alike: Part of each variance that the items of a group have in common.
        shared: Correlation of the effects of one seed on different rungs.
        collapse: Chance that a seed of a rung ends COLLAPSE lower.
    """
    grid, table = _normal_table()
    groups = np.repeat(np.arange(len(sizes := sizes or pareto_sizes(random))), sizes)

    def drawn(variance: float, *shape: int) -> Floats:
        common = random.normal(size=(*shape, len(sizes)))[..., groups]
        return math.sqrt(variance) * (
            math.sqrt(alike) * common + math.sqrt(1 - alike) * random.normal(size=(*shape, len(groups)))
        )

    item, of_seed, scores, means = drawn(0.6), random.normal(size=(seeds, 1)), {}, dict(rates)
    keys = [f"{group}" for group in groups] if len(sizes) < len(groups) else [""] * len(groups)
    for name, rate in rates.items():
        count, chance = (1 if name == BASE else seeds), (collapse or {}).get(name, 0.0)
        effect = math.sqrt(shared) * of_seed[:count] + math.sqrt(1 - shared) * random.normal(size=(count, 1))
        seed_means = rate + (0.0 if name == BASE else (stds or {}).get(name, std)) * effect
        seed_means -= COLLAPSE * (random.random((count, 1)) < chance)
        means[name] -= COLLAPSE * chance
        threshold = np.interp(np.clip(seed_means, 0.001, 0.999), table, grid)
        values = (item + drawn(0.2) + drawn(0.2, count) < threshold).astype(float)
        scores[name] = item_scores(values, None, keys, untrained=name == BASE)
    return scores, means


def pareto_sizes(random: np.random.Generator, items: int = 300, shape: float = 1.2) -> list[int]:
    """Sizes of groups of together so many items."""
    sizes: list[int] = []
    while (left := items - sum(sizes)) > 0:
        sizes.append(min(left, 1 + int(random.pareto(shape))))
    return sizes


def losses(kind: str, items: int, random: np.random.Generator, seeds: int = 3) -> Drawn:
    """Losses with heavy tails: those of a trained rung are about 70% of the base model's."""
    if kind.startswith("lognormal"):
        spread = float(kind.split()[1])
        of_items, mean = random.lognormal(0, spread, items), math.exp(spread**2 / 2)
    else:
        shape = float(kind.split()[1])
        of_items, mean = random.pareto(shape, items) + 1, shape / (shape - 1)
    scores = {BASE: ItemScores(of_items[None], np.ones(items), untrained=True)}
    for name in ("qlora", "lora", "full"):
        factor = 0.7 + random.normal(0, 0.1, items) + random.normal(0, 0.05, (seeds, items))
        scores[name] = ItemScores(of_items * (factor + random.normal(0, 0.003, (seeds, 1))), np.ones(items))
    return scores, {name: mean * (1.0 if name == BASE else 0.7) for name in scores}


def ladder(name: str, draw: Callable[..., Drawn], bounds: tuple[float, float] = (0.0, 1.0)) -> Condition:
    """The cell of ladders whose scores `draw` gives; of losses a lower one is better."""
    sign = -1.0 if bounds == LOSS.bounds else 1.0

    def measure(random: np.random.Generator) -> dict[str, float]:
        scores, means = draw(random=random)
        samples = MeanSamples(scores, bounds)
        results = dict.fromkeys(("coverage", "base", "score", "false", "as good", "power"), 0.0)
        results["coverage"] = 1.0
        for difference in samples.differences(PAIRS):
            true = means[difference.a] - means[difference.b]
            covers = difference.low <= true <= difference.high
            results["coverage"] *= covers
            low, high = sorted((sign * difference.low, sign * difference.high))
            finding = finding_of(low, high, MARGIN)
            better = sign * true
            wrong = {"better": better <= 0, "worse": better >= 0, "as_good": better <= -MARGIN}.get(finding, False)
            results["false"] = max(results["false"], float(wrong))
            results["as good"] = max(results["as good"], float(wrong and finding == "as_good"))
            if (difference.a, difference.b) == ("qlora", "full"):
                results["power"] = float(finding == "worse")
        (alone,) = MeanSamples({name: scores[name] for name in (BASE, "lora")}, bounds).differences([("lora", BASE)])
        results["base"] = float(alone.low <= means["lora"] - means[BASE] <= alone.high)
        ends = {rung: samples.interval(rung) for rung in scores}
        return results | {f"score {rung}": float(_contains(end, means[rung])) for rung, end in ends.items()}

    return Condition(name, measure)


def _contains(interval: Interval, true: float) -> bool:
    return interval.low is None or interval.high is None or interval.low <= true <= interval.high


def shares_of_best(rungs: int, spread: float, random: np.random.Generator) -> dict[str, float]:
    """Shares of the gain of the best of trained rungs, without full fine-tuning."""
    names = [f"rung {number}" for number in range(rungs)]
    gains = np.linspace(0.25 - spread, 0.25, rungs).tolist()
    rates = {BASE: 0.4} | dict(zip(names, (0.4 + gain for gain in gains), strict=True))
    scores, _ = answers(rates, std=0.015, random=random)
    samples = MeanSamples(scores, (0.0, 1.0))
    best = max(names, key=lambda name: scores[name].mean)
    intervals = [samples.share_of_best(name, names, BASE, best) for name in names]
    covered = [_contains(interval, gain / 0.25) for interval, gain in zip(intervals, gains, strict=True)]
    return {"share": float(np.mean(covered))}


def export_at_margin(is_loss: bool, random: np.random.Generator) -> dict[str, float]:
    """An artifact that is worse than its run by exactly the margin, with three seeds: how often it is as good."""
    items = 200
    if is_loss:
        run = random.gamma(2.0, 0.3, (3, items))
        change = random.lognormal(0, 1.0, items) * (1 + random.normal(0, 0.2, (3, items)))
        pair = ItemScores(run + MARGIN * change / math.exp(0.5), np.ones(items)), ItemScores(run, np.ones(items))
        bounds = LOSS.bounds
    else:
        kind = random.random(items)
        change = np.where(kind < 0.05, -1.0, np.where(kind < 0.08, 1.0, 0.0))
        right = np.where(change < 0, 1.0, np.where(change > 0, 0.0, random.random((3, items)) < 0.6))
        pair, bounds = (ItemScores(right + change), ItemScores(right)), (0.0, 1.0)
    (difference,) = _against_runs({"artifact": pair}, bounds).values()
    true, sign = (MARGIN, -1.0) if is_loss else (-MARGIN, 1.0)
    low, high = sorted((sign * difference.low, sign * difference.high))
    finding = finding_of(low, high, MARGIN)
    return {
        "coverage": float(difference.low <= true <= difference.high),
        "false": float(finding in ("better", "as_good")),
    }


def trend_without_one(cells: int, random: np.random.Generator) -> dict[str, float]:
    """The share of the gain over ladders that all have the same one: how often a trend is significant."""
    points = []
    for cell in range(cells):
        scores, _ = answers(RATES, std=0.015, random=random)
        share = MeanSamples(scores, (0.0, 1.0)).share_of_gain("qlora", "full", BASE)
        assert share.mean is not None and share.low is not None and share.high is not None
        points.append((float(cell), share.mean, (share.high - share.low) / (2 * Z_95)))
    trend = slope(points)
    assert trend is not None and trend.low is not None and trend.high is not None
    return {"coverage": float(trend.low <= 0 <= trend.high), "false": float(not trend.low <= 0 <= trend.high)}


def measure_condition(condition: Condition, ladders: int) -> dict[str, float]:
    """The share of each result over so many ladders; of scores that of the rung that is covered least."""
    random, total = np.random.default_rng(zlib.crc32(condition.name.encode())), Counter[str]()
    for _ in range(ladders):
        total.update(condition.measure(random))
    shares = {name: count / ladders for name, count in total.items()}
    if scores := [share for name, share in shares.items() if name.startswith("score ")]:
        shares["score"] = min(scores)
    return {name: share for name, share in shares.items() if not name.startswith("score ")}
