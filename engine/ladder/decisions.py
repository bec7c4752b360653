"""Decisions from a ladder's statistics: what is better, whether the rule of thumb holds, what to recommend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from engine.config.method_specs import RULE_CANDIDATE, RULE_REFERENCE
from engine.config.metric_specs import metric_spec
from engine.runs.ladder import BASE, BASES, Comparison, Finding, Ladder, RungResult, SeedRange
from engine.runs.result import Interval, MeasuredPeak

QUALITY, COST = 0.94, 1 / 8
"""The rule of thumb: QLoRA keeps 94% of full fine-tuning's quality at one eighth of its cost."""

RuleCheck = Literal["holds", "fails", "undecided", "unknown"]


@dataclass(frozen=True)
class Decisions:
    """The rungs by role, and the decision about each. The sentences are written by `verdict`."""

    full: RungResult | None
    """The finished full fine-tuning rung; None if it was not run or did not finish."""
    qlora: RungResult | None
    tuned: list[RungResult]
    """Every finished trained rung, without the base model and artifacts."""
    gained: dict[str, Literal["yes", "no", "worse", "unknown"]]
    """Rung -> whether it is significantly better than the base model."""
    against_full: dict[str, Comparison] = field(default_factory=dict)
    """Rung -> its comparison with full, as rung − full."""
    rule_quality: RuleCheck = "unknown"
    rule_costs: dict[str, RuleCheck] = field(default_factory=dict)
    """time, training, energy, memory, rent -> whether QLoRA costs at most an eighth of full."""
    prototype: RungResult | None = None
    """Of those better than the base model: the one with the lowest total time."""
    least_memory: RungResult | None = None
    """Of those: the one with the lowest peak while training."""
    best: RungResult | None = None
    """Of those: the one with the best score."""
    ship: RungResult | None = None
    """Of those not significantly different from the best: the smallest artifact; the best score breaks a tie."""


def decide(ladder: Ladder) -> Decisions:
    """Decide from the ladder's rows and comparisons."""
    tuned = [row for row in ladder.rows if row.name not in BASES and not row.source and row.score is not None]
    full = next((row for row in tuned if row.method == RULE_REFERENCE), None)
    qlora = next((row for row in tuned if row.method == RULE_CANDIDATE), None)
    gained = {row.name: _gained(ladder, row.name) for row in tuned}
    winners = [row for row in tuned if gained[row.name] == "yes"]
    lower = ladder.work is not None and metric_spec(ladder.work.metric).lower_is_better
    winners.sort(key=lambda row: _mean(row.score) * (1 if lower else -1))  # min() below keeps the first of equals
    best = winners[0] if winners else None
    near = [row for row in winners if best and (row is best or not _significant(ladder, row.name, best.name))]
    full_gained = bool(full and gained[full.name] == "yes")
    return Decisions(
        full=full,
        qlora=qlora,
        tuned=tuned,
        gained=gained,
        against_full={
            row.name: found for row in tuned if full and (found := comparison(ladder, row.name, full.name)) is not None
        },
        rule_quality=_check_quality(qlora, lower) if full_gained else "unknown",
        rule_costs=_check_costs(qlora, full) if qlora and full else {},
        prototype=_least(winners, lambda row: _mean(row.all_seconds)),
        least_memory=_least(
            [row for row in winners if training_peak(row.peak)], lambda row: training_peak(row.peak) or 0.0
        ),
        best=best,
        ship=_least(near, lambda row: row.artifact_bytes),
    )


def comparison(ladder: Ladder, a: str, b: str) -> Comparison | None:
    """The comparison a − b, negated if the ladder has b − a; None if they were not compared."""
    for one in ladder.comparisons:
        if (one.a, one.b) == (a, b):
            return one
        if (one.a, one.b) == (b, a):
            return _negated(one)
    return None


def training_peak(peak: MeasuredPeak | None) -> float | None:
    """Peak bytes while training: torch's pool and paged state on a GPU, the resident set on a CPU."""
    return peak.training if peak else None


def _negated(one: Comparison) -> Comparison:
    finding: dict[str, Finding] = {"better": "worse", "worse": "better"}
    return Comparison(
        a=one.b,
        b=one.a,
        difference=one.difference.negated(),
        p=one.p,
        p_adjusted=one.p_adjusted,
        finding=finding.get(one.finding, "undecided"),
        mcnemar=one.mcnemar,
        needed_items=one.needed_items,
        needed_seeds=one.needed_seeds,
        loss_difference=one.loss_difference.negated() if one.loss_difference else None,
    )


def _gained(ladder: Ladder, name: str) -> Literal["yes", "no", "worse", "unknown"]:
    found = comparison(ladder, name, BASE)
    if found is None:
        return "unknown"
    return "yes" if found.finding == "better" else "worse" if found.finding == "worse" else "no"


def _significant(ladder: Ladder, a: str, b: str) -> bool:
    found = comparison(ladder, a, b)
    return found is not None and found.finding != "undecided"


def _check_quality(row: RungResult | None, lower_is_better: bool) -> RuleCheck:
    """Whether the share of full's score is at least 94%; of its gain for a loss, which has no share of score."""
    share = (row.share_of_gain if lower_is_better else row.share_of_score) if row else None
    if share is None or share.low is None or share.high is None:
        return "unknown"
    return "holds" if share.low >= QUALITY else "fails" if share.high < QUALITY else "undecided"


def _check_costs(qlora: RungResult, full: RungResult) -> dict[str, RuleCheck]:
    peaks = training_peak(qlora.peak), training_peak(full.peak)
    rents: tuple[float | None, float | None] = (None, None)
    if qlora.rent and full.rent and qlora.rent.currency == full.rent.currency:
        rents = qlora.rent.price_per_hour, full.rent.price_per_hour
    return {
        "training": _check_seeds(qlora.training_seconds, full.training_seconds),
        "time": _check_seeds(qlora.all_seconds, full.all_seconds),
        "energy": _check_seeds(qlora.energy, full.energy),
        "memory": _check_cost(peaks[0], peaks[0], peaks[1], peaks[1]),
        "rent": _check_cost(rents[0], rents[0], rents[1], rents[1]),
    }


def _check_seeds(candidate: SeedRange | None, reference: SeedRange | None) -> RuleCheck:
    if candidate is None or reference is None:
        return "unknown"
    return _check_cost(candidate.low, candidate.high, reference.low, reference.high)


def _check_cost(low: float | None, high: float | None, full_low: float | None, full_high: float | None) -> RuleCheck:
    """Whether the cost is at most an eighth of full's for every pair of seeds (holds) or for none (fails)."""
    if low is None or high is None or not full_low or not full_high:
        return "unknown"
    return "holds" if high / full_low <= COST else "fails" if low / full_high > COST else "undecided"


def _least(rows: list[RungResult], key: Callable[[RungResult], float]) -> RungResult | None:
    return min(rows, key=key, default=None)


def _mean(value: Interval | SeedRange | None) -> float:
    return value.mean if value is not None and value.mean is not None else float("inf")
