"""The verdict: decisions as sentences on quality, forgetting, costs and caveats, in the order in which they are shown.

Every number in them is also in the report's tables. The headline and what to use are in `recommendation`, shared terms
in `phrases`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from engine.config import quantities
from engine.config.method_specs import TrainedRung, lora_notices, method_spec
from engine.config.metric_specs import OPEN
from engine.config.quantities import decimal, duration, integer, percent, share_percent
from engine.config.text import amount, listed, visible
from engine.ladder.added_rungs import answering_module
from engine.ladder.cost_ratios import MIN_NOISE_SEEDS
from engine.ladder.decisions import COSTS, Decisions, is_non_inferior, ratio_of
from engine.ladder.phrases import (
    ASSUMED_SPREAD,
    BASE_NOT_SCORED,
    COST_TITLES,
    SIGNIFICANTLY,
    SIMULTANEOUS,
    WITHIN_MARGIN,
    Sentences,
    allowed_collapses,
    deciding_sample,
    difference_text,
    fallen_loss,
    has_one_seed,
    ladder_metric,
    longer_answers,
    margin_text,
    method_noun,
    method_subject,
    metric_failed,
    metric_title,
    needed_sample,
    not_significant,
    ratio_bounds,
    rung_title,
    sample_size,
    score_text,
    status_text,
)
from engine.ladder.recommendation import artifact_sentences, recommendations, summarize_ladder
from engine.ladder.results import comparison, margin_of
from engine.runs.ladder.ladder_state import BASE, ItemDependence, Ladder, is_added, shots_of
from engine.runs.ladder.rung_kinds import rung_kind
from engine.runs.ladder.rung_results import NOT_READ, Comparison, RungResult, SeedRange, VerdictSentence
from engine.runs.run.result import MIN_ENDED, MIN_ITEMS
from engine.runs.run.usage import overlap_sentence
from engine.runs.score_format import difference_parts, loss, points

TRAIN_MORE = "Train longer, on more rows or at another learning rate before comparing methods."
NO_SIGNIFICANT_GAIN = "No significant gain"
LOWER_IS_BETTER = "lower is better; a negative difference is an improvement"
ONE_SEED = (
    "One seed: intervals assume a typical spread between seeds, which makes them wide; more seeds make them narrower."
)
FEW_TIMINGS = "few timings, noise assumed"
IN_BACKWARD = "optimizer.step_in_backward"
ONE_RATE = "Each rung was trained at one learning rate; no other was tried."
ON_CPU = "Measured on a CPU; timings and memory on a GPU will differ."
RULE_OF_COST = {
    "holds": "at most one eighth",
    "undecided": "undecided, because the 95% CI contains one eighth",
    "fails": "more than one eighth",
}
NOTABLE_WIDENING = 1.05
HEAVY_TAILS = (
    "95% CIs of single scores and of differences from the base model contain the true value in about 90% of ladders"
)
UNEQUAL_GROUPS = 0.5
"""A smaller effective number of groups, as a part of their number, is a caveat."""
RETIME = "repeat them with --retime"


def conclude(ladder: Ladder) -> None:
    """Set verdict, summary and the recommended rung, from rows and comparisons."""
    decisions = Decisions(ladder)
    ladder.verdict = verdict(ladder, decisions)
    ladder.summary = summarize_ladder(ladder, decisions)
    ladder.recommended = decisions.ship.name if decisions.ship else ""


def verdict(ladder: Ladder, decisions: Decisions) -> list[VerdictSentence]:
    """The sentences below headline, table and figure, in their order; none before a rung has finished.

    What these show is not repeated: the shares, the ratios, and whether the rule of thumb holds as a whole.
    """
    if not decisions.trained or ladder.work is None:
        return []
    caveats: Sentences = (("caveat", text) for text in _caveats(ladder, decisions))
    parts = (
        _quality(ladder, decisions),
        _untrained(ladder, decisions),
        task_sentences(ladder),
        _costs(decisions),
        recommendations(ladder, decisions),
        artifact_sentences(ladder, decisions),
        _decided(ladder, decisions),
        _overlaps(ladder),
        caveats,
    )
    return [VerdictSentence(topic, text) for part in parts for topic, text in part]


def _quality(ladder: Ladder, decisions: Decisions) -> Sentences:
    """What the scores do not show; then each rung's difference from full fine-tuning, or from the best rung."""
    if failed := metric_failed(ladder):
        yield "quality", failed
    if ladder.metric == OPEN.name:
        yield "quality", NOT_READ
    reference = decisions.reference
    if reference is None:
        return
    if not reference.not_compared and decisions.gained[reference.name] != "yes":
        yield "quality", _no_gain(ladder, reference)
        return
    for row in [reference] if reference.not_compared else decisions.trained:
        if row.not_compared:
            yield "quality", f"{method_subject(row)} is not compared: {row.not_compared}."
        elif row is not reference and (compared := comparison(ladder, row.name, reference.name)):
            yield "quality", _difference(ladder, compared)


