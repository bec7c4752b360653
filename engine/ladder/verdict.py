"""The findings in a few sentences for whoever has to decide. Every number is one that the tables show."""

from __future__ import annotations

from collections.abc import Callable

from engine.config.method_specs import RULE_CANDIDATE, RULE_REFERENCE
from engine.config.metric_specs import MetricSpec, metric_spec
from engine.ladder import format as say
from engine.ladder.costs import Said, costs, seen
from engine.ladder.findings import Findings, comparison, find, training_peak
from engine.ladder.statistics import FEWEST
from engine.runs.ladder import Comparison, Ladder, RungResult, VerdictSentence
from engine.runs.overlap import overlap_sentence

ALIKE = 0.95
"""A peak above this share of another is not less memory: a resident set varies by as much from run to run."""


def verdict(ladder: Ladder) -> list[VerdictSentence]:
    """Nothing before a rung has finished."""
    found = find(ladder)
    if not found.tuned or ladder.work is None:
        return []
    sentences = [
        *_quality(ladder, found),
        *costs(found),
        *_advice(ladder, found),
        *_overlaps(ladder),
        *_caveats(ladder, found),
    ]
    return [VerdictSentence(topic=topic, text=text) for topic, text in sentences]


def _quality(ladder: Ladder, found: Findings) -> list[Said]:
    full = found.full
    if full is None:
        missing = next((row for row in ladder.rows if row.method == RULE_REFERENCE), None)
        why = f" ({missing.status.replace('_', ' ')}: {missing.reason})" if missing and missing.reason else ""
        return [("quality", f"Full fine-tuning has no score here{why}: what the others keep of it is not known.")]
    if found.gained[full.name] != "yes":
        return [("quality", _no_gain(ladder, full))]
    said: list[Said] = [("quality", _kept(ladder, row, full, found.against_full[row.name])) for row in _others(found)]
    if found.qlora is not None:
        said.append(("quality", _rule_of_quality(ladder, found, found.qlora)))
    return said


def _no_gain(ladder: Ladder, full: RungResult) -> str:
    metric = _metric(ladder).name
    gain = comparison(ladder, full.name, "base")
    if gain is None:
        return (
            "The base has no score here, so what full fine-tuning gained is not known, nor what the others kept of it."
        )
    fell = gain.finding == "worse"
    what = "did worse than the base" if fell else f"cannot be told apart from the base with {_basis(ladder)}"
    return (
        f"Full fine-tuning {what}: {say.score(_value(full), metric)}, a difference of "
        f"{_difference(gain, metric)}. There is no gain of which another method could keep a share; "
        "train longer, on more rows or at another learning rate before comparing."
    )


def _kept(ladder: Ladder, row: RungResult, full: RungResult, against: Comparison) -> str:
    metric = _metric(ladder).name
    name = say.rung(row.name)
    share = f", {say.percent(row.share_of_score.mean)} of it" if row.share_of_score else ""
    gain = row.share_of_gain
    text = (
        f"{name} scores {say.score(_value(row), metric)} where full scores {say.score(_value(full), metric)}{share}"
        + (f", and keeps {say.percent(gain.mean)} {say.percent_bounds(gain)} of its gain over the base" if gain else "")
        + ". "
    )
    if against.finding == "undecided":
        return (
            text
            + f"The two cannot be told apart with {_basis(ladder)}: {_difference(against, metric)}.{_more(against)}"
        )
    verb = "better" if against.finding == "better" else "worse"
    return text + f"That is {verb}: {_difference(against, metric)}."


def _rule_of_quality(ladder: Ladder, found: Findings, qlora: RungResult) -> str:
    of_gain = _metric(ladder).lower_is_better
    share = qlora.share_of_gain if of_gain else qlora.share_of_score
    what = "gain" if of_gain else "score"
    if share is None:
        return "Whether QLoRA keeps 94 % of full's quality cannot be said."
    name = "QLoRA" if sum(row.method == RULE_CANDIDATE for row in found.tuned) == 1 else say.rung(qlora.name)
    seen = f"{name}'s share of full's {what} is {say.percent(share.mean)} {say.percent_bounds(share)}"
    ends = {
        "holds": "the rule's 94 % of the quality holds here.",
        "fails": "the rule's 94 % of the quality does not hold here.",
        "undecided": "whether the rule's 94 % holds is undecided, it lies within the interval.",
        "unknown": "whether the rule's 94 % holds is not known.",
    }
    return f"{seen}: {ends[found.rule_quality]}"


