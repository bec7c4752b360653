"""What the numbers of a ladder allow to be said, before it is said: decisions only, no words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from engine.config.method_specs import RULE_CANDIDATE, RULE_REFERENCE
from engine.config.metric_specs import metric_spec
from engine.runs.ladder import BASE, BASES, Comparison, Finding, Ladder, RungResult, SeedRange
from engine.runs.result import Interval, MeasuredPeak

QUALITY, COST = 0.94, 1 / 8
"""The rule of thumb: QLoRA keeps this share of full fine-tuning's quality at this share of its cost."""

Holds = Literal["holds", "fails", "undecided", "unknown"]


@dataclass(frozen=True)
class Findings:
    """Who is who, and what was decided about each."""

    full: RungResult | None
    """The finished rung that tunes every weight; None: not run, or it did not finish."""
    qlora: RungResult | None
    tuned: list[RungResult]
    """Every finished rung, the base not among them."""
    gained: dict[str, Literal["yes", "no", "worse", "unknown"]]
    """Rung -> whether it is better than the base beyond chance."""
    against_full: dict[str, Comparison] = field(default_factory=dict)
    """Rung -> its comparison with full, as rung less full."""
    rule_quality: Holds = "unknown"
    rule_costs: dict[str, Holds] = field(default_factory=dict)
    """time, training, energy, memory, rent -> whether QLoRA costs at most an eighth of full."""
    prototype: RungResult | None = None
    """The least time of all that gained."""
    smallest: RungResult | None = None
    """The least memory of all that gained."""
    best: RungResult | None = None
    """The highest score of all that gained."""
    ship: RungResult | None = None
    """The smallest artefact of all that gained and are not told apart from the best, which wins a tie."""


def find(ladder: Ladder) -> Findings:
    """Decide, from rows and comparisons alone."""
    tuned = [row for row in ladder.rows if row.name not in BASES and row.score is not None]
    full = next((row for row in tuned if row.method == RULE_REFERENCE), None)
    qlora = next((row for row in tuned if row.method == RULE_CANDIDATE), None)
    gained = {row.name: _gained(ladder, row.name) for row in tuned}
    winners = [row for row in tuned if gained[row.name] == "yes"]
    lower = ladder.work is not None and metric_spec(ladder.work.metric).lower_is_better
    winners.sort(key=lambda row: _mean(row.score) * (1 if lower else -1))  # of equals in what follows, the better one
    best = winners[0] if winners else None
    near = [row for row in winners if best and (row is best or not _told_apart(ladder, row.name, best.name))]
    full_gained = bool(full and gained[full.name] == "yes")
    return Findings(
        full=full,
        qlora=qlora,
        tuned=tuned,
        gained=gained,
        against_full={
            row.name: found for row in tuned if full and (found := comparison(ladder, row.name, full.name)) is not None
        },
        rule_quality=_holds_above(qlora, lower) if full_gained else "unknown",
        rule_costs=_costs(qlora, full) if qlora and full else {},
        prototype=_least(winners, lambda row: _mean(row.all_seconds)),
        smallest=_least(
            [row for row in winners if training_peak(row.peak)], lambda row: training_peak(row.peak) or 0.0
        ),
        best=best,
        ship=_least(near, lambda row: row.artifact_bytes),
    )


def comparison(ladder: Ladder, a: str, b: str) -> Comparison | None:
    """a less b, turned round where the table holds b less a."""
    for one in ladder.comparisons:
        if (one.a, one.b) == (a, b):
            return one
        if (one.a, one.b) == (b, a):
            return _turned(one)
    return None


def training_peak(peak: MeasuredPeak | None) -> float | None:
    """Bytes while training: torch's pool and paged state on a card, the resident set without one."""
    return peak.training if peak else None


def _turned(one: Comparison) -> Comparison:
    finding: dict[str, Finding] = {"better": "worse", "worse": "better"}
    return Comparison(
        a=one.b,
        b=one.a,
        difference=_negative(one.difference),
        p=one.p,
        p_adjusted=one.p_adjusted,
        finding=finding.get(one.finding, "undecided"),
        mcnemar=one.mcnemar,
        needed_items=one.needed_items,
        needed_seeds=one.needed_seeds,
        loss_difference=_negative(one.loss_difference) if one.loss_difference else None,
    )


def _negative(interval: Interval) -> Interval:
    def minus(value: float | None) -> float | None:
        return None if value is None else -value

    return Interval(mean=minus(interval.mean), low=minus(interval.high), high=minus(interval.low), rows=interval.rows)


def _gained(ladder: Ladder, name: str) -> Literal["yes", "no", "worse", "unknown"]:
    found = comparison(ladder, name, BASE)
    if found is None:
        return "unknown"
    return "yes" if found.finding == "better" else "worse" if found.finding == "worse" else "no"


def _told_apart(ladder: Ladder, a: str, b: str) -> bool:
    found = comparison(ladder, a, b)
    return found is not None and found.finding != "undecided"


def _holds_above(row: RungResult | None, lower_is_better: bool) -> Holds:
    """Whether the share kept is at least the rule's; of the gain where a score is a loss, which has no shares."""
    share = (row.share_of_gain if lower_is_better else row.share_of_score) if row else None
    if share is None or share.low is None or share.high is None:
        return "unknown"
    return "holds" if share.low >= QUALITY else "fails" if share.high < QUALITY else "undecided"


def _costs(qlora: RungResult, full: RungResult) -> dict[str, Holds]:
    peaks = training_peak(qlora.peak), training_peak(full.peak)
    rents: tuple[float | None, float | None] = (None, None)
    if qlora.rent and full.rent and qlora.rent.currency == full.rent.currency:
        rents = qlora.rent.price_per_hour, full.rent.price_per_hour
    return {
        "training": _spread_holds(qlora.training_seconds, full.training_seconds),
        "time": _spread_holds(qlora.all_seconds, full.all_seconds),
        "energy": _spread_holds(qlora.energy, full.energy),
        "memory": _holds_below(peaks[0], peaks[0], peaks[1], peaks[1]),
        "rent": _holds_below(rents[0], rents[0], rents[1], rents[1]),
    }


def _spread_holds(part: SeedRange | None, whole: SeedRange | None) -> Holds:
    if part is None or whole is None:
        return "unknown"
    return _holds_below(part.low, part.high, whole.low, whole.high)


def _holds_below(low: float | None, high: float | None, whole_low: float | None, whole_high: float | None) -> Holds:
    """At most an eighth whichever seeds are set against each other, or more whichever."""
    if low is None or high is None or not whole_low or not whole_high:
        return "unknown"
    return "holds" if high / whole_low <= COST else "fails" if low / whole_high > COST else "undecided"


def _least(rows: list[RungResult], key: Callable[[RungResult], float]) -> RungResult | None:
    return min(rows, key=key, default=None)


def _mean(value: Interval | SeedRange | None) -> float:
    return value.mean if value is not None and value.mean is not None else float("inf")