def _no_gain(ladder: Ladder, row: RungResult) -> str:
    metric, gain = ladder_metric(ladder), comparison(ladder, row.name, BASE)
    if gain is None:
        return f"{BASE_NOT_SCORED}, so gains over it are unknown."
    if gain.finding == "worse":
        return TRAIN_MORE  # the headline has the difference
    text = f"{no_significant_gain(ladder, row)}: {difference_text(ladder, gain)}; shares of the gain are undefined."
    if metric_failed(ladder):
        return text
    observed = (gain.difference.mean or 0.0) * (-1 if metric.lower_is_better else 1)
    remedy = _required_sample(ladder, gain) if observed > 0 else ""
    if remedy and observed > margin_of(ladder):
        return f"{text}{remedy}"
    fallen = None if metric.is_loss else fallen_loss(ladder)
    learned = f"But {fallen[1]}: the model learned what {metric.title} does not show." if fallen else TRAIN_MORE
    return f"{text}{remedy} {learned}"


def no_significant_gain(ladder: Ladder, row: RungResult) -> str:
    """`No significant gain of LoRA over the base model with 300 test items and 2 seeds`."""
    return f"{NO_SIGNIFICANT_GAIN} of {method_noun(row)} over the base model with {sample_size(ladder)}"


def _difference(ladder: Ladder, compared: Comparison) -> str:
    """`QLoRA − full = +1.2 points, simultaneous 95% CI [−3.0, 5.4]: no significant difference with 300 items …`."""
    value = difference_text(ladder, compared)
    if compared.finding == "undecided":
        return f"{value}: {not_significant(ladder)}.{_required_sample(ladder, compared)}"
    if compared.finding == "as_good":
        allowed = allowed_collapses(ladder, compared.a, compared.b)
        return f"{value}: as good within the margin of {margin_text(ladder)}{allowed}."
    is_small = compared.finding == "worse" and is_non_inferior(ladder, compared.a, compared.b)
    return f"{value}: {SIGNIFICANTLY[compared.finding]}{f', {WITHIN_MARGIN}' if is_small else ''}."


def _required_sample(ladder: Ladder, compared: Comparison) -> str:
    """How many test items and seeds would decide the comparison, if the observed difference is the true one."""
    needed = deciding_sample(ladder, compared)
    return f" If this is the true difference, {needed}." if needed else ""


def _untrained(ladder: Ladder, decisions: Decisions) -> Sentences:
    """Each trained rung against the base model with the most examples, and against each that is not trained.

    This shows whether training gained more than a prompt, and whether another model with a prompt would do.
    """
    few_shot = [row for row in ladder.rows if shots_of(row.name) and row.score]
    if few_shot:
        most = max(few_shot, key=lambda row: shots_of(row.name))
        title, shots = rung_title(most.name), shots_of(most.name)
        subject = f"The {title}, with {shots} training rows in each prompt,"
        yield from _against_untrained(ladder, decisions, most, subject)
        yield "caveat", f"The {title} has one choice of examples, another may score differently."
    for row in ladder.rows:
        if not is_added(row.name):
            continue
        subject = f"The {rung_kind(row.method).noun} {visible(rung_title(row.name))}"
        if row.score:
            yield from _against_untrained(ladder, decisions, row, subject)
        elif row.status == "failed":
            yield "quality", f"{subject} is not scored: {row.reason}."
        for caveat in answering_module(row.method).caveats(row):
            yield "caveat", caveat


def _against_untrained(ladder: Ladder, decisions: Decisions, untrained: RungResult, subject: str) -> Sentences:
    """The score of a model that was not trained, and every trained rung against it."""
    metric = ladder_metric(ladder)
    scores = f"has a {metric.title} of" if metric.lower_is_better else "scores"
    yield "quality", f"{subject} {scores} {score_text(untrained, metric)}."
    for row in decisions.trained:
        if against := comparison(ladder, row.name, untrained.name):
            yield "quality", _difference(ladder, against)


