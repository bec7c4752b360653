"""Decisions from a ladder's statistics: what is better, whether the rule of thumb holds, what to recommend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from engine.config.method_specs import RULE_CANDIDATE, RULE_REFERENCE
from engine.config.metric_specs import metric_spec
from engine.ladder.results import comparison, margin_of, oriented_bounds
from engine.ladder.statistics import ratio_interval
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.ladder.rung_results import Comparison, CostRatio, RungResult, SeedRange
from engine.runs.ladder.rungs import BASE, is_base
from engine.runs.run.result import Interval, MeasuredPeak

RULE_GAIN_SHARE, RULE_COST_RATIO = 0.94, 1 / 8
"""The rule of thumb: QLoRA keeps 94% of full fine-tuning's quality at one eighth of full fine-tuning's cost. It is
checked on the share of the gain over the base model, because an untrained model already has a part of the score.
"""

EQUAL_SIZE = 1.05
"""Artifacts up to this factor larger than the smallest count as equally small."""

RuleCheck = Literal["holds", "fails", "undecided", "unknown"]


@dataclass(frozen=True)
class Decisions:
    """The rungs by role, and the decision about each. The sentences are written by `verdict`."""

    full: RungResult | None
    """The finished full fine-tuning rung; None if it was not run or did not finish."""
    qlora: RungResult | None
    trained: list[RungResult]
    """Every finished trained rung, without the base model and artifacts."""
    gained: dict[str, Literal["yes", "no", "worse", "unknown"]]
    """Rung -> whether it is significantly better than the base model; unknown if they were not compared."""
    against_full: dict[str, Comparison] = field(default_factory=dict)
    """Rung -> its comparison with full, as rung − full."""
    rule_quality: RuleCheck = "unknown"
    rule_costs: dict[str, RuleCheck] = field(default_factory=dict)
    """time, training, cpu, energy, memory, rent -> whether QLoRA costs at most an eighth of full."""
    prototype: RungResult | None = None
    """Of those better than the base model: the one with the lowest total time; None if one of several has no timing."""
    untimed: list[RungResult] = field(default_factory=list)
    """Those better than the base model without a comparable timing."""
    least_memory: RungResult | None = None
    """Of those: the one with the lowest peak while training; None if one of them has no peak."""
    best: RungResult | None = None
    """Of those: the one with the best score."""
    ship: RungResult | None = None
    """Of those not inferior to the best by more than the margin: the smallest artifact; sizes within 5% are equal, and
    the better score decides."""


def decide(ladder: Ladder) -> Decisions:
    """Decide from the ladder's rows and comparisons."""
    trained = [row for row in ladder.rows if not is_base(row.name) and not row.source and row.score is not None]
    full = next((row for row in trained if row.method == RULE_REFERENCE), None)
    qlora = next((row for row in trained if row.method == RULE_CANDIDATE), None)
    gained = {row.name: _gained(ladder, row.name) for row in trained}
    winners = [row for row in trained if gained[row.name] == "yes"]
    lower = ladder.work is not None and metric_spec(ladder.work.metric).lower_is_better
    winners.sort(key=lambda row: _mean(row.score) * (1 if lower else -1))  # min() below keeps the first of equals
    best = winners[0] if winners else None
    near = [row for row in winners if best and (row is best or is_non_inferior(ladder, row.name, best.name))]
    smallest = min((row.artifact_bytes for row in near), default=0)
    full_gained = bool(full and gained[full.name] == "yes")
    return Decisions(
        full=full,
        qlora=qlora,
        trained=trained,
        gained=gained,
        against_full={
            row.name: compared
            for row in trained
            if full and (compared := comparison(ladder, row.name, full.name)) is not None
        },
        rule_quality=check_share(qlora.share_of_gain) if qlora and full_gained else "unknown",
        rule_costs=_check_costs(qlora, full) if qlora and full else {},
        prototype=_least(winners, lambda row: row.all_seconds.mean if row.all_seconds else None),
        untimed=[row for row in winners if row.all_seconds is None],
        least_memory=_least(winners, lambda row: training_peak(row.peak)),
        best=best,
        ship=next((row for row in near if row.artifact_bytes <= EQUAL_SIZE * smallest), None),
    )


