"""The recommendations of the verdict: what to prototype with, what to ship, and whether full fine-tuning pays off."""

from __future__ import annotations

from collections.abc import Callable

from engine.config import quantities
from engine.config.method_specs import RULE_REFERENCE
from engine.config.text import listed
from engine.ladder import rung_format as fmt
from engine.ladder.cost_sentences import mean_and_range
from engine.ladder.decisions import EQUAL_SIZE, Decisions, comparison, is_non_inferior, training_peak
from engine.ladder.phrases import (
    BASE_NOT_SCORED,
    LOW_MEMORY,
    NO_RECOMMENDATION,
    NO_SIGNIFICANT_DIFFERENCE,
    NO_SMALLER_AS_GOOD,
    NO_TIMING,
    NOT_COMPARED,
    ONE_TIMING,
    ONLY_RUNG,
    SIGNIFICANTLY,
    SMALLEST_ARTIFACT,
    as_fast,
    as_good_text,
    difference_text,
    ladder_metric,
    margin_text,
    method_noun,
    method_subject,
)
from engine.runs.ladder import Ladder
from engine.runs.rung_results import RungResult, VerdictSentence

SIMILAR_MEMORY = 0.95
"""A peak counts as lower only below this fraction of the other peak: resident sets vary this much between runs."""


def recommendations(ladder: Ladder, decisions: Decisions) -> list[VerdictSentence]:
    """Only methods that are significantly better than the base model are recommended."""
    if any(decisions.gained[row.name] == "unknown" and not row.not_compared for row in decisions.trained):
        return [
            VerdictSentence(
                "prototype",
                f"{BASE_NOT_SCORED}, so which methods improve on it is unknown, and none can be recommended.",
            )
        ]
    if not decisions.ship or not decisions.best:
        return [VerdictSentence("prototype", NO_RECOMMENDATION)]
    sentences = [
        VerdictSentence(
            "prototype",
            _prototype(decisions, decisions.prototype) if decisions.prototype else unknown_fastest(decisions),
        ),
        VerdictSentence("ship", _ship(ladder, decisions, decisions.ship, decisions.best)),
    ]
    if decisions.full is not None and any(row.method != RULE_REFERENCE for row in decisions.trained):
        sentences.append(VerdictSentence("full", _full(ladder, decisions, decisions.full)))
    return sentences


def unknown_fastest(decisions: Decisions) -> str:
    """`There is no comparable timing of QLoRA: which method is fastest is unknown.`"""
    names = listed([method_noun(row) for row in decisions.untimed])
    return f"{NO_TIMING} of {names}: which method is fastest is unknown."


def _prototype(decisions: Decisions, fastest: RungResult) -> str:
    criterion = f"{SIGNIFICANTLY['better']} than the base model"
    only = [row for row in decisions.trained if decisions.gained[row.name] == "yes"] == [fastest]
    which = "only" if only else "fastest"
    text = f"Prototype with {method_noun(fastest)}: the {which} method that is {criterion}"
    text += f", {mean_and_range(fastest.all_seconds, quantities.duration, ' per run')}." if fastest.all_seconds else "."
    if others := _as_fast(decisions, fastest):
        text += f" {as_fast(others)}"
    small = decisions.least_memory
    if small is None or only:
        return text
    if small.name == fastest.name:
        return f"{text} {method_subject(fastest)} also has the lowest peak memory."
    least, peak = training_peak(small.peak), training_peak(fastest.peak)
    if least and peak and least > SIMILAR_MEMORY * peak:
        return f"{text} No other method needs much less memory."
    sizes = f"{quantities.size(least)} vs. {quantities.size(peak)} peak"
    return f"{text} {LOW_MEMORY}, use {fmt.rung_title(small.name)} ({sizes})."


def _as_fast(decisions: Decisions, fastest: RungResult) -> list[str]:
    """The rungs whose fastest run took no longer than the slowest run of the fastest rung."""
    limit = fastest.all_seconds.high if fastest.all_seconds else 0.0
    rivals = [row for row in decisions.trained if row is not fastest and decisions.gained[row.name] == "yes"]
    return [fmt.rung_title(row.name) for row in rivals if row.all_seconds and row.all_seconds.low <= limit]