def task_sentences(ladder: Ladder) -> Sentences:
    """One sentence per rung that is significantly worse or better than the base model, else one per task."""
    rungs = {row.name: row for row in ladder.rows}
    for task in ladder.tasks:
        name, items = visible(task.name), amount(task.items, "item")
        compared = [row for row in task.rows if row.finding]
        significant = [row for row in compared if row.finding in SIGNIFICANTLY]
        rest = [row for row in compared if row.finding not in SIGNIFICANTLY]
        if not compared:
            yield "forgetting", f"Forgetting on {name} is unknown: no rung was compared with the base model."
        for row in significant:
            # `LoRA forgets on arc_easy: LoRA − base = −3.1 points, simultaneous 95% CI [−5.0, −1.2], acc of …`
            text = f"{method_subject(rungs[row.name])} {'forgets' if row.finding == 'worse' else 'gains'} on {name}"
            value, bounds = difference_parts(row.difference, task.is_share)
            interval = f", {SIMULTANEOUS} {bounds}" if bounds else ""
            scope = f" ({ASSUMED_SPREAD})" if has_one_seed(ladder, row.name) else ""
            difference = f"{rung_title(row.name)} − base = {value}{interval}{scope}"
            yield "forgetting", f"{text}: {difference}, {visible(task.metric)} of {items}."
        if not rest:
            continue

        nouns = listed([method_noun(rungs[row.name]) for row in rest])
        subject = f"{nouns} {'are' if len(rest) > 1 else 'is'} not" if significant else "no rung is"
        text = f"On {name} ({items}) {subject} {SIGNIFICANTLY['worse']} than the base model"
        intervals = [row.difference for row in rest if row.difference]
        ends = [interval.low if task.higher_is_better else interval.high for interval in intervals]
        known = [end for end in ends if end is not None]
        if len(known) == len(rest):
            worst = max(0.0, *(-end if task.higher_is_better else end for end in known))
            value = points(worst).lstrip("+") if task.is_share else loss(worst)
            text += f"; the {SIMULTANEOUS}s exclude losing more than {value}"
            text += f" ({ASSUMED_SPREAD})" if has_one_seed(ladder, *(row.name for row in rest)) else ""
        yield "forgetting", f"{text}."


def _costs(decisions: Decisions) -> Sentences:
    """Which of QLoRA's costs are at most one eighth of full fine-tuning's; none if one of both has no score."""
    qlora, full = decisions.qlora, decisions.full
    if qlora is None or full is None:
        return
    name, by_check = rung_title(qlora.name), dict[str, list[str]]()
    for key, title in COST_TITLES.items():
        if ratio := ratio_of(key, qlora, full):
            bounds = ratio_bounds(ratio)
            text = f"{title} {quantities.ratio(ratio.mean)}{f', 95% CI {bounds}' if bounds else ''}"
            by_check.setdefault(RULE_OF_COST[decisions.rule_costs[key]], []).append(text)
    measured = [cost(row) for cost in COSTS.values() for row in (qlora, full)]
    few = any(isinstance(cost, SeedRange) and len(cost.values) < MIN_NOISE_SEEDS for cost in measured)
    assumed = f" ({FEW_TIMINGS})" if few else ""
    if groups := [f"{check}: {'; '.join(costs)}" for check, costs in by_check.items()]:
        yield "time", f"{name}'s costs as parts of full's{assumed}, {', '.join(groups)}."


