"""What a ladder recommends: what to prototype with, ship and serve, and the summary at the top of its report.

Terminal, page, Markdown and JSON show the one object of `summarize`; tables and verdict have the details.
"""

from __future__ import annotations

from collections.abc import Callable

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
    is_slower,
    ratio_of,
    training_peak,
)
from engine.ladder.phrases import (
    BASE_NOT_SCORED,
    FULL_NOT_SCORED,
    LOW_MEMORY,
    NO_SIGNIFICANT_DIFFERENCE,
    NO_TIMING,
    NOT_COMPARED,
    ONLY_RUNG,
    RULE,
    SIGNIFICANTLY,
    WITHIN_MARGIN,
    Sentences,
    as_fast,
    as_good_text,
    difference_text,
    keeps_gain,
    ladder_metric,
    margin_text,
    mean_and_range,
    method_noun,
    method_subject,
    metric_failed,
    no_recommendation,
    ratio_bounds,
    rung_title,
    sample_size,
    score_text,
    status_text,
    unit_suffix,
    worse_than_base,
)
from engine.ladder.results import comparison
from engine.runs import score_format
from engine.runs.ladder.ladder_state import BASE_4BIT, Ladder, artifact_of, is_base
from engine.runs.ladder.rung_results import (
    CostRatio,
    LadderSummary,
    RungResult,
    RungTradeoff,
    SummaryRow,
)

SIMILAR_MEMORY = 0.95
"""A peak counts as lower only below this fraction of the other peak: resident sets vary this much between runs."""


def recommendations(ladder: Ladder, decisions: Decisions) -> Sentences:
    """Only methods that are significantly better than the base model are recommended."""
    ship = decisions.ship
    if decisions.has_unknown_gain:
        why = f"{BASE_NOT_SCORED}, so which methods improve on it is unknown, and none can be recommended."
        yield "prototype", why
    elif ship is None:
        yield "prototype", no_recommendation(ladder)
    else:
        fastest = decisions.prototype
        yield "prototype", _prototype(decisions, fastest) if fastest else unknown_fastest(decisions)
        yield "ship", _ship(ladder, decisions, ship)


def unknown_fastest(decisions: Decisions) -> str:
    """`There is no comparable timing of QLoRA: which method is fastest is unknown.`"""
    names = listed([method_noun(row) for row in decisions.untimed])
    return f"{NO_TIMING} of {names}: which method is fastest is unknown."


def _prototype(decisions: Decisions, fastest: RungResult) -> str:
    rivals = [row for row in decisions.trained if row is not fastest and decisions.gained[row.name] == "yes"]
    which = "the fastest" if rivals else f"the only method that is {SIGNIFICANTLY['better']} than the base model"
    text = f"Prototype with {method_noun(fastest)}, {which}"
    text += f": {mean_and_range(fastest.all_seconds, quantities.duration, ' per run')}." if fastest.all_seconds else "."
    if alike := [rung_title(row.name) for row in rivals if not is_slower(row.all_seconds, fastest.all_seconds)]:
        text += f" {as_fast(alike)}"
    small = decisions.least_memory
    if small is None or small is fastest:
        return text
    least, peak = training_peak(small.peak), training_peak(fastest.peak)
    if least and peak and least > SIMILAR_MEMORY * peak:
        return text
    sizes = f"{quantities.size(least)} vs. {quantities.size(peak)} peak"
    return f"{text} {LOW_MEMORY}, use {rung_title(small.name)} ({sizes})."


def _ship(ladder: Ladder, decisions: Decisions, ship: RungResult) -> str:
    """One decision with its reason: a better score that is shown, or the lowest cost of those that are equal."""
    size = f"its artifact has {quantities.size(ship.artifact_bytes)}"
    others = [row for row in decisions.trained if row is not ship and not row.not_compared]
    if not others:
        return f"Ship {method_noun(ship)}: {ONLY_RUNG}; {size}."
    if len(decisions.equals) == 1:
        second = max(others, key=_rank(ladder))
        lead = comparison(ladder, ship.name, second.name)
        if lead is None:
            return f"Ship {method_noun(ship)}: it has {_top(ladder)}; {NOT_COMPARED} with {rung_title(second.name)}."
        worth = f"; it costs {_price(ship, second)}" if ship.artifact_bytes > EQUAL_SIZE * second.artifact_bytes else ""
        if lead.finding == "better":
            than = f"{SIGNIFICANTLY['better']} than {rung_title(second.name)}, {difference_text(ladder, lead)}"
            return f"Ship {method_noun(ship)}: it is {than}{worth}."
        return f"Ship {method_noun(ship)}: no other method is {SIGNIFICANTLY['better']} than the base model; {size}."
    any_of = f"Ship any of {listed([method_noun(row) for row in decisions.equals], 'or')}"
    rivals = [row for row in decisions.equals if row is not ship]
    cheapest = f"the cheapest ({_why_cheapest(ship, rivals)})"
    margin = f"the margin of {margin_text(ladder)}"
    if all(is_non_inferior(ladder, ship.name, row.name) for row in rivals):
        return f"{any_of}: {rung_title(ship.name)} is as good within {margin}, and {cheapest}."
    return f"{any_of}: none is shown to be better by more than {margin}. {method_subject(ship)} is {cheapest}."


