"""How long a ladder will take and what it will show, from earlier ladders on the same work (`--dry-run`).

A forecast, not a test: normal approximations, with the half-widths of simultaneous intervals in standard errors as
simulated ladders of three rungs have them. Imports no numpy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, fmean, variance

from engine.config.metric_specs import AUTO, metric_spec
from engine.runs.ladder.ladder_dir import states
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
DIFFERENCES = (0.02, 0.05, 0.1)
"""Differences whose power is forecast: 2, 5 and 10 points of a share, 0.02, 0.05 and 0.1 nats/token of a loss."""
MIN_VARIANCE = {True: 1e-3, False: 1e-6}
"""Least variance of the paired difference of one item, of a share and of a loss."""


@dataclass(frozen=True)
class Forecast:
    """Hours and power by number of seeds."""

    source: str
    """The earlier ladder, or which values are assumed."""
    metric: str
    items: int
    seed_std: float | None
    """None if it is unknown: of losses, without an earlier ladder."""
    item_variance: float | None
    """Of the paired difference of one item; None if it is unknown."""
    run_seconds: dict[str, float]
    """Rung -> mean seconds of a run; without rungs that no earlier ladder has."""
    rungs: tuple[str, ...]

    def hours(self, seeds: int) -> float | None:
        """Hours of all runs one after the other, without probes and trials; None if a rung's duration is unknown."""
        if not self.run_seconds.keys() >= set(self.rungs):
            return None
        return sum(self.run_seconds[name] for name in self.rungs) * seeds / 3600

    @property
    def differences(self) -> dict[str, float]:
        """Text -> difference whose power is forecast."""
        spec = metric_spec(self.metric)
        return {f"{size * spec.scale:g} {'points' if spec.is_share else spec.unit}": size for size in DIFFERENCES}

    def power(self, difference: float, seeds: int) -> float | None:
        """The chance that the interval of a true difference excludes 0 after this many seeds; None if it is unknown."""
        if self.item_variance is None or self.seed_std is None:
            return None
        error = math.sqrt(self.item_variance / self.items + 2 * self.seed_std**2 / seeds)
        return NormalDist().cdf(difference / error - CRITICAL.get(seeds, CRITICAL_MANY))


def forecast(plan: LadderPlan, runs: Path, decide_metric: Callable[[], str]) -> Forecast:
    """From the latest finished ladder with the same model, data and length of training, else from assumed values.

    `decide_metric` returns the automatic metric; it is called only if no earlier ladder has it. Nothing is assumed
    about losses, whose spread depends on model and data.
    """
    config = plan.rungs[0].config
    rungs = tuple(rung.name for rung in plan.rungs)
    known = max(_earlier(plan, runs), key=lambda ladder: ladder.created, default=None)
    if known is None or known.work is None:
        items = config.evaluation.rows or PRIOR_ITEMS
        metric = decide_metric() if config.evaluation.metric == AUTO.name else config.evaluation.metric
        none = "no earlier ladder on this model, data and length of training"
        if not metric_spec(metric).is_share:
            text = f"unknown: how much the {metric_spec(metric).title} differs between items and seeds; {none}"
            return Forecast(text, metric, items, None, None, {}, rungs)
        text = f"assumed: {items} test items, {PRIOR_SEED_STD * 100:g} points between seeds, rungs differ on "
        text += f"{PRIOR_DIFFERING:.0%} of the items; {none}"
        return Forecast(text, metric, items, PRIOR_SEED_STD, PRIOR_DIFFERING, {}, rungs)
    rows = [row for row in known.rows if not is_base(row.name) and not row.source]
    spreads = [variance(row.by_seed) for row in rows if len(row.by_seed) > 1]
    spec = metric_spec(known.work.metric)
    seed_std = math.sqrt(fmean(spreads)) if spreads else PRIOR_SEED_STD if spec.is_share else 0.0
    seconds = {row.name: row.all_seconds.mean for row in rows if row.all_seconds}
    shown = f"{seed_std * 100:.1f} points" if spec.is_share else f"{seed_std:.3f} {spec.unit}"
    text = f"from {known.name}: {known.work.test} test items, {shown if spreads else 'one seed, nothing'} between seeds"
    return Forecast(text, spec.name, known.work.test, seed_std, _item_variance(known, seed_std), seconds, rungs)


def _earlier(plan: LadderPlan, runs: Path) -> Iterable[Ladder]:
    wanted = work_of(plan.rungs[0].config)
    for _, ladder in states(runs):
        is_complete = ladder.status == "finished" and ladder.work is not None and ladder.comparisons
        if is_complete and all(ladder.config.get(key) == value for key, value in wanted.items()):
            yield ladder


def _item_variance(ladder: Ladder, seed_std: float) -> float | None:
    """Mean over the pairs of trained rungs, from the widths of their intervals; None if no pair of losses has one."""
    variances = []
    seeds = {row.name: len(row.seeds) for row in ladder.rows}
    for compared in ladder.comparisons:
        low, high = compared.difference.low, compared.difference.high
        if is_base(compared.b) or low is None or high is None or ladder.work is None:
            continue
        fewest = max(1, min(seeds.get(compared.a, 1), seeds.get(compared.b, 1)))
        error = (high - low) / 2 / CRITICAL.get(fewest, CRITICAL_MANY)
        variances.append((error**2 - 2 * seed_std**2 / fewest) * ladder.work.test)
    is_share = metric_spec(ladder.metric).is_share
    if not variances:
        return PRIOR_DIFFERING if is_share else None
    return max(MIN_VARIANCE[is_share], fmean(variances))


def forecast_rows(prediction: Forecast, seeds: Sequence[int]) -> list[list[str]]:
    """A row per number of seeds: seeds, runs, hours, power of each difference."""
    rows = []
    for count in seeds:
        hours = prediction.hours(count)
        chances = [prediction.power(size, count) for size in prediction.differences.values()]
        powers = ["–" if chance is None else f"{chance:.0%}" for chance in chances]
        rows.append([str(count), str(count * len(prediction.rungs)), "–" if hours is None else f"{hours:.2g}", *powers])
    return rows
