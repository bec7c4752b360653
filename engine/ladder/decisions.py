"""Decisions from a ladder's statistics: what is better, whether the rule of thumb holds, what to recommend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from engine.config.method_specs import RULE_CANDIDATE, RULE_REFERENCE
from engine.config.metric_specs import metric_spec
from engine.ladder.cost_ratios import ratio_interval
from engine.ladder.results import best_rung, comparison, margin_of, oriented_bounds
from engine.runs.ladder.ladder_state import BASE, Ladder, is_base
from engine.runs.ladder.rung_results import CostRatio, RungResult, SeedRange
from engine.runs.run.result import Interval, MeasuredPeak

RULE_GAIN_SHARE, RULE_COST_RATIO = 0.94, 1 / 8
"""The rule of thumb: QLoRA keeps 94% of full fine-tuning's quality at one eighth of full fine-tuning's cost. It is
checked on the share of the gain over the base model, because an untrained model already has a part of the score.
"""

EQUAL_SIZE = 1.05
"""Artifacts and peaks up to this factor larger than the smallest count as equally small."""

RuleCheck = Literal["holds", "fails", "undecided", "unknown"]


class Decisions:
    """The rungs of a ladder by role, and the decision about each, from its rows and comparisons.

    `verdict` and `summarize_ladder` put them into sentences.
    """

    def __init__(self, ladder: Ladder) -> None:
        lower = metric_spec(ladder.metric).lower_is_better
        self.trained = [row for row in ladder.rows if not is_base(row.name) and not row.source and row.score]
        """Every finished trained rung, without the base model and artifacts."""
        self.full = next((row for row in self.trained if row.method == RULE_REFERENCE), None)
        """The finished full fine-tuning rung; None if it was not run or did not finish."""
        self.qlora = next((row for row in self.trained if row.method == RULE_CANDIDATE), None)
        self.reference = self.full or best_rung((row for row in self.trained if not row.not_compared), lower)
        """What shares and costs refer to: full fine-tuning, else the compared rung with the best score."""
        self.gained = {row.name: _gained(ladder, row.name) for row in self.trained}
        """Rung -> whether it is significantly better than the base model; unknown if they were not compared."""
        self.has_unknown_gain = any(self.gained[row.name] == "unknown" and not row.not_compared for row in self.trained)
        """Whether a rung that takes part in comparisons was not compared with the base model: then nothing is
        recommended, neither to prototype with nor to ship."""

        winners = [row for row in self.trained if self.gained[row.name] == "yes"]
        self.untimed = [row for row in winners if row.all_seconds is None]
        """Rungs better than the base model whose time cannot be compared; their CPU time may be."""
        fastest = _least(winners, lambda row: row.all_seconds.mean if row.all_seconds else None)
        self.prototype = None if self.has_unknown_gain else fastest
        """The rung with the lowest total time of those better than the base model; None if one of several has no
        timing."""
        self.least_memory = _least(winners, lambda row: training_peak(row.peak))
        """The rung with the lowest peak while training of those better than the base model; None if one has no peak."""
        self.best = best = best_rung(winners, lower)
        """The rung with the best score of those better than the base model."""
        self.equals = [row for row in winners if best and (row is best or _may_replace(ladder, row, best))]
        """`best`, and the rungs better than the base model that it does not exceed significantly by more than the
        margin."""
        self.ship = None if self.has_unknown_gain else _cheapest(self.equals)
        """The cheapest rung of `equals`: a larger artifact needs a reason that is shown."""

        disturbed = any(row.disturbed for row in self.trained) and all(row.cpu_seconds for row in self.trained)
        self.cost_key: Literal["training", "cpu"] = "cpu" if disturbed else "training"
        """The cost of training that is compared: the time of the optimizer steps, or the CPU time of training if a
        timing was disturbed, because other load hardly affects CPU time."""
        full_gained = bool(self.full and self.gained[self.full.name] == "yes")
        share = self.qlora.share_of_gain if self.qlora and full_gained else None
        self.rule_quality = rule_check_of_gain(share)
        self.rule_costs: dict[str, RuleCheck] = {}
        """time, training, cpu, energy, memory -> whether QLoRA costs at most an eighth of full."""
        if self.qlora and self.full:
            for key in COSTS:
                ratio = ratio_of(key, self.qlora, self.full)
                self.rule_costs[key] = rule_check_of_cost(ratio.low, ratio.high) if ratio else "unknown"


def _may_replace(ladder: Ladder, row: RungResult, best: RungResult) -> bool:
    """Whether the best rung is not significantly better than a row, or by no more than the margin."""
    compared = comparison(ladder, best.name, row.name)
    return compared is not None and (compared.finding != "better" or is_non_inferior(ladder, row.name, best.name))


def _cheapest(rows: Sequence[RungResult]) -> RungResult | None:
    """The smallest artifact, then the lowest peak memory, then the shortest time; then the order of the ladder.

    Sizes and peaks within 5% are equal, and times whose ratio's interval contains 1, so that the choice among methods
    that are equal is the same when the ladder is repeated.
    """
    left = list(rows)
    sizes: list[Callable[[RungResult], float | None]] = [
        lambda row: row.artifact_bytes,
        lambda row: training_peak(row.peak),
    ]
    for size in sizes:
        known = [value for row in left if (value := size(row)) is not None]
        if known and len(known) == len(left):
            left = [row for row, own in zip(left, known, strict=True) if own <= EQUAL_SIZE * min(known)]
    if left and all(row.all_seconds for row in left):
        fastest = min(left, key=lambda row: row.all_seconds.mean if row.all_seconds else 0.0)
        left = [row for row in left if not is_slower(row.all_seconds, fastest.all_seconds)]
    return left[0] if left else None


def is_slower(own: SeedRange | None, other: SeedRange | None) -> bool:
    """Whether the interval of the ratio of two times is above 1."""
    ratio = cost_ratio(own, other)
    return ratio is not None and ratio.low > 1


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


def rule_check_of_gain(share: Interval | None) -> RuleCheck:
    """Whether a share of full's gain is at least 94%."""
    if share is None or share.low is None or share.high is None:
        return "unknown"
    return "holds" if share.low >= RULE_GAIN_SHARE else "fails" if share.high < RULE_GAIN_SHARE else "undecided"


def rule_check_of_cost(low: float, high: float) -> RuleCheck:
    """Whether a cost is at most an eighth of full's: all of the ratio's interval (holds) or nothing of it (fails)."""
    return "holds" if high <= RULE_COST_RATIO else "fails" if low > RULE_COST_RATIO else "undecided"


COSTS: dict[str, Callable[[RungResult], SeedRange | float | None]] = {
    "training": lambda row: row.training_seconds,
    "cpu": lambda row: row.cpu_seconds,
    "time": lambda row: row.all_seconds,
    "energy": lambda row: row.energy,
    "memory": lambda row: training_peak(row.peak),
}
"""Costs of a rung: ranges over the seeds, or one value."""


def ratio_of(key: str, row: RungResult, reference: RungResult) -> CostRatio | None:
    """The ratio of a cost of two rungs; a cost with one value for all seeds has no interval. None if one is unknown."""
    own, other = COSTS[key](row), COSTS[key](reference)
    if isinstance(own, SeedRange) and isinstance(other, SeedRange):
        return cost_ratio(own, other)
    if not isinstance(own, float | int) or not isinstance(other, float | int) or not other:
        return None
    return CostRatio(mean=own / other, low=own / other, high=own / other)


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