def _why_cheapest(ship: RungResult, rivals: list[RungResult]) -> str:
    """The first cost by which it was chosen: `1.10 MiB artifact vs. 13.5 MiB`, `573 MiB peak memory vs. 598 MiB`."""
    costs: list[tuple[str, Callable[[RungResult], float | None], Callable[[float | None], str]]] = [
        ("artifact", lambda row: row.artifact_bytes, quantities.size),
        ("peak memory", lambda row: training_peak(row.peak), quantities.size),
        ("per run", lambda row: row.all_seconds.mean if row.all_seconds else None, quantities.duration),
    ]
    for title, cost, text in costs:
        own, least = cost(ship), min((value for row in rivals if (value := cost(row)) is not None), default=None)
        if own is not None and least is not None and own < least:
            return f"{title} {text(own)} vs. {text(least)}"
    largest = max(row.artifact_bytes for row in rivals)
    if ship.artifact_bytes * EQUAL_SIZE < largest:
        return f"artifact {quantities.size(ship.artifact_bytes)} vs. {quantities.size(largest)}"
    return "costs are equal; it is the first one"


def _price(dear: RungResult, rival: RungResult) -> str:
    parts = []
    if time := cost_ratio(dear.all_seconds, rival.all_seconds):
        parts.append(f"{quantities.ratio(time.mean)} the time")
    peaks = training_peak(dear.peak), training_peak(rival.peak)
    if peaks[0] and peaks[1]:
        parts.append(f"{quantities.ratio(peaks[0] / peaks[1])} the memory")
    return listed([*parts, f"an artifact of {quantities.size(dear.artifact_bytes)}"])


def _rank(ladder: Ladder) -> Callable[[RungResult], float]:
    """A sort key that is greater for the better rung."""
    sign = -1.0 if ladder_metric(ladder).lower_is_better else 1.0
    return lambda row: sign * ((row.score.mean if row.score else None) or 0.0)


def _top(ladder: Ladder) -> str:
    metric = ladder_metric(ladder)
    return f"the lowest observed {metric.title}" if metric.lower_is_better else "the highest observed score"


COMPLETE_MODELS = ("merged", "gguf")
"""Kinds of artifacts that are served without the base model."""


def artifact_sentences(ladder: Ladder, decisions: Decisions) -> Sentences:
    """One sentence per scored artifact; then the smallest complete model of the method that the ladder recommends."""
    rows = [row for row in ladder.rows if row.source and row.score is not None]
    for row in rows:
        yield "artifact", _kept(ladder, row)
    if decisions.ship is not None:
        named = [(row, artifact_of(row.name)) for row in rows if row.source == decisions.ship.name]
        own = [row for row, parts in named if parts is not None and parts[1].kind in COMPLETE_MODELS]
        if own:
            yield "artifact", _smallest(ladder, decisions.ship, own)


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


def _smallest(ladder: Ladder, shipped: RungResult, artifacts: list[RungResult]) -> str:
    """Which artifact of the recommended method to serve as a complete model."""
    source = rung_title(shipped.name)
    near = [row for row in artifacts if is_non_inferior(ladder, row.name, shipped.name)]
    against = [comparison(ladder, row.name, shipped.name) for row in artifacts]
    if not near and not all(compared is not None and compared.finding == "worse" for compared in against):
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


OVERALL = {
    "holds": f"{RULE} holds here",
    "fails": f"{RULE} does not hold here",
    "undecided": f"{RULE} is neither confirmed nor refuted here",
    "unknown": f"{RULE} cannot be checked",
}
UNTESTABLE = f"{RULE} cannot be tested here"