def _advice(ladder: Ladder, found: Findings) -> list[Said]:
    if found.tuned and "unknown" in found.gained.values():
        return [("prototype", "The base has no score here: what is above it, and so worth recommending, is not known.")]
    if not found.prototype or not found.ship or not found.best:
        return [
            ("prototype", "No method is better than the base beyond chance: none can be recommended from this ladder.")
        ]
    said: list[Said] = [("prototype", _prototype(found, found.prototype))]
    said.append(("ship", _ship(ladder, found, found.ship, found.best)))
    if found.full is not None and any(row.method != RULE_REFERENCE for row in found.tuned):
        said.append(("full", _worth(ladder, found, found.full)))
    return said


def _prototype(found: Findings, row: RungResult) -> str:
    took = seen(row.all_seconds, say.seconds, " a run") if row.all_seconds else "–"
    name = say.rung(row.name)
    text = f"Prototype with {name}: of all that are better than the base it took the least time, {took}"
    if quick := _as_quick(found, row):
        text += f" ({quick} took as little with some seeds)"
    small = found.smallest
    if small is None or small.name == row.name:
        return f"{text}, and the least memory." if small else f"{text}."
    least, mine = training_peak(small.peak), training_peak(row.peak)
    if least and mine and least > ALIKE * mine:
        return f"{text}, and no other takes much less memory."
    peaks = say.size(least), say.size(mine)
    return f"{text}; with {say.rung(small.name)} where memory is short ({peaks[0]} against {peaks[1]})."


def _as_quick(found: Findings, quickest: RungResult) -> str:
    """The rungs of which a run was as quick as one of the quickest rung's."""
    most = quickest.all_seconds.high if quickest.all_seconds else 0.0
    rivals = [row for row in found.tuned if row is not quickest and found.gained[row.name] == "yes"]
    return " and ".join(say.rung(row.name) for row in rivals if row.all_seconds and row.all_seconds.low <= most)


def _ship(ladder: Ladder, found: Findings, ship: RungResult, best: RungResult) -> str:
    size = say.size(ship.artifact_bytes)
    if ship.name == best.name:
        second = max((row for row in found.tuned if row is not best), key=_rank(ladder), default=None)
        lead = comparison(ladder, best.name, second.name) if second else None
        if lead is None or second is None:
            return f"Ship {say.rung(ship.name)} ({size}): it is the only one to choose."
        if lead.finding == "better":
            ahead = _difference(lead, _metric(ladder).name)
            return f"Ship {say.rung(ship.name)} ({size}): it leads {say.rung(second.name)} by {ahead}."
        name = say.rung(ship.name)
        what = f"{_top(ladder)} seen, and nothing as good has a smaller artefact than its {size}"
        return f"Ship {name}: {what}; its lead is not certain."
    behind = comparison(ladder, ship.name, best.name)
    gap = f" ({_difference(behind, _metric(ladder).name)})" if behind else ""
    return (
        f"Ship {say.rung(ship.name)}{_bearable(ladder, behind)}: it cannot be told apart from {say.rung(best.name)}, "
        f"{_top(ladder)} seen{gap}, and its artefact is {size} against {say.size(best.artifact_bytes)}."
    )


def _bearable(ladder: Ladder, behind: Comparison | None) -> str:
    """What shipping the smaller one may cost at worst: not told apart is not equal."""
    metric = _metric(ladder).name
    worst = (
        None if behind is None else behind.difference.high if _metric(ladder).lower_is_better else behind.difference.low
    )
    if worst is None:
        return ""
    return f" if being worse by up to {say.difference(abs(worst), metric).lstrip('+')} is bearable"


def _worth(ladder: Ladder, found: Findings, full: RungResult) -> str:
    metric = _metric(ladder).name
    others = [row for row in found.tuned if row.method != RULE_REFERENCE]
    rival = max(others, key=_rank(ladder))
    lead = comparison(ladder, full.name, rival.name)
    price = _price(full, rival)
    name = say.rung(rival.name)
    if lead is None:
        return f"Full fine-tuning has no comparison with {name}."
    if lead.finding == "better":
        return f"Full tuning is worth it when {_difference(lead, metric)} over {name} are worth {price}."
    if lead.finding == "worse":
        return f"Full tuning is not worth it here: against {name} it has {_difference(lead, metric)}."
    return f"Nothing here shows that full tuning is worth {price}: over {name} it has {_difference(lead, metric)}."


