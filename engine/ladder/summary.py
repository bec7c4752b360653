"""The summary of a ladder: headline, the share of gain and cost of each rung, and three sentences.

Terminal, page, Markdown and JSON show this one object; the tables and the verdict have the details.
"""

from __future__ import annotations

from typing import NamedTuple

from engine.config import quantities
from engine.config.method_specs import RULE_REFERENCE
from engine.config.text import listed
from engine.ladder import rung_format as fmt
from engine.ladder.decisions import (
    RULE_COST_RATIO,
    RULE_GAIN_SHARE,
    Decisions,
    RuleCheck,
    comparison,
    decide,
    training_peak,
)
from engine.ladder.phrases import (
    BASE_NOT_SCORED,
    FULL_NOT_SCORED,
    NO_RECOMMENDATION,
    NO_SIGNIFICANT_DIFFERENCE,
    ONE_TIMING,
    RULE,
    SIGNIFICANTLY,
    as_good_text,
    difference_text,
    ladder_metric,
    method_noun,
    method_subject,
    no_significant_gain,
    sample_size,
    score_text,
    status_text,
    worse_than_base,
)
from engine.runs import score_format
from engine.runs.ladder import Ladder
from engine.runs.rung_results import Comparison, LadderSummary, RungResult, RungTradeoff, SeedRange
from engine.runs.rungs import BASE

OVERALL = {
    "holds": f"{RULE} holds here",
    "undecided": f"{RULE} is neither confirmed nor refuted here",
    "unknown": f"{RULE} cannot be checked",
}
BASE_MODEL = "the base model"
NO_COST_RATIO = "Costs are not compared: that requires full fine-tuning and another rung, both with a score."


class RungCost(NamedTuple):
    """A cost of a rung for each seed: its range, and what it is."""

    title: str
    seeds: SeedRange | None


def summarize(ladder: Ladder) -> LadderSummary | None:
    """The summary of the rungs that have finished; None before one has."""
    decisions = decide(ladder)
    if not decisions.trained or ladder.work is None:
        return None
    subject = _subject(decisions)
    sentences = [_quality(ladder, decisions, subject), _cost(decisions, subject), _recommendation(decisions)]
    worse = [row for row in decisions.trained if decisions.gained[row.name] == "worse"]
    headline = [worse_than_base(ladder, worse)] if worse else []
    headline.append(_headline(ladder, decisions, subject))
    return LadderSummary(
        headline=" ".join(headline),
        sentences=sentences,
        tradeoffs=_tradeoffs(decisions),
        cost=_training_cost(decisions, decisions.full).title if decisions.full else "",
        rule_gain=RULE_GAIN_SHARE,
        rule_cost=RULE_COST_RATIO,
    )


def cost_ratios(ladder: Ladder) -> dict[str, SeedRange]:
    """Rung -> its training cost divided by full fine-tuning's, also of rungs without a share of the gain."""
    decisions = decide(ladder)
    costs = {row.name: _cost_ratio(decisions, row) for row in decisions.trained if decisions.full}
    return {name: cost for name, cost in costs.items() if cost}


def _subject(decisions: Decisions) -> RungResult:
    """The rung that the headline is about: QLoRA, else the best one that is not full fine-tuning, else full."""
    others = [row for row in decisions.trained if row is not decisions.full]
    if decisions.qlora is not None:
        return decisions.qlora
    if decisions.best in others:
        return decisions.best
    return others[0] if others else decisions.trained[0]


def _headline(ladder: Ladder, decisions: Decisions, subject: RungResult) -> str:
    full = decisions.full
    if full is None:
        return f"{FULL_NOT_SCORED}{_why_missing(ladder)}, so {OVERALL['unknown']}."
    if subject is full:
        return f"Only full fine-tuning has a score, {score_text(full, ladder_metric(ladder))}, so {OVERALL['unknown']}."
    name, gain = method_subject(subject), subject.share_of_gain
    if gain is None or gain.mean is None:
        why = subject.no_share or "its share of full fine-tuning's gain is unknown"
        return f"{why[:1].upper()}{why[1:]}, so {OVERALL['unknown']}."
    bounds = score_format.percent_bounds(gain)
    text = f"{name} keeps {quantities.percent(gain.mean)} of full fine-tuning's gain (95% CI {bounds})"
    found = next((one for one in _tradeoffs(decisions) if one.rung == subject.name), None)
    if found is not None:
        text += f" at {quantities.ratio(found.cost.mean)} full fine-tuning's {_training_cost(decisions, full).title}"
    if subject is not decisions.qlora:
        return f"{text}."
    key = "cpu" if _uses_cpu_time(decisions) else "training"
    return f"{text}: {_rule(name, decisions.rule_quality, decisions.rule_costs.get(key, 'unknown'))}."


def _rule(name: str, quality: RuleCheck, cost: RuleCheck) -> str:
    """Whether the rule of thumb holds for the rung `name`: both in quality and cost."""
    failed = [part for part, check in (("quality", quality), ("cost", cost)) if check == "fails"]
    if failed:
        return f"{RULE} does not hold here, because of {name}'s {' and '.join(failed)}"
    both = {quality, cost}
    return OVERALL["holds" if both == {"holds"} else "unknown" if "unknown" in both else "undecided"]