def summarize(ladder: Ladder, decisions: Decisions) -> LadderSummary | None:
    """The summary of the rungs that have finished; None before one has."""
    if not decisions.trained or ladder.work is None:
        return None
    worse = [row for row in decisions.trained if decisions.gained[row.name] == "worse"]
    headline = [worse_than_base(ladder, worse)] if worse else []
    if metric_failed(ladder):
        same = f"Every rung has the same score in {ladder_metric(ladder).title}, although the loss fell"
        if decisions.full:
            headline.append(f"{same}: {OVERALL['unknown']} by this metric.")
        else:
            headline.append(f"{same}. {_without_full(ladder, decisions)}")
    else:
        headline.append(_headline(ladder, decisions, _subject(decisions)))
    low, high = _scale(ladder, decisions)
    metric = ladder_metric(ladder).name
    return LadderSummary(
        is_loss=ladder_metric(ladder).is_loss,
        headline=" ".join(headline),
        rows=[_summary_row(ladder, decisions, row, (low, high)) for row in ladder.rows if row.name != BASE_4BIT],
        scale=[score_format.score(end, metric) for end in (low, high)],
        tradeoffs=_tradeoffs(decisions),
        cost=_cost_title(decisions),
        reference=method_noun(decisions.reference) if decisions.reference else "",
        tests_rule=decisions.full is not None,
        rule_gain=RULE_GAIN_SHARE,
        rule_cost=RULE_COST_RATIO,
    )


def _scale(ladder: Ladder, decisions: Decisions) -> tuple[float, float]:
    """The ends of the trained rungs' intervals: the base model's may be far away."""
    rows = [*decisions.trained, *(row for row in ladder.rows if row.source)]
    ends = [end for row in rows if row.score for end in (row.score.low, row.score.mean, row.score.high)]
    known = [end for end in ends if end is not None]
    return (min(known), max(known)) if known else (0.0, 1.0)


def _summary_row(ladder: Ladder, decisions: Decisions, row: RungResult, scale: tuple[float, float]) -> SummaryRow:
    metric, value, gain = ladder_metric(ladder).name, row.score, row.share_of_gain
    score = f"{score_format.score(value.mean, metric)} {score_format.score_bounds(value, metric)}" if value else ""
    share = f"{quantities.percent(gain.mean, 0)} {score_format.percent_bounds(gain, 0)}" if gain else ""
    ratio = _cost_ratio(decisions, row) if not row.source else None
    peak = training_peak(row.peak)
    finding = _short_finding(ladder, decisions, row)
    drawn: list[float] = []
    if value and value.mean is not None and value.low is not None and value.high is not None and scale[0] < scale[1]:
        drawn = [(end - scale[0]) / (scale[1] - scale[0]) for end in (value.low, value.mean, value.high)]
    return SummaryRow(
        rung=row.name,
        title=rung_title(row.name),
        score=score.strip() or row.status.replace("_", " "),
        share="100%" if gain and row is decisions.reference else share,
        cost=f"{quantities.ratio(ratio.mean)} {ratio_bounds(ratio)}".strip() if ratio else "",
        memory=quantities.size(peak) if peak else "",
        artifact=quantities.size(row.artifact_bytes) if row.artifact_bytes else "",
        decision=_decision(decisions, row, finding),
        finding=finding,
        drawn=drawn if all(0.0 <= end <= 1.0 for end in drawn) else [],
    )


def _decision(decisions: Decisions, row: RungResult, finding: str) -> str:
    """`ship; as good as full`: what a rung is recommended for and the finding on it, in a few words."""
    uses = [use for use, chosen in (("prototype", decisions.prototype), ("ship", decisions.ship)) if chosen is row]
    return "; ".join(filter(None, [" and ".join(uses), finding]))


def _short_finding(ladder: Ladder, decisions: Decisions, row: RungResult) -> str:
    if is_base(row.name) or row.score is None:
        return ""
    if row.not_compared:
        return "not compared"
    if row.source:
        return _against(ladder, row, row.source)
    gained = decisions.gained[row.name]
    if gained != "yes":
        texts = {"worse": "worse than the base model", "no": "no significant gain", "unknown": "gain unknown"}
        return texts[gained]
    if decisions.reference is None or row is decisions.reference:
        return "" if row is decisions.full else "the best score"
    return _against(ladder, row, decisions.reference.name)


