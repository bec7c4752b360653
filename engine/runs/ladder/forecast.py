"""How long a ladder will take and what it will show, from earlier ladders on the same work (`--dry-run`).

A forecast, not a test: normal approximations, with the half-widths of simultaneous intervals in standard errors as
simulated ladders of three rungs have them. Imports no numpy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, fmean, variance

from engine.config.metric_specs import metric_spec
from engine.runs.ladder.ladder_dir import iterate
from engine.runs.ladder.ladder_plan import work_of
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.ladder.rungs import LadderPlan, is_base

PRIOR_SEED_STD = 0.015
"""Standard deviation between seeds without an earlier ladder: 1.5 points, the median of the statistics' prior."""
PRIOR_DIFFERING = 0.2
"""Share of test items on which two rungs differ without an earlier ladder."""
PRIOR_ITEMS = 300
"""Test items without an earlier ladder and without `evaluation.rows`."""
CRITICAL = {1: 4.2, 2: 3.3, 3: 2.45, 4: 2.3}
"""Seeds -> half a simultaneous interval in standard errors; fewer seeds say less about their own spread."""
CRITICAL_MANY = 2.2
POINTS = (2, 5, 10)
"""Differences in points whose power is forecast."""


@dataclass(frozen=True)
class Forecast:
    """Hours and power by number of seeds."""

    source: str
    """The earlier ladder, or which values are assumed."""
    items: int
    seed_std: float
    item_variance: float
    """Of the paired difference of one item."""
    run_seconds: dict[str, float]
    """Rung -> mean seconds of a run; without rungs that no earlier ladder has."""
    rungs: tuple[str, ...]

    def hours(self, seeds: int) -> float | None:
        """Hours of all runs one after the other, without probes and trials; None if a rung's duration is unknown."""
        if not self.run_seconds.keys() >= set(self.rungs):
            return None
        return sum(self.run_seconds[name] for name in self.rungs) * seeds / 3600

    def power(self, difference: float, seeds: int) -> float:
        """The chance that the interval of a true difference excludes 0 after this many seeds."""
        error = math.sqrt(self.item_variance / self.items + 2 * self.seed_std**2 / seeds)
        return NormalDist().cdf(difference / error - CRITICAL.get(seeds, CRITICAL_MANY))


def forecast(plan: LadderPlan, runs: Path) -> Forecast:
    """From the latest finished ladder with the same model, data and length of training, else from assumed values."""
    config = plan.rungs[0].config
    rungs = tuple(rung.name for rung in plan.rungs)
    known = max(_earlier(plan, runs), key=lambda ladder: ladder.created, default=None)
    if known is None or known.work is None:
        items = config.evaluation.rows or PRIOR_ITEMS
        text = f"assumed: {items} test items, {PRIOR_SEED_STD * 100:g} points between seeds, rungs differ on "
        text += f"{PRIOR_DIFFERING:.0%} of the items; no earlier ladder on this model, data and length of training"
        return Forecast(text, items, PRIOR_SEED_STD, PRIOR_DIFFERING, {}, rungs)
    rows = [row for row in known.rows if not is_base(row.name) and not row.source]
    spreads = [variance(row.by_seed) for row in rows if len(row.by_seed) > 1]
    seed_std = math.sqrt(fmean(spreads)) if spreads else PRIOR_SEED_STD
    seconds = {row.name: row.all_seconds.mean for row in rows if row.all_seconds}
    text = f"from {known.name}: {known.work.test} test items, {seed_std * 100:.1f} points between seeds"
    return Forecast(text, known.work.test, seed_std, _item_variance(known, seed_std), seconds, rungs)


def _earlier(plan: LadderPlan, runs: Path) -> Iterable[Ladder]:
    wanted = work_of(plan.rungs[0].config)
    for folder in iterate(runs):
        ladder = folder.state()
        if ladder is None or ladder.status != "finished" or ladder.work is None or not ladder.comparisons:
            continue
        if not metric_spec(ladder.work.metric).is_share:
            continue
        if all(ladder.config.get(key) == value for key, value in wanted.items()):
            yield ladder


def _item_variance(ladder: Ladder, seed_std: float) -> float:
    """Mean over the pairs of trained rungs, from the widths of their intervals."""
    variances = []
    seeds = {row.name: len(row.seeds) for row in ladder.rows}
    for compared in ladder.comparisons:
        low, high = compared.difference.low, compared.difference.high
        if is_base(compared.b) or low is None or high is None or ladder.work is None:
            continue
        fewest = max(1, min(seeds.get(compared.a, 1), seeds.get(compared.b, 1)))
        error = (high - low) / 2 / CRITICAL.get(fewest, CRITICAL_MANY)
        variances.append((error**2 - 2 * seed_std**2 / fewest) * ladder.work.test)
    return max(0.001, fmean(variances)) if variances else PRIOR_DIFFERING


def forecast_rows(prediction: Forecast, seeds: Sequence[int]) -> list[list[str]]:
    """A row per number of seeds: seeds, runs, hours, power of each of POINTS."""
    rows = []
    for count in seeds:
        hours = prediction.hours(count)
        powers = [f"{prediction.power(points / 100, count):.0%}" for points in POINTS]
        rows.append([str(count), str(count * len(prediction.rungs)), "–" if hours is None else f"{hours:.2g}", *powers])
    return rows