def _why_missing(ladder: Ladder) -> str:
    """Why full fine-tuning has no score; '' if it was not run."""
    missing = next((row for row in ladder.rows if row.method == RULE_REFERENCE and row.reason), None)
    return f" ({status_text(missing)})" if missing else ""


def _quality(ladder: Ladder, decisions: Decisions, subject: RungResult) -> str:
    """The finding on the subject and full fine-tuning, or on the subject and the base model."""
    full = decisions.full
    if full is not None and subject is not full and decisions.gained[full.name] in ("yes", "unknown"):
        found = decisions.against_full.get(subject.name)
        return _finding(ladder, found, subject, "full") if found else _no_comparison(subject, "full")
    row = full or subject
    found = comparison(ladder, row.name, BASE)
    if found is None:
        return _no_comparison(row, BASE_MODEL)
    return _finding(ladder, found, row, BASE_MODEL)


def _no_comparison(row: RungResult, other: str) -> str:
    why = f": {row.not_compared}" if row.not_compared else ""
    return f"{method_subject(row)} was not compared with {other}{why}."


def _finding(ladder: Ladder, found: Comparison, row: RungResult, other: str) -> str:
    value = difference_text(ladder, found)
    if found.finding in SIGNIFICANTLY:
        return f"{method_subject(row)} is {SIGNIFICANTLY[found.finding]} than {other}: {value}."
    if found.finding == "as_good":
        text = as_good_text(ladder, method_subject(row), other)
        return f"{text}: {value}."
    if other == BASE_MODEL:
        return f"{no_significant_gain(ladder, row)}: {value}."
    models = f"{NO_SIGNIFICANT_DIFFERENCE.capitalize()} between {method_noun(row)} and {other}"
    return f"{models} with {sample_size(ladder)}: {value}."


def _cost(decisions: Decisions, subject: RungResult) -> str:
    """Time, memory and artifact of the subject relative to full fine-tuning's."""
    full = decisions.full
    if full is None or subject is full:
        return NO_COST_RATIO
    parts = []
    title = _training_cost(decisions, full).title
    time = _cost_ratio(decisions, subject)
    if time is not None:
        once = f" ({ONE_TIMING})" if len(subject.seeds) == len(full.seeds) == 1 else ""
        parts.append(f"{quantities.ratio(time.mean)} full fine-tuning's {title}{once}")
    peaks = training_peak(subject.peak), training_peak(full.peak)
    if peaks[0] and peaks[1]:
        parts.append(f"{quantities.ratio(peaks[0] / peaks[1])} full's peak memory")
    sizes = f"{quantities.size(subject.artifact_bytes)} instead of {quantities.size(full.artifact_bytes)}"
    name = method_subject(subject)
    return f"{name} takes {listed(parts)}; its artifact is {sizes}." if parts else f"{name}'s artifact is {sizes}."


def _recommendation(decisions: Decisions) -> str:
    """What to prototype with and what to ship, without the reasons, which the verdict has."""
    if any(decisions.gained[row.name] == "unknown" and not row.not_compared for row in decisions.trained):
        return f"{BASE_NOT_SCORED}, so no method can be recommended."
    prototype, ship = decisions.prototype, decisions.ship
    if ship is None:
        return NO_RECOMMENDATION
    if prototype is None:
        names = listed([method_noun(row) for row in decisions.untimed])
        return f"Ship {method_noun(ship)}; which method is fastest is unknown without a comparable timing of {names}."
    if prototype is ship:
        return f"Prototype with {method_noun(ship)} and ship it."
    return f"Prototype with {method_noun(prototype)} and ship {method_noun(ship)}."


def _training_cost(decisions: Decisions, row: RungResult | None) -> RungCost:
    """The cost of training a rung: the time of its optimizer steps, else the CPU time of training."""
    if _uses_cpu_time(decisions):
        return RungCost("CPU time in training", row.cpu_seconds if row else None)
    return RungCost("training time", row.training_seconds if row else None)


def _uses_cpu_time(decisions: Decisions) -> bool:
    """Whether a timing of the rungs is missing because of disturbance: CPU time is hardly affected by other load."""
    rows = decisions.trained
    return any(row.disturbed for row in rows) and all(row.cpu_seconds for row in rows)


def _tradeoffs(decisions: Decisions) -> list[RungTradeoff]:
    """Every rung with a share of the gain and a cost, full fine-tuning last."""
    full = decisions.full
    if full is None:
        return []
    found = []
    for row in (*(row for row in decisions.trained if row is not full), full):
        cost, gain = _cost_ratio(decisions, row), row.share_of_gain
        if cost is not None and gain is not None and gain.mean is not None:
            found.append(RungTradeoff(rung=row.name, title=fmt.rung_title(row.name), share_of_gain=gain, cost=cost))
    return found


def _cost_ratio(decisions: Decisions, row: RungResult) -> SeedRange | None:
    """The rung's cost divided by full fine-tuning's: of the means, lowest and highest over all pairs of seeds."""
    own, reference = _training_cost(decisions, row).seeds, _training_cost(decisions, decisions.full).seeds
    if own is None or reference is None or not reference.low:
        return None
    if row is decisions.full:
        return SeedRange(mean=1.0, low=1.0, high=1.0)
    return SeedRange(mean=own.mean / reference.mean, low=own.low / reference.high, high=own.high / reference.low)
