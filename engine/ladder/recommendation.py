"""What a ladder recommends: what to prototype with, ship and serve, and the summary at the top of its report.

Terminal, page, Markdown and JSON show the one object of `summarize`; tables and verdict have the details.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from engine.config import quantities
from engine.config.method_specs import RULE_REFERENCE
from engine.config.text import listed
from engine.ladder.decisions import (
    EQUAL_SIZE,
    RULE_COST_RATIO,
    RULE_GAIN_SHARE,
    Decisions,
    RuleCheck,
    cost_ratio,
    decide,
    is_non_inferior,
    training_peak,
)
from engine.ladder.phrases import (
    BASE_NOT_SCORED,
    FULL_NOT_SCORED,
    LOW_MEMORY,
    NO_SIGNIFICANT_DIFFERENCE,
    NO_SMALLER_AS_GOOD,
    NO_TIMING,
    NOT_COMPARED,
    ONE_TIMING,
    ONLY_RUNG,
    RULE,
    SIGNIFICANTLY,
    SMALLEST_ARTIFACT,
    as_fast,
    as_good_text,
    difference_text,
    keeps_gain,
    ladder_metric,
    margin_text,
    mean_and_range,
    method_noun,
    method_subject,
    no_recommendation,
    no_significant_gain,
    rung_title,
    sample_size,
    score_text,
    status_text,
    unit_suffix,
    worse_than_base,
)
from engine.ladder.results import comparison
from engine.runs import score_format
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.ladder.rung_results import (
    Comparison,
    CostRatio,
    LadderSummary,
    RungResult,
    RungTradeoff,
    SeedRange,
    VerdictSentence,
)
from engine.runs.ladder.rungs import BASE, artifact_of

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
        return [VerdictSentence("prototype", no_recommendation(ladder))]
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
    return f"{text} {LOW_MEMORY}, use {rung_title(small.name)} ({sizes})."


def _as_fast(decisions: Decisions, fastest: RungResult) -> list[str]:
    """The rungs whose fastest run took no longer than the slowest run of the fastest rung."""
    limit = fastest.all_seconds.high if fastest.all_seconds else 0.0
    rivals = [row for row in decisions.trained if row is not fastest and decisions.gained[row.name] == "yes"]
    return [rung_title(row.name) for row in rivals if row.all_seconds and row.all_seconds.low <= limit]


def _ship(ladder: Ladder, decisions: Decisions, ship: RungResult, best: RungResult) -> str:
    name, size = method_noun(ship), quantities.size(ship.artifact_bytes)
    if ship.name != best.name:
        behind = comparison(ladder, ship.name, best.name)
        rival = rung_title(best.name)
        value = f" ({difference_text(ladder, behind)})" if behind else ""
        sizes = f"its artifact is {size} vs. {quantities.size(best.artifact_bytes)}"
        gap = as_good_text(ladder, "it", rival)
        return f"Ship {name}: {gap}{value}, and {sizes}. {method_subject(best)} has {_top(ladder)}."
    second = max((row for row in decisions.trained if row is not best), key=_rank(ladder), default=None)
    lead = comparison(ladder, best.name, second.name) if second else None
    if second is None:
        return f"Ship {name} ({size} artifact): {ONLY_RUNG}."
    if lead is None:
        rival = rung_title(second.name)
        return f"Ship {name} ({size} artifact): it has {_top(ladder)}; {NOT_COMPARED} with {rival}."
    if lead.finding == "better":
        than = f"{SIGNIFICANTLY['better']} than {rung_title(second.name)}"
        return f"Ship {name} ({size} artifact): it is {than}, {difference_text(ladder, lead)}."
    lead_text = f"Its lead is not significant: {difference_text(ladder, lead)}."
    is_smallest = best.artifact_bytes <= EQUAL_SIZE * min(row.artifact_bytes for row in decisions.trained)
    why = SMALLEST_ARTIFACT if is_smallest else NO_SMALLER_AS_GOOD
    return f"Ship {name} ({size} artifact): it has {_top(ladder)} and {why}. {lead_text}"


def _full(ladder: Ladder, decisions: Decisions, full: RungResult) -> str:
    others = [row for row in decisions.trained if row.method != RULE_REFERENCE]
    rival = max(others, key=_rank(ladder))
    lead = comparison(ladder, full.name, rival.name)
    price, name = _price(full, rival), rung_title(rival.name)
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


COMPLETE_MODELS = ("merged", "gguf")
"""Kinds of artifacts that are served without the base model."""


def artifact_sentences(ladder: Ladder, decisions: Decisions) -> list[VerdictSentence]:
    """One sentence per scored artifact; then the smallest complete model of the method that the ladder recommends."""
    rows = [row for row in ladder.rows if row.source and row.score is not None]
    sentences = [VerdictSentence("artifact", _kept(ladder, row)) for row in rows]
    if decisions.ship is not None:
        own = [row for row in rows if row.source == decisions.ship.name and _is_complete(row)]
        if own:
            sentences.append(VerdictSentence("artifact", _smallest(ladder, decisions.ship, own)))
    return sentences


def _kept(ladder: Ladder, row: RungResult) -> str:
    """`LoRA Q4_K_M keeps 88.1% of full's gain over the base model, pointwise 95% CI [81.2, 94.0], in 105 MiB; …`."""
    metric, name = ladder_metric(ladder), rung_title(row.name)
    name = name[:1].upper() + name[1:] if row.source == RULE_REFERENCE else name
    size = f"in {quantities.size(row.artifact_bytes)}"
    if gain := row.share_of_gain:
        text = f"{name} {keeps_gain(ladder, row, gain)}, {size}"
    elif metric.lower_is_better:
        text = f"{name} has a {metric.title} of {score_text(row, metric)} {size}"
    else:
        text = f"{name} scores {score_text(row, metric)} {size}"
    of_run = comparison(ladder, row.name, row.source)
    if of_run is None:
        return f"{text}."
    if of_run.difference.mean == 0 and row.identical == 1:
        return f"{text}; all its answers are those of {rung_title(row.source)}."
    value = difference_text(ladder, of_run)
    if of_run.finding == "as_good":
        return f"{text}; {as_good_text(ladder, 'it', rung_title(row.source))}: {value}."
    if of_run.finding == "undecided":
        return f"{text}; {NO_SIGNIFICANT_DIFFERENCE} from {rung_title(row.source)}: {value}."
    return f"{text}; it is {SIGNIFICANTLY[of_run.finding]} than {rung_title(row.source)}: {value}."


def _is_complete(row: RungResult) -> bool:
    named = artifact_of(row.name)
    return named is not None and named[1].kind in COMPLETE_MODELS


def _smallest(ladder: Ladder, shipped: RungResult, artifacts: list[RungResult]) -> str:
    """Which artifact of the recommended method to serve as a complete model."""
    source = rung_title(shipped.name)
    near = [row for row in artifacts if is_non_inferior(ladder, row.name, shipped.name)]
    if not near and not all(_is_worse(comparison(ladder, row.name, shipped.name)) for row in artifacts):
        as_good = as_good_text(ladder, "", source).removeprefix(" is ")
        return f"No complete model made from {source} is shown to be {as_good}."
    if not near:
        return f"Every complete model made from {source} is {SIGNIFICANTLY['worse']} than {source}."
    small = min(near, key=lambda row: row.artifact_bytes)
    text = f"To serve {source} as a complete model, use {rung_title(small.name)}"
    text += f" ({quantities.size(small.artifact_bytes)}): the smallest that {as_good_text(ladder, '', source).lstrip()}"
    metric, of_run = ladder_metric(ladder), comparison(ladder, small.name, shipped.name)
    worst = None
    if of_run is not None:
        worst = of_run.difference.high if metric.lower_is_better else of_run.difference.low
    if worst is None:
        return f"{text}."
    points = score_format.difference(abs(worst), metric.name).lstrip("+") + unit_suffix(metric)
    return f"{text}. It may be up to {points} worse (bound of the 95% CI)."


def _is_worse(compared: Comparison | None) -> bool:
    return compared is not None and compared.finding == "worse"


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
    sentences = [_quality(ladder, decisions, subject), _cost(decisions, subject), _recommendation(ladder, decisions)]
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


def cost_ratios(ladder: Ladder) -> dict[str, CostRatio]:
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
    tradeoff = next((each for each in _tradeoffs(decisions) if each.rung == subject.name), None)
    if tradeoff is not None:
        text += f" at {quantities.ratio(tradeoff.cost.mean)} full fine-tuning's {_training_cost(decisions, full).title}"
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
        against = decisions.against_full.get(subject.name)
        return _finding(ladder, against, subject, "full") if against else _no_comparison(subject, "full")
    row = full or subject
    against = comparison(ladder, row.name, BASE)
    if against is None:
        return _no_comparison(row, BASE_MODEL)
    return _finding(ladder, against, row, BASE_MODEL)


def _no_comparison(row: RungResult, other: str) -> str:
    why = f": {row.not_compared}" if row.not_compared else ""
    return f"{method_subject(row)} was not compared with {other}{why}."


def _finding(ladder: Ladder, compared: Comparison, row: RungResult, other: str) -> str:
    value = difference_text(ladder, compared)
    if compared.finding in SIGNIFICANTLY:
        return f"{method_subject(row)} is {SIGNIFICANTLY[compared.finding]} than {other}: {value}."
    if compared.finding == "as_good":
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


def _recommendation(ladder: Ladder, decisions: Decisions) -> str:
    """What to prototype with and what to ship, without the reasons, which the verdict has."""
    if any(decisions.gained[row.name] == "unknown" and not row.not_compared for row in decisions.trained):
        return f"{BASE_NOT_SCORED}, so no method can be recommended."
    prototype, ship = decisions.prototype, decisions.ship
    if ship is None:
        return no_recommendation(ladder)
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
    tradeoffs = []
    for row in (*(row for row in decisions.trained if row is not full), full):
        cost, gain = _cost_ratio(decisions, row), row.share_of_gain
        if cost is not None and gain is not None and gain.mean is not None:
            tradeoffs.append(RungTradeoff(rung=row.name, title=rung_title(row.name), share_of_gain=gain, cost=cost))
    return tradeoffs


def _cost_ratio(decisions: Decisions, row: RungResult) -> CostRatio | None:
    """The rung's cost divided by full fine-tuning's."""
    ratio = cost_ratio(_training_cost(decisions, row).seeds, _training_cost(decisions, decisions.full).seeds)
    return CostRatio(mean=1.0, low=1.0, high=1.0) if ratio and row is decisions.full else ratio
