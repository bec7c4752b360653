"""What a ladder recommends: what to prototype with, ship and serve, and the summary at the top of its report.

Terminal, page, Markdown and JSON show the one object of `summarize_ladder`; tables and verdict have the details.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    is_non_inferior,
    is_slower,
    ratio_of,
    training_peak,
)
from engine.ladder.phrases import (
    ASSUMED_SPREAD,
    BASE_NOT_SCORED,
    COST_TITLES,
    NO_SIGNIFICANT_DIFFERENCE,
    RULE,
    SIGNIFICANTLY,
    WITHIN_MARGIN,
    Sentences,
    allowed_collapses,
    as_good_as,
    as_good_text,
    collapse_bound,
    difference_text,
    has_one_seed,
    ladder_metric,
    margin_text,
    method_noun,
    method_subject,
    metric_failed,
    ratio_bounds,
    rung_title,
    sample_size,
    score_text,
    seed_range_text,
    share_reference,
    status_text,
    unit_suffix,
)
from engine.ladder.results import comparison
from engine.runs import score_format
from engine.runs.ladder.ladder_state import BASE, BASE_4BIT, Ladder, artifact_of, is_base
from engine.runs.ladder.rung_results import CostRatio, LadderSummary, RungResult, RungTradeoff, SummaryRow

SIMILAR_MEMORY = 0.95
"""A peak counts as lower only below this fraction of the other peak: resident sets vary this much between runs."""
NO_RECOMMENDATION = "No method is significantly better than the base model: this ladder recommends none."
METRIC_FAILED = "The metric scores every rung alike: this ladder recommends no method."
FULL_NOT_SCORED = "Full fine-tuning has no score"
NO_TIMING = "There is no comparable wall-clock time"
LOW_MEMORY = "If memory is limited"
ONLY_RUNG = "it is the only rung with a score"
NOT_COMPARED = "it was not compared"


def recommendations(ladder: Ladder, decisions: Decisions) -> Sentences:
    """Only methods that are significantly better than the base model are recommended."""
    ship, fastest, small = decisions.ship, decisions.prototype, decisions.least_memory
    if decisions.has_unknown_gain:
        why = f"{BASE_NOT_SCORED}, so which methods improve on it is unknown, and none can be recommended."
        yield "prototype", why
        return
    if ship is None:
        yield "prototype", METRIC_FAILED if metric_failed(ladder) else NO_RECOMMENDATION
        return
    if fastest is None:
        yield "prototype", unknown_fastest(decisions)
        yield "ship", _ship(ladder, decisions, ship)
        return

    rivals = [row for row in decisions.trained if row is not fastest and decisions.gained[row.name] == "yes"]
    which = "the fastest" if rivals else f"the only method that is {SIGNIFICANTLY['better']} than the base model"
    text = f"Prototype with {method_noun(fastest)}, {which}"
    if times := fastest.all_seconds:
        between = seed_range_text(times, quantities.duration)
        text += f": {quantities.duration(times.mean)} per run" + (f" (seeds: {between})" if between else "")
    text += "."
    if alike := [rung_title(row.name) for row in rivals if not is_slower(row.all_seconds, fastest.all_seconds)]:
        text += f" {as_fast(alike)}"
    if small and small is not fastest:
        least, peak = training_peak(small.peak), training_peak(fastest.peak)
        if not (least and peak and least > SIMILAR_MEMORY * peak):
            sizes = f"{quantities.size(least)} vs. {quantities.size(peak)} peak"
            text += f" {LOW_MEMORY}, use {rung_title(small.name)} ({sizes})."
    yield "prototype", text
    yield "ship", _ship(ladder, decisions, ship)


def unknown_fastest(decisions: Decisions) -> str:
    """`There is no comparable wall-clock time of QLoRA: which method is fastest is unknown.`"""
    names = listed([method_noun(row) for row in decisions.untimed])
    return f"{NO_TIMING} of {names}: which method is fastest is unknown."


def as_fast(names: Sequence[str]) -> str:
    """`For some seeds QLoRA and LoRA were as fast.`"""
    return f"For some seeds {' and '.join(names)} {'were' if len(names) > 1 else 'was'} as fast."


def _ship(ladder: Ladder, decisions: Decisions, ship: RungResult) -> str:
    """One decision with its reason: a better score that is shown, or the lowest cost of those that are equal."""
    metric, better, text = ladder_metric(ladder), SIGNIFICANTLY["better"], f"Ship {method_noun(ship)}"
    size = f"its artifact has {quantities.size(ship.artifact_bytes)}"
    others = [row for row in decisions.trained if row is not ship and not row.not_compared]
    if not others:
        return f"{text}: {ONLY_RUNG}; {size}."
    if len(decisions.equals) == 1:
        sign = -1.0 if metric.lower_is_better else 1.0
        second = max(others, key=lambda row: sign * ((row.score.mean if row.score else None) or 0.0))
        lead = comparison(ladder, ship.name, second.name)
        if lead is None:
            top = f"the lowest observed {metric.title}" if metric.lower_is_better else "the highest observed score"
            return f"{text}: it has {top}; {NOT_COMPARED} with {rung_title(second.name)}."
        if lead.finding != "better":
            return f"{text}: no other method is {better} than the base model; {size}."
        text += f": it is {better} than {rung_title(second.name)}, {difference_text(ladder, lead)}"
        if ship.artifact_bytes <= EQUAL_SIZE * second.artifact_bytes:
            return f"{text}."
        prices = []
        if time := cost_ratio(ship.all_seconds, second.all_seconds):
            prices.append(f"{quantities.ratio(time.mean)} the time")
        own, other = training_peak(ship.peak), training_peak(second.peak)
        if own and other:
            prices.append(f"{quantities.ratio(own / other)} the memory")
        prices.append(f"an artifact of {quantities.size(ship.artifact_bytes)}")
        return f"{text}; it costs {listed(prices)}."

    any_of = f"Ship any of {listed([method_noun(row) for row in decisions.equals], 'or')}"
    rivals = [row for row in decisions.equals if row is not ship]
    cheapest = f"the cheapest ({_why_cheapest(ship, rivals)})"
    margin = f"the margin of {margin_text(ladder)}"
    if all(is_non_inferior(ladder, ship.name, row.name) for row in rivals):
        allowed = allowed_collapses(ladder, *(row.name for row in decisions.equals))
        return f"{any_of}: {rung_title(ship.name)} is as good within {margin}{allowed}, and {cheapest}."
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


def artifact_sentences(ladder: Ladder, decisions: Decisions) -> Sentences:
    """One sentence per scored artifact; then the smallest complete model of the method that the ladder recommends."""
    rows = [row for row in ladder.rows if row.source and row.score is not None]
    for row in rows:
        yield "artifact", _kept(ladder, row)
    if decisions.ship is not None:
        named = [(row, artifact_of(row.name)) for row in rows if row.source == decisions.ship.name]
        own = [row for row, parts in named if parts is not None and parts[1].format.is_complete]
        if own:
            yield "artifact", _smallest(ladder, decisions.ship, own)


def _kept(ladder: Ladder, row: RungResult) -> str:
    """`LoRA Q4_K_M keeps 88.1% of full's gain over the base model, pointwise 95% CI [81.2, 94.0], in 105 MiB; …`."""
    metric, name = ladder_metric(ladder), rung_title(row.name)
    name = name[:1].upper() + name[1:] if row.source == RULE_REFERENCE else name
    size = f"in {quantities.size(row.artifact_bytes)}"
    if gain := row.share_of_gain:
        share, bounds = quantities.percent(gain.mean), score_format.percent_bounds(gain)
        scope = f" ({ASSUMED_SPREAD})" if has_one_seed(ladder, row.name) else ""
        of = share_reference(ladder)
        text = f"{name} keeps {share} of {of}'s gain over the base model, pointwise 95% CI {bounds}{scope}, {size}"
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
        return f"No complete model made from {source} is shown to be {as_good_as(ladder, source)}."
    if not near:
        return f"Every complete model made from {source} is {SIGNIFICANTLY['worse']} than {source}."
    small = min(near, key=lambda row: row.artifact_bytes)
    text = f"To serve {source} as a complete model, use {rung_title(small.name)}"
    text += f" ({quantities.size(small.artifact_bytes)}): the smallest that is {as_good_as(ladder, source)}"
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


def summarize_ladder(ladder: Ladder, decisions: Decisions) -> LadderSummary | None:
    """The summary of the rungs that have finished; None before one has."""
    if not decisions.trained or ladder.work is None:
        return None
    metric = ladder_metric(ladder)
    worse = [row for row in decisions.trained if decisions.gained[row.name] == "worse"]
    headline = [worse_than_base(ladder, worse)] if worse else []
    if metric_failed(ladder):
        same = f"Every rung has the same score in {metric.title}, although the loss fell"
        rule = f": {OVERALL['unknown']} by this metric." if decisions.full else f". {_without_full(ladder, decisions)}"
        headline.append(f"{same}{rule}")
    else:
        headline.append(_headline(ladder, decisions))
    # From the lowest to the highest end of the trained rungs' intervals: the base model's may be far away.
    rows = [*decisions.trained, *(row for row in ladder.rows if row.source)]
    ends = [end for row in rows if row.score for end in (row.score.low, row.score.mean, row.score.high)]
    known = [end for end in ends if end is not None] or [0.0, 1.0]
    scale = min(known), max(known)
    reference, tradeoffs, ship = decisions.reference, [], decisions.ship
    for row in sorted(decisions.trained, key=lambda row: row is reference):  # the reference last
        cost, gain = _cost_ratio(decisions, row), row.share_of_gain
        if cost is not None and gain is not None and gain.mean is not None:
            tradeoffs.append(RungTradeoff(rung=row.name, title=rung_title(row.name), share_of_gain=gain, cost=cost))
    return LadderSummary(
        is_loss=metric.is_loss,
        ship=ship.name if ship else "",
        decision=_decision(ladder, decisions),
        headline=" ".join(headline),
        rows=[_summary_row(ladder, decisions, row, scale) for row in ladder.rows if row.name != BASE_4BIT],
        scale=[score_format.score(end, metric.name) for end in scale],
        tradeoffs=tradeoffs,
        cost=COST_TITLES[decisions.cost_key],
        reference=method_noun(reference) if reference else "",
        tests_rule=decisions.full is not None,
        rule_gain=RULE_GAIN_SHARE,
        rule_cost=RULE_COST_RATIO,
    )


def _decision(ladder: Ladder, decisions: Decisions) -> list[str]:
    """`SHIP LoRA`, `1.10 MiB`, `keeps 100% [88, 114] of full's gain at 0.68× its time`; or why nothing is shipped."""
    ship, reference = decisions.ship, decisions.reference
    if ship is None:
        why = "no method is significantly better than the base model"
        if decisions.has_unknown_gain:
            why = "the base model was not compared, so gains are unknown"
        elif metric_failed(ladder):
            why = "the metric scores every rung alike"
        return ["NO RECOMMENDATION", why]
    parts = [f"SHIP {rung_title(ship.name)}", quantities.size(ship.artifact_bytes)]
    if reference is None or ship is reference or ship.share_of_gain is None:
        metric = ladder_metric(ladder)
        bounds = score_format.score_bounds(ship.score, metric.name)
        return [*parts, f"{metric.title} {score_text(ship, metric)} {bounds}".rstrip()]
    share = f"{quantities.percent(ship.share_of_gain.mean, 0)} {score_format.percent_bounds(ship.share_of_gain, 0)}"
    kept = f"keeps {share.strip()} of {rung_title(reference.name)}'s gain"
    if cost := _cost_ratio(decisions, ship):
        of = "CPU time" if decisions.cost_key == "cpu" else "time"
        kept += f" at {quantities.ratio(cost.mean)} its {of}"
    return [*parts, kept]


def worse_than_base(ladder: Ladder, rows: Sequence[RungResult]) -> str:
    """`QLoRA and LoRA are significantly worse than the base model: ` and their differences."""
    names = listed([method_noun(row) for row in rows])
    verb = "are" if len(rows) > 1 else "is"
    gaps = [difference_text(ladder, gain) for row in rows if (gain := comparison(ladder, row.name, BASE))]
    return f"{names[:1].upper()}{names[1:]} {verb} {SIGNIFICANTLY['worse']} than the base model: {'; '.join(gaps)}."


def _summary_row(ladder: Ladder, decisions: Decisions, row: RungResult, scale: tuple[float, float]) -> SummaryRow:
    metric, value, gain = ladder_metric(ladder).name, row.score, row.share_of_gain
    score = score_format.score(value.mean, metric) if value else ""
    ratio = _cost_ratio(decisions, row) if not row.source else None
    peak = training_peak(row.peak)
    finding = _short_finding(ladder, decisions, row)
    uses = [use for use, chosen in (("prototype", decisions.prototype), ("ship", decisions.ship)) if chosen is row]
    ends = [end for end in (value.low, value.mean, value.high) if end is not None] if value else []
    drawn = [(end - scale[0]) / (scale[1] - scale[0]) for end in ends] if scale[0] < scale[1] else []
    is_full = row is decisions.full
    return SummaryRow(
        rung=row.name,
        title=rung_title(row.name),
        score=score,
        # Rows are updated only when a run ends, so a run that is still `planned` in its row may have started since.
        status="" if score else "not finished" if row.status == "planned" else row.status.replace("_", " "),
        score_bounds=score_format.score_bounds(value, metric),
        score_rounded=score_format.score_bounds(value, metric, 1),
        share="100%" if gain and is_full else quantities.percent(gain.mean, 0) if gain else "",
        share_bounds="" if is_full else score_format.percent_bounds(gain, 0),
        cost=quantities.ratio(ratio.mean) if ratio else "",
        cost_bounds=ratio_bounds(ratio) if ratio else "",
        memory=quantities.size(peak) if peak else "",
        artifact=quantities.size(row.artifact_bytes) if row.artifact_bytes else "",
        decision="; ".join(filter(None, [" and ".join(uses), finding])),
        finding=finding,
        drawn=drawn if len(drawn) == 3 else [],
    )


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
        allowed = collapse_bound(ladder, row.name, other)
        return f"as good as {name}" + (f" (≤ {allowed} of seeds may collapse)" if allowed else "")
    if compared.finding in SIGNIFICANTLY:
        small = f" {WITHIN_MARGIN}" if is_non_inferior(ladder, row.name, other) and compared.finding == "worse" else ""
        return f"{compared.finding} than {name}{small}"
    return f"{NO_SIGNIFICANT_DIFFERENCE} from {name}"


def _headline(ladder: Ladder, decisions: Decisions) -> str:
    """One sentence about QLoRA; without QLoRA, about the best rung that is not full fine-tuning."""
    full, metric = decisions.full, ladder_metric(ladder)
    if full is None:
        return _without_full(ladder, decisions)
    others = [row for row in decisions.trained if row is not full]
    if not others:
        return f"Only full fine-tuning has a score, {score_text(full, metric)}, so {OVERALL['unknown']}."
    best = decisions.best if decisions.best in others else None
    subject = decisions.qlora or best or others[0]
    name, gain = method_subject(subject), subject.share_of_gain
    if gain is None or gain.mean is None:
        why = subject.no_share or "its share of full fine-tuning's gain is unknown"
        return f"{why[:1].upper()}{why[1:]}, so {OVERALL['unknown']}."
    bounds = score_format.percent_bounds(gain)
    where = " in held-out loss" if metric.is_loss else ""  # which is no gain of the answers yet
    text = f"{name} keeps {quantities.percent(gain.mean)} of full fine-tuning's gain{where} (95% CI {bounds})"
    if cost := _cost_ratio(decisions, subject):
        text += f" at {quantities.ratio(cost.mean)} full fine-tuning's {COST_TITLES[decisions.cost_key]}"
    if subject is not decisions.qlora:
        return f"{text}."
    return f"{text}: {_rule(name, decisions.rule_quality, decisions.rule_costs.get(decisions.cost_key, 'unknown'))}."


def _without_full(ladder: Ladder, decisions: Decisions) -> str:
    """That the rule cannot be tested and where it could be; then how the other rungs compare."""
    missing = next((row for row in ladder.rows if row.method == RULE_REFERENCE and row.reason), None)
    why = f" ({status_text(missing)})" if missing else ""
    needs = f"; {ladder.full_needs}" if ladder.full_needs else ""
    text = f"{FULL_NOT_SCORED}{why}, so {UNTESTABLE}{needs}."
    best = decisions.reference
    others = [row for row in decisions.trained if row is not best and not row.not_compared]
    if best is None or not others:
        return text
    findings = {row.name: comparison(ladder, best.name, row.name) for row in others}
    behind = [rung_title(row.name) for row in others if (finding := findings[row.name]) and finding.finding == "better"]
    if behind:
        return f"{text} {method_subject(best)} is {SIGNIFICANTLY['better']} than {listed(behind)}."
    names = listed([rung_title(row.name) for row in (best, *others)])
    return f"{text} No significant difference between {names} with {sample_size(ladder)}."


def _rule(name: str, quality: RuleCheck, cost: RuleCheck) -> str:
    """Whether the rule of thumb holds for the rung `name`: both in quality and cost."""
    parts = {"quality": quality, "cost": cost}
    if failed := [part for part, check in parts.items() if check == "fails"]:
        return f"{OVERALL['fails']}, because of {name}'s {' and '.join(failed)}"
    if "unknown" in parts.values() or set(parts.values()) == {"holds"}:
        return OVERALL["holds" if set(parts.values()) == {"holds"} else "unknown"]
    undecided = [part for part, check in parts.items() if check == "undecided"]
    return f"{OVERALL['undecided']}, because {name}'s {' and '.join(undecided)} may be on either side of it"


def cost_ratios(ladder: Ladder) -> dict[str, CostRatio]:
    """Rung -> its training cost divided by full fine-tuning's, also of rungs without a share of the gain."""
    decisions = Decisions(ladder)
    costs = {row.name: _cost_ratio(decisions, row) for row in decisions.trained if decisions.full}
    return {name: cost for name, cost in costs.items() if cost}


def _cost_ratio(decisions: Decisions, row: RungResult) -> CostRatio | None:
    ratio = ratio_of(decisions.cost_key, row, decisions.reference) if decisions.reference else None
    return CostRatio(mean=1.0, low=1.0, high=1.0) if ratio and row is decisions.reference else ratio