def _decided(ladder: Ladder, decisions: Decisions) -> Sentences:
    """After how many runs a ladder decided which question, and what deciding the others would take."""
    for look in ladder.looks:
        pairs = [(decision.comparison.a, decision.comparison.b) for decision in look.decisions if decision.comparison]
        questions = [_question(*pair) for pair in pairs]
        questions += [
            f"{rung_title(decision.rung)}'s share of the gain" for decision in look.decisions if decision.rung
        ]
        if questions:
            after = f"after {amount(look.runs, 'run')} ({amount(look.seeds, 'seed')})"
            yield "decided", f"Decided {after}: {listed(questions)}."
    if not ladder.looks or ladder.looks[-1].rungs:
        return

    unlikely = [tuple(pair) for look in ladder.looks for pair in look.unlikely]
    limit, items = amount(ladder.max_seeds or 0, "seed"), ladder.work.test if ladder.work else 0
    for compared in ladder.comparisons:
        if compared.finding != "undecided":
            continue
        is_unlikely = (compared.a, compared.b) in unlikely
        why = f"up to {limit} are unlikely to decide it" if is_unlikely else f"{limit} were not enough"
        text = f"{_question(compared.a, compared.b)}; {why}"
        rows = [row for row in ladder.rows if row.name in (compared.a, compared.b) and row.seeds]
        sample = needed_sample(compared) if rows else ""
        text += f"; 80% power takes {sample}" if sample else ""
        seconds = [row.all_seconds.mean for row in rows if row.all_seconds]
        if sample and len(seconds) == len(rows):
            present = max(len(row.seeds) for row in rows)
            more_items = (compared.needed_items or 0) > items  # all runs again: finished ones scored fewer items
            seeds = (compared.needed_seeds or present) - (0 if more_items else present)
            text += f", about {duration(sum(seconds) * seeds)} of further runs"
        yield "decided", f"Undecided: {text}."
    if decisions.rule_quality == "undecided":
        yield "decided", "Undecided: whether the share of the gain is at least that of the rule of thumb."


def _question(a: str, b: str) -> str:
    return f"{rung_title(a)} against {'the base model' if b == BASE else rung_title(b)}"


def _overlaps(ladder: Ladder) -> Sentences:
    """How many of the held-out rows are also in the training rows."""
    overlaps = ladder.work.overlap if ladder.work else {}
    for pair, overlap in overlaps.items():
        if overlap.prompt or overlap.both or overlap.near:  # equal answers are usual, and are in the report's tables
            yield "data", overlap_sentence(pair, overlap)
    tested = overlaps.get("test/train")
    if tested and tested.prompt:
        rows = f"{integer(tested.prompt)} of {integer(tested.of)} test rows"
        yield "caveat", f"{rows} have a prompt that is also trained on: scores partly measure memorization."
    if ladder.work and ladder.work.data_usage and (conflicts := ladder.work.data_usage.conflicts):
        rows = f"{integer(conflicts.rows)} of {integer(conflicts.of)} rows"
        text = f"{rows} have a prompt with several labels, so that at most {share_percent(conflicts.best)} can be right"
        yield "caveat", f"{text}: a test prompt has the label of most of its rows, and is left out without one."


def _caveats(ladder: Ladder, decisions: Decisions) -> Iterator[str]:
    metric, trained = ladder_metric(ladder), decisions.trained
    if any(len(row.seeds) == 1 for row in trained):
        yield ONE_SEED
    yield from _timing_caveats(ladder, decisions)
    trials = [entry for entry in ladder.entries if entry.kind == "trial"]
    if trials:
        how = ", by successive halving" if any(trial.steps is not None for trial in trials) else ""
        spent = f"{integer(len(trials))} trials took {duration(sum(trial.seconds or 0.0 for trial in trials))}"
        text = f"Learning rates were chosen by the loss on the validation rows{how}: {spent}"
        yield f"{text}, which is not part of the costs above."
    else:
        yield ONE_RATE
    if metric.lower_is_better:
        unit = f" in {metric.unit}" if metric.unit else ""
        yield f"{metric.title[:1].upper()}{metric.title[1:]}{unit}: {LOWER_IS_BETTER}."
    if ladder.work and ladder.work.test < MIN_ITEMS:
        yield f"With fewer than {MIN_ITEMS} test items no difference can be significant."
    if ladder.dependence and ladder.work:
        yield _dependent_items(ladder, ladder.dependence, amount(ladder.work.test, "test item"))
    for name in ladder.heavy_tails:
        yield f"A few test items have by far the highest {metric_title(name)}: {HEAVY_TAILS}."
    if text := unended_answers(ladder, trained):
        yield text

    rungs = {
        rung_title(row.name): TrainedRung(
            row.method,
            row.learning_rate,
            int(_setting(ladder, row, "train.batch") or 0),
            _setting(ladder, row, "adapter.target_modules") or "all-linear",
            row.trainable or None,
            (ladder.work.answer_tokens or None) if ladder.work else None,
        )
        for row in trained
    }
    yield from (f"{notice.text[:1].upper()}{notice.text[1:]}." for notice in lora_notices(rungs))
    in_backward = [row for row in trained if _clips_tensors(ladder, row)]
    if in_backward and len(in_backward) < len(trained):
        names = listed([rung_title(row.name) for row in in_backward])
        yield f"Gradients are clipped tensor by tensor in {names}, and together in the others ({IN_BACKWARD})."
    for row in ladder.rows:
        if row.status == "partly":
            finished = f"{method_subject(row)} finished {len(row.seeds)} of {len(ladder.seeds)} seeds"
            yield f"{finished}: {row.reason}" if row.reason else f"{finished}."
        elif row.status not in ("finished", "planned") and row.reason:
            yield f"{method_subject(row)}: {status_text(row)}"
    if trained and not any(row.peak and row.peak.reserved for row in trained):
        yield ON_CPU