def _against(ladder: Ladder, row: RungResult, other: str) -> str:
    compared, name = comparison(ladder, row.name, other), rung_title(other)
    if compared is None:
        return "not compared"
    if compared.finding == "as_good":
        return f"as good as {name}"
    if compared.finding in SIGNIFICANTLY:
        small = f" {WITHIN_MARGIN}" if is_non_inferior(ladder, row.name, other) and compared.finding == "worse" else ""
        return f"{compared.finding} than {name}{small}"
    return f"{NO_SIGNIFICANT_DIFFERENCE} from {name}"


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
        return _without_full(ladder, decisions)
    if subject is full:
        return f"Only full fine-tuning has a score, {score_text(full, ladder_metric(ladder))}, so {OVERALL['unknown']}."
    name, gain = method_subject(subject), subject.share_of_gain
    if gain is None or gain.mean is None:
        why = subject.no_share or "its share of full fine-tuning's gain is unknown"
        return f"{why[:1].upper()}{why[1:]}, so {OVERALL['unknown']}."
    bounds = score_format.percent_bounds(gain)
    where = " in held-out loss" if ladder_metric(ladder).is_loss else ""  # which is no gain of the answers yet
    text = f"{name} keeps {quantities.percent(gain.mean)} of full fine-tuning's gain{where} (95% CI {bounds})"
    tradeoff = next((point for point in _tradeoffs(decisions) if point.rung == subject.name), None)
    if tradeoff is not None:
        text += f" at {quantities.ratio(tradeoff.cost.mean)} full fine-tuning's {_cost_title(decisions)}"
    if subject is not decisions.qlora:
        return f"{text}."
    key = "cpu" if uses_cpu_time(decisions) else "training"
    return f"{text}: {_rule(name, decisions.rule_quality, decisions.rule_costs.get(key, 'unknown'))}."


def _without_full(ladder: Ladder, decisions: Decisions) -> str:
    """That the rule cannot be tested and where it could be; then how the other rungs compare."""
    needs = f"; {ladder.full_needs}" if ladder.full_needs else ""
    text = f"{FULL_NOT_SCORED}{_why_missing(ladder)}, so {UNTESTABLE}{needs}."
    best = decisions.reference
    others = [row for row in decisions.trained if row is not best and not row.not_compared]
    if best is None or not others:
        return text
    findings = {row.name: comparison(ladder, best.name, row.name) for row in others}
    behind = [rung_title(row.name) for row in others if (finding := findings[row.name]) and finding.finding == "better"]
    if behind:
        return f"{text} {method_subject(best)} is {SIGNIFICANTLY['better']} than {listed(behind)}."
    names = listed([rung_title(row.name) for row in (best, *others)])
    return f"{text} {NO_SIGNIFICANT_DIFFERENCE.capitalize()} between {names} with {sample_size(ladder)}."


def _rule(name: str, quality: RuleCheck, cost: RuleCheck) -> str:
    """Whether the rule of thumb holds for the rung `name`: both in quality and cost."""
    parts = {"quality": quality, "cost": cost}
    if failed := [part for part, check in parts.items() if check == "fails"]:
        return f"{OVERALL['fails']}, because of {name}'s {' and '.join(failed)}"
    if "unknown" in parts.values() or set(parts.values()) == {"holds"}:
        return OVERALL["holds" if set(parts.values()) == {"holds"} else "unknown"]
    undecided = [part for part, check in parts.items() if check == "undecided"]
    return f"{OVERALL['undecided']}, because {name}'s {' and '.join(undecided)} may be on either side of it"


def _why_missing(ladder: Ladder) -> str:
    """Why full fine-tuning has no score; '' if it was not run."""
    missing = next((row for row in ladder.rows if row.method == RULE_REFERENCE and row.reason), None)
    return f" ({status_text(missing)})" if missing else ""


def _cost_title(decisions: Decisions) -> str:
    """What the cost of training is: the time of the optimizer steps, else the CPU time of training."""
    return "CPU time in training" if uses_cpu_time(decisions) else "training time"


def uses_cpu_time(decisions: Decisions) -> bool:
    """Whether a timing of the rungs is missing because of disturbance: CPU time is hardly affected by other load."""
    rows = decisions.trained
    return any(row.disturbed for row in rows) and all(row.cpu_seconds for row in rows)


def _tradeoffs(decisions: Decisions) -> list[RungTradeoff]:
    """Every rung with a share of the gain and a cost, the reference last."""
    reference = decisions.reference
    if reference is None:
        return []
    tradeoffs = []
    for row in (*(row for row in decisions.trained if row is not reference), reference):
        cost, gain = _cost_ratio(decisions, row), row.share_of_gain
        if cost is not None and gain is not None and gain.mean is not None:
            tradeoffs.append(RungTradeoff(rung=row.name, title=rung_title(row.name), share_of_gain=gain, cost=cost))
    return tradeoffs


def _cost_ratio(decisions: Decisions, row: RungResult) -> CostRatio | None:
    """The rung's cost divided by the reference's."""
    key = "cpu" if uses_cpu_time(decisions) else "training"
    ratio = ratio_of(key, row, decisions.reference) if decisions.reference else None
    return CostRatio(mean=1.0, low=1.0, high=1.0) if ratio and row is decisions.reference else ratio