def _price(full: RungResult, rival: RungResult) -> str:
    parts = []
    if full.all_seconds and rival.all_seconds and rival.all_seconds.mean:
        parts.append(f"{say.ratio(full.all_seconds.mean / rival.all_seconds.mean)} the time")
    peaks = training_peak(full.peak), training_peak(rival.peak)
    if peaks[0] and peaks[1]:
        parts.append(f"{say.ratio(peaks[0] / peaks[1])} the memory")
    parts.append(f"an artefact of {say.size(full.artifact_bytes)}")
    return ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]


def _overlaps(ladder: Ladder) -> list[Said]:
    """How much of the held-out rows the training rows contain."""
    overlap = ladder.work.overlap if ladder.work else {}
    said: list[Said] = [("data", overlap_sentence(pair, found)) for pair, found in overlap.items()]
    tested = overlap.get("test/train")
    if tested and tested.prompt:
        what = f"{say.whole(tested.prompt)} of {say.whole(tested.of)} test rows have a prompt that was trained on"
        said.append(("caveat", f"{what}: the scores measure memorization too."))
    return said


def _caveats(ladder: Ladder, found: Findings) -> list[Said]:
    said: list[Said] = []
    if max(len(row.seeds) for row in found.tuned) == 1:
        said.append(
            ("caveat", "One seed: the statements are about these runs; how far another seed would differ is unknown.")
        )
    if not any(entry.kind == "trial" for entry in ladder.entries):
        said.append(("caveat", "Each method trained at the preset's learning rate for it; no other rate was tried."))
    metric = _metric(ladder)
    if metric.lower_is_better:
        text = f"{metric.title} in {metric.unit}: lower is better, a difference below 0 is an improvement."
        said.append(("caveat", text[:1].upper() + text[1:]))
    if ladder.work and ladder.work.test < FEWEST:
        said.append(("caveat", f"Fewer than {FEWEST} test items tell nothing apart, whatever was answered."))
    for row in ladder.rows:
        if row.status == "partly":
            done = f"{len(row.seeds)} of {len(ladder.seeds)} seeds"
            said.append(
                ("caveat", f"{say.rung(row.name)} has finished {done}{f': {row.reason}' if row.reason else '.'}")
            )
        elif row.status not in ("finished", "planned") and row.reason:
            said.append(("caveat", f"{say.rung(row.name)} is {row.status.replace('_', ' ')}: {row.reason}"))
    if found.tuned and not any(row.peak and row.peak.reserved for row in found.tuned):
        said.append(("caveat", "Measured without a card: time and memory on one will be others."))
    return said


def _others(found: Findings) -> list[RungResult]:
    return [row for row in found.tuned if row is not found.full and row.name in found.against_full]


def _metric(ladder: Ladder) -> MetricSpec:
    return metric_spec(ladder.work.metric if ladder.work else "")


def _value(row: RungResult) -> float | None:
    return row.score.mean if row.score else None


def _rank(ladder: Ladder) -> Callable[[RungResult], float]:
    """A key by which the better rung is greater."""
    sign = -1.0 if _metric(ladder).lower_is_better else 1.0
    return lambda row: sign * (_value(row) or 0.0)


def _top(ladder: Ladder) -> str:
    metric = _metric(ladder)
    return f"the lowest {metric.title}" if metric.lower_is_better else "the highest score"


def _difference(one: Comparison, metric: str) -> str:
    """`−2.3 points [−4.0, −0.6]`."""
    bounds = say.score_bounds(one.difference, metric)
    return f"{say.difference(one.difference.mean, metric)} {bounds}".strip()


def _more(one: Comparison) -> str:
    """How much more it would take."""
    if one.needed_items is None:
        return ""
    seeds = f" and {say.whole(one.needed_seeds)} seeds" if one.needed_seeds else ""
    return f" If the true difference is as seen, {say.about(one.needed_items)} items{seeds} would tell them apart."


def _basis(ladder: Ladder) -> str:
    items = ladder.work.test if ladder.work else 0
    seeds = min((len(row.seeds) for row in ladder.rows if row.score and row.seeds), default=0)
    return f"these {say.whole(items)} items and {seeds} seeds" if seeds > 1 else f"these {say.whole(items)} items"