def _setting(ladder: Ladder, row: RungResult, key: str) -> Any:
    """The rung's value of a setting, with which it was trained if it was `auto`; None if it does not read it."""
    return row.automatic.get(key, ladder.differs.get(key, {}).get(row.name, ladder.config.get(key)))


def _clips_tensors(ladder: Ladder, row: RungResult) -> bool:
    """Whether weights are updated in the backward pass, before the norm of all gradients is known."""
    updates = method_spec(row.method).trains_weights and _setting(ladder, row, IN_BACKWARD) is True
    return bool(updates and _setting(ladder, row, "train.max_grad_norm"))


def _timing_caveats(ladder: Ladder, decisions: Decisions) -> Iterator[str]:
    """Timings that are disturbed, of other devices, and of runs that shared the CPU."""
    runs = [entry for entry in ladder.entries if entry.kind == "run"]
    causes: dict[str, list[str]] = {}
    for entry in runs:
        if entry.disturbed:
            causes.setdefault(entry.disturbed, []).append(f"{rung_title(entry.rung)} seed {entry.seed}")
    if causes:
        left_out = "times, and costs are CPU times" if decisions.cost_key == "cpu" else "times and costs"
        parts = ", ".join(f"{listed(names)} ({cause})" for cause, names in causes.items())
        yield f"Disturbed timings are left out of {left_out}: {parts}; {RETIME}."
    others = [run for run in runs if run.other_device]
    if names := [f"{rung_title(run.rung)} seed {run.seed} ({run.other_device})" for run in others]:
        yield f"Timings on another device are left out of times and costs: {listed(names)}."
    if ladder.runs_at_once != 1 and not ladder.machine.get("cuda"):
        yield f"{ladder.runs_at_once} runs at a time shared this CPU: one that has all of it takes less time."


def _dependent_items(ladder: Ladder, dependence: ItemDependence, items: str) -> str:
    """That groups of test items count as one, or what near-duplicates would change."""
    if not dependence.similar:
        units = amount(dependence.units, "group") + (" (data.group)" if ladder.config.get("data.group") else "")
        text = f"{items} are {units}: intervals count each group, such as a conversation, as one item."
        if dependence.effective is None or dependence.effective >= UNEQUAL_GROUPS * dependence.units:
            return text
        few = decimal(dependence.effective, 0 if dependence.effective >= 10 else 1)
        return f"{text} The groups are so unequal that they count as {few} of equal size, which makes intervals wide."
    text = f"{integer(dependence.similar)} of {items} have a prompt that is a near-duplicate of another's"
    if dependence.widening is None or dependence.widening < NOTABLE_WIDENING:
        return f"{text}: no sign that their scores depend on each other."
    wider = f"intervals would be about {dependence.widening:.1f}× as wide, as far as they are due to the test items"
    return f"{text}: if they were one group each (data.group), {wider}."


def unended_answers(ladder: Ladder, rows: Sequence[RungResult]) -> str:
    """`Only 62.0% of QLoRA's answers end: the others were cut off, …`; '' if most answers of all rungs end."""
    few = [row for row in rows if row.ended is not None and row.ended < MIN_ENDED]
    if not few:
        return ""
    shares = listed([f"{percent(row.ended)} of {rung_title(row.name)}'s answers end" for row in few])
    scores = "chrF and ROUGE-L" if ladder_metric(ladder).name == "open" else "scores"
    return (
        f"Only {shares}: the others were cut off, and their {scores} may be too low. Allow longer ones with "
        f"{longer_answers(ladder)}, or check that the end token is in the loss."
    )