def _ship(ladder: Ladder, decisions: Decisions, ship: RungResult, best: RungResult) -> str:
    name, size = method_noun(ship), quantities.size(ship.artifact_bytes)
    if ship.name != best.name:
        behind = comparison(ladder, ship.name, best.name)
        rival = fmt.rung_title(best.name)
        value = f" ({difference_text(ladder, behind)})" if behind else ""
        sizes = f"its artifact is {size} vs. {quantities.size(best.artifact_bytes)}"
        gap = as_good_text(ladder, "it", rival)
        return f"Ship {name}: {gap}{value}, and {sizes}. {method_subject(best)} has {_top(ladder)}."
    second = max((row for row in decisions.trained if row is not best), key=_rank(ladder), default=None)
    lead = comparison(ladder, best.name, second.name) if second else None
    if second is None:
        return f"Ship {name} ({size} artifact): {ONLY_RUNG}."
    if lead is None:
        rival = fmt.rung_title(second.name)
        return f"Ship {name} ({size} artifact): it has {_top(ladder)}; {NOT_COMPARED} with {rival}."
    if lead.finding == "better":
        than = f"{SIGNIFICANTLY['better']} than {fmt.rung_title(second.name)}"
        return f"Ship {name} ({size} artifact): it is {than}, {difference_text(ladder, lead)}."
    lead_text = f"Its lead is not significant: {difference_text(ladder, lead)}."
    is_smallest = best.artifact_bytes <= EQUAL_SIZE * min(row.artifact_bytes for row in decisions.trained)
    why = SMALLEST_ARTIFACT if is_smallest else NO_SMALLER_AS_GOOD
    return f"Ship {name} ({size} artifact): it has {_top(ladder)} and {why}. {lead_text}"


def _full(ladder: Ladder, decisions: Decisions, full: RungResult) -> str:
    others = [row for row in decisions.trained if row.method != RULE_REFERENCE]
    rival = max(others, key=_rank(ladder))
    lead = comparison(ladder, full.name, rival.name)
    price, name = _price(full, rival), fmt.rung_title(rival.name)
    if lead is None:
        return f"Full fine-tuning was not compared with {name}."
    value = difference_text(ladder, lead)
    if lead.finding == "better":
        return f"Full fine-tuning is {SIGNIFICANTLY['better']} than {name}, {value}; it costs {price}."
    if lead.finding == "worse":
        return f"Full fine-tuning does not pay off here: it is {SIGNIFICANTLY['worse']} than {name}, {value}."
    is_timed = full.all_seconds is not None and rival.all_seconds is not None
    costs, as_good = f"{value}; it costs {price}", is_non_inferior(ladder, rival.name, full.name)
    if full.all_seconds and rival.all_seconds and full.all_seconds.high < rival.all_seconds.low:
        if is_non_inferior(ladder, full.name, rival.name):
            margin = margin_text(ladder)
            return f"Full fine-tuning is faster than {name} and as good within the margin of {margin}, {costs}."
        gap = as_good_text(ladder, "which", "full") if as_good else f"with {NO_SIGNIFICANT_DIFFERENCE}"
        return f"Full fine-tuning is faster than {name}, {gap}, {costs}."
    if as_good and is_timed:
        return f"Full fine-tuning is not worth its cost here: {as_good_text(ladder, name, 'full')}, {costs}."
    gap = as_good_text(ladder, name, "full") if as_good else f"{NO_SIGNIFICANT_DIFFERENCE} from {name}"
    return f"These results do not show that full fine-tuning is worth its cost: {gap}, {costs}."


def _price(full: RungResult, rival: RungResult) -> str:
    parts = []
    once = f" ({ONE_TIMING})" if len(full.seeds) == len(rival.seeds) == 1 else ""
    if full.all_seconds and rival.all_seconds and rival.all_seconds.mean:
        parts.append(f"{quantities.ratio(full.all_seconds.mean / rival.all_seconds.mean)} the time{once}")
    peaks = training_peak(full.peak), training_peak(rival.peak)
    if peaks[0] and peaks[1]:
        parts.append(f"{quantities.ratio(peaks[0] / peaks[1])} the memory")
    parts.append(f"an artifact of {quantities.size(full.artifact_bytes)}")
    return ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]


def _rank(ladder: Ladder) -> Callable[[RungResult], float]:
    """A sort key that is greater for the better rung."""
    sign = -1.0 if ladder_metric(ladder).lower_is_better else 1.0
    return lambda row: sign * ((row.score.mean if row.score else None) or 0.0)


def _top(ladder: Ladder) -> str:
    metric = ladder_metric(ladder)
    return f"the lowest observed {metric.title}" if metric.lower_is_better else "the highest observed score"