def training_peak(peak: MeasuredPeak | None) -> float | None:
    """Peak bytes while training: torch's pool and paged state on a GPU, the resident set on a CPU."""
    return peak.training if peak else None


def is_non_inferior(ladder: Ladder, a: str, b: str) -> bool:
    """Whether the comparison shows that a is not worse than b by more than the margin."""
    compared = comparison(ladder, a, b)
    bounds = oriented_bounds(ladder, compared) if compared else None
    return bounds is not None and bounds[0] > -margin_of(ladder)


def _gained(ladder: Ladder, name: str) -> Literal["yes", "no", "worse", "unknown"]:
    gain = comparison(ladder, name, BASE)
    if gain is None:
        return "unknown"
    return "yes" if gain.finding == "better" else "worse" if gain.finding == "worse" else "no"


def check_share(share: Interval | None) -> RuleCheck:
    """Whether a share of full's gain is at least 94%."""
    if share is None or share.low is None or share.high is None:
        return "unknown"
    return "holds" if share.low >= RULE_GAIN_SHARE else "fails" if share.high < RULE_GAIN_SHARE else "undecided"


def check_ratio(low: float, high: float) -> RuleCheck:
    """Whether a cost is at most an eighth of full's: all of the ratio's interval (holds) or nothing of it (fails)."""
    return "holds" if high <= RULE_COST_RATIO else "fails" if low > RULE_COST_RATIO else "undecided"


COSTS: dict[str, Callable[[RungResult], SeedRange | float | None]] = {
    "training": lambda row: row.training_seconds,
    "cpu": lambda row: row.cpu_seconds,
    "time": lambda row: row.all_seconds,
    "energy": lambda row: row.energy,
    "memory": lambda row: training_peak(row.peak),
    "rent": lambda row: row.rent.price_per_hour if row.rent else None,
}
"""Costs of a rung: ranges over the seeds, or one value."""


def _check_costs(qlora: RungResult, full: RungResult) -> dict[str, RuleCheck]:
    checks = {key: _check_cost(cost(qlora), cost(full)) for key, cost in COSTS.items()}
    if qlora.rent and full.rent and qlora.rent.currency != full.rent.currency:
        checks["rent"] = "unknown"
    return checks


def _check_cost(candidate: SeedRange | float | None, reference: SeedRange | float | None) -> RuleCheck:
    if isinstance(candidate, SeedRange) and isinstance(reference, SeedRange):
        ratio = cost_ratio(candidate, reference)
        return check_ratio(ratio.low, ratio.high) if ratio else "unknown"
    if not isinstance(candidate, float | int) or not isinstance(reference, float | int) or not reference:
        return "unknown"
    return check_ratio(candidate / reference, candidate / reference)


def cost_ratio(own: SeedRange | None, reference: SeedRange | None) -> CostRatio | None:
    """The ratio of two costs with its 95% interval; None if one is unknown or not positive."""
    if own is None or reference is None or min(own.low, reference.low) <= 0:
        return None
    low, high = ratio_interval(own.values, reference.values)
    return CostRatio(mean=own.mean / reference.mean, low=low, high=high)


def _least(rows: list[RungResult], cost: Callable[[RungResult], float | None]) -> RungResult | None:
    """The row with the lowest cost; None if the cost of one of several rows is unknown: it may be the lowest."""
    if len(rows) == 1:
        return rows[0]
    known = [value for row in rows if (value := cost(row)) is not None]
    return rows[known.index(min(known))] if known and len(known) == len(rows) else None


def _mean(value: Interval | None) -> float:
    return value.mean if value is not None and value.mean is not None else float("inf")
