"""The verdict: decisions as sentences on quality, forgetting, costs and caveats, in the order in which they are shown.

Every number in them is also in the report's tables. What to use is in `recommendation`, shared terms are in `phrases`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from engine.config import quantities
from engine.config.method_specs import TrainedRung, lora_notices
from engine.config.metric_specs import OPEN
from engine.config.quantities import duration, integer, percent
from engine.config.text import amount, listed, visible
from engine.ladder.decisions import Decisions, RuleCheck, decide, is_non_inferior, ratio_of
from engine.ladder.phrases import (
    ASSUMED_SPREAD,
    BASE_NOT_SCORED,
    LOWER_IS_BETTER,
    ON_CPU,
    ONE_RATE,
    ONE_SEED,
    ONE_TIMING,
    RULE_OF_COST,
    SIGNIFICANTLY,
    SIMULTANEOUS,
    TRAIN_MORE,
    WITHIN_MARGIN,
    Sentences,
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
    needed_sample,
    no_significant_gain,
    not_significant,
    ratio_bounds,
    rung_title,
    score_text,
    status_text,
)
from engine.ladder.recommendation import artifact_sentences, recommendations, summarize, uses_cpu_time
from engine.ladder.results import (
    comparison,
    margin_of,
)
from engine.runs.ladder.ladder_state import BASE, Ladder, is_served, shots_of
from engine.runs.ladder.preferences import NOT_READ
from engine.runs.ladder.rung_results import (
    BenchmarkRow,
    Comparison,
    LadderBenchmark,
    RungResult,
    ServedUse,
    VerdictSentence,
)
from engine.runs.run.result import MIN_ENDED, MIN_ITEMS
from engine.runs.run.usage import overlap_sentence
from engine.runs.score_format import difference_with_bounds, loss, points


def conclude(ladder: Ladder) -> None:
    """Set verdict, summary and the recommended rung, from rows and comparisons."""
    decisions = decide(ladder)
    ladder.verdict = verdict(ladder, decisions)
    ladder.summary = summarize(ladder, decisions)
    ladder.recommended = decisions.ship.name if decisions.ship else ""


def verdict(ladder: Ladder, decisions: Decisions) -> list[VerdictSentence]:
    """The sentences below headline, table and figure, in their order; none before a rung has finished.

    What these show is not repeated: the shares, the ratios, and whether the rule of thumb holds as a whole.
    """
    if not decisions.trained or ladder.work is None:
        return []
    parts = (
        _about_metric(ladder),
        _quality(ladder, decisions),
        _few_shot(ladder, decisions),
        _served(ladder, decisions),
        benchmark_sentences(ladder),
        _costs(decisions),
        recommendations(ladder, decisions),
        artifact_sentences(ladder, decisions),
        _decided(ladder, decisions),
        _overlaps(ladder),
        _caveats(ladder, decisions),
    )
    return [VerdictSentence(topic, text) for part in parts for topic, text in part]


def _about_metric(ladder: Ladder) -> Sentences:
    """What the scores do not show: that the metric does not fit the answers, or that nobody has read them."""
    if failed := metric_failed(ladder):
        yield "quality", failed
    if ladder.metric == OPEN.name:
        yield "quality", NOT_READ


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
    for compared in (compared for compared in ladder.comparisons if compared.finding == "undecided"):
        unlikely = (compared.a, compared.b) in [tuple(pair) for look in ladder.looks for pair in look.unlikely]
        limit = amount(ladder.max_seeds or 0, "seed")
        why = f"up to {limit} are unlikely to decide it" if unlikely else f"{limit} were not enough"
        cost = _cost_of_deciding(ladder, compared)
        yield "decided", f"Undecided: {_question(compared.a, compared.b)}; {why}{cost}."
    if decisions.rule_quality == "undecided":
        yield "decided", "Undecided: whether the share of the gain is at least that of the rule of thumb."


def _question(a: str, b: str) -> str:
    return f"{rung_title(a)} against {'the base model' if b == BASE else rung_title(b)}"


def _cost_of_deciding(ladder: Ladder, compared: Comparison) -> str:
    """`; 80% power takes about 900 test items, about 3 h 20 min of further runs`, as far as it is known."""
    sample = needed_sample(compared)
    rows = [row for row in ladder.rows if row.name in (compared.a, compared.b) and row.seeds]
    seconds = [row.all_seconds.mean if row.all_seconds else None for row in rows]
    if not sample or not rows:
        return ""
    text = f"; 80% power takes {sample}"
    if None in seconds or ladder.work is None:
        return text
    present = max(len(row.seeds) for row in rows)
    more_items = (compared.needed_items or 0) > ladder.work.test  # all runs again: finished ones scored fewer items
    seeds = (compared.needed_seeds or present) - (0 if more_items else present)
    return f"{text}, about {duration(sum(map(float, filter(None, seconds))) * seeds)} of further runs"


def _quality(ladder: Ladder, decisions: Decisions) -> Sentences:
    """One sentence per rung: its difference from full fine-tuning, or from the best rung."""
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


def _difference(ladder: Ladder, compared: Comparison) -> str:
    """`QLoRA − full = +1.2 points, simultaneous 95% CI [−3.0, 5.4]: no significant difference with 300 items …`."""
    value = difference_text(ladder, compared)
    if compared.finding == "undecided":
        return f"{value}: {not_significant(ladder)}.{_required_sample(ladder, compared)}"
    if compared.finding == "as_good":
        return f"{value}: as good within the margin of {margin_text(ladder)}."
    is_small = compared.finding == "worse" and is_non_inferior(ladder, compared.a, compared.b)
    return f"{value}: {SIGNIFICANTLY[compared.finding]}{f', {WITHIN_MARGIN}' if is_small else ''}."


def _required_sample(ladder: Ladder, compared: Comparison) -> str:
    """How many test items and seeds would decide the comparison, if the observed difference is the true one."""
    needed = deciding_sample(ladder, compared)
    return f" If this is the true difference, {needed}." if needed else ""


def _few_shot(ladder: Ladder, decisions: Decisions) -> Sentences:
    """Each trained rung against the base model with the most examples: whether training gained more than a prompt."""
    rows = [row for row in ladder.rows if shots_of(row.name) and row.score]
    if not rows:
        return
    most = max(rows, key=lambda row: shots_of(row.name))
    title, shots = rung_title(most.name), shots_of(most.name)
    subject = f"The {title}, with {shots} training rows in each prompt,"
    yield from _against_untrained(ladder, decisions, most, subject)
    yield "caveat", f"The {title} has one choice of examples, another may score differently."


def _served(ladder: Ladder, decisions: Decisions) -> Sentences:
    """Each trained rung against each served model: whether another model with a prompt would do."""
    for served in ladder.rows:
        title = visible(rung_title(served.name))
        if is_served(served.name) and served.score:
            yield from _against_untrained(ladder, decisions, served, f"The served model {title}")
        elif is_served(served.name) and served.status == "failed":
            yield "quality", f"The served model {title} is not scored: {served.reason}."
        if served.served and (problems := served_problems(served.served)):
            yield "caveat", f"Of the answers of {title}, {problems}."


def served_problems(use: ServedUse) -> str:
    """`3 of 60 were cut off at the maximum length and 2 are empty`; '' without any."""
    parts = (
        [f"{integer(use.cut)} of {integer(use.answers)} were cut off at evaluation.max_new_tokens"] if use.cut else []
    )
    parts += [f"{integer(use.empty)} are empty, which scores as a wrong answer"] if use.empty else []
    parts += [f"{integer(use.reasoning)} have separate reasoning, which is not scored"] if use.reasoning else []
    return listed(parts)


def _against_untrained(ladder: Ladder, decisions: Decisions, untrained: RungResult, subject: str) -> Sentences:
    """The score of a model that was not trained, and every trained rung against it."""
    metric = ladder_metric(ladder)
    scores = f"has a {metric.title} of" if metric.lower_is_better else "scores"
    yield "quality", f"{subject} {scores} {score_text(untrained, metric)}."
    for row in decisions.trained:
        if against := comparison(ladder, row.name, untrained.name):
            yield "quality", _difference(ladder, against)


def benchmark_sentences(ladder: Ladder) -> Sentences:
    """One sentence per rung that is significantly worse or better than the base model, else one per benchmark."""
    for benchmark in ladder.benchmarks:
        for text in _benchmark(ladder, benchmark):
            yield "forgetting", text


def _benchmark(ladder: Ladder, benchmark: LadderBenchmark) -> Iterator[str]:
    name = visible(benchmark.name)
    compared = [row for row in benchmark.rows if row.finding]
    if not compared:
        yield f"Forgetting on {name} is unknown: no rung was compared with the base model."
    significant = [row for row in compared if row.finding in SIGNIFICANTLY]
    for row in significant:
        yield _significant(ladder, benchmark, row)
    rest = [row for row in compared if row.finding not in SIGNIFICANTLY]
    if not rest:
        return
    nouns = listed([method_noun(_rung(ladder, row)) for row in rest])
    rungs = f"{nouns} {'are' if len(rest) > 1 else 'is'} not" if significant else "no rung is"
    text = f"On {name} ({amount(benchmark.items, 'item')}) {rungs} {SIGNIFICANTLY['worse']} than the base model"
    excluded = _excluded(benchmark, rest)
    if excluded and has_one_seed(ladder, *(row.name for row in rest)):
        excluded += f" ({ASSUMED_SPREAD})"
    yield f"{text}{excluded}."


def _significant(ladder: Ladder, benchmark: LadderBenchmark, row: BenchmarkRow) -> str:
    """`LoRA forgets on arc_easy: LoRA − base = −3.1 points, simultaneous 95% CI [−5.0, −1.2], acc of 2,376 items.`"""
    verb = "forgets" if row.finding == "worse" else "gains"
    said = f"{method_subject(_rung(ladder, row))} {verb} on {visible(benchmark.name)}"
    value, _, bounds = difference_with_bounds(row.difference, benchmark.is_share).partition(" [")
    scope = f" ({ASSUMED_SPREAD})" if has_one_seed(ladder, row.name) else ""
    interval = f", {SIMULTANEOUS} [{bounds}" if bounds else ""
    of = f"{visible(benchmark.metric)} of {amount(benchmark.items, 'item')}"
    return f"{said}: {rung_title(row.name)} − base = {value}{interval}{scope}, {of}."


def _excluded(benchmark: LadderBenchmark, rows: list[BenchmarkRow]) -> str:
    """`; the simultaneous 95% CIs exclude losing more than 3.2 points`, '' if an interval is unknown."""
    intervals = [row.difference for row in rows if row.difference]
    ends = [interval.low if benchmark.higher_is_better else interval.high for interval in intervals]
    known = [end for end in ends if end is not None]
    if len(known) < len(rows):
        return ""
    worst = max(0.0, *(-end if benchmark.higher_is_better else end for end in known))
    value = points(worst).lstrip("+") if benchmark.is_share else loss(worst)
    return f"; the {SIMULTANEOUS}s exclude losing more than {value}"


def _rung(ladder: Ladder, row: BenchmarkRow) -> RungResult:
    return next(rung for rung in ladder.rows if rung.name == row.name)


COST_TITLES = {
    "training": "training time",
    "time": "total time",
    "cpu": "CPU time in training",
    "energy": "energy",
    "memory": "peak memory while training",
}


def _costs(decisions: Decisions) -> Sentences:
    """Which of QLoRA's costs are at most one eighth of full fine-tuning's; none if one of both has no score."""
    qlora, full = decisions.qlora, decisions.full
    if qlora is None or full is None:
        return
    by_check: dict[str, list[str]] = {}
    for key, title in COST_TITLES.items():
        ratio = ratio_of(key, qlora, full)
        if ratio is None:
            continue
        check, bounds = decisions.rule_costs[key], ratio_bounds(ratio)
        text = f"{quantities.ratio(ratio.mean)}{f', 95% CI {bounds}' if bounds else ''}"
        by_check.setdefault(RULE_OF_COST[check], []).append(f"{title} {text}")
    once = f" ({ONE_TIMING})" if len(qlora.seeds) == len(full.seeds) == 1 else ""
    groups = [f"{check}: {'; '.join(costs)}" for check, costs in by_check.items()]
    if groups:
        yield "time", f"{rung_title(qlora.name)}'s costs as parts of full's{once}, {', '.join(groups)}."
    if rent := _rent(qlora, full, decisions.rule_costs["rent"]):
        yield "rent", rent


def _rent(qlora: RungResult, full: RungResult, check: RuleCheck) -> str:
    if not qlora.rent or not full.rent:
        return ""
    name = rung_title(qlora.name)
    note = f" ({qlora.rent_note})" if qlora.rent_note else ""
    prices = [f"{quantities.money(row.rent.price_per_hour, row.rent.currency)}/h" for row in (qlora, full) if row.rent]
    if qlora.rent.gpu == full.rent.gpu:
        text = f"{full.rent.gpu} at {prices[1]} is the cheapest listed GPU with enough memory for either"
        return f"{text}{note}: {name} saves no rent."
    text = f"The cheapest listed GPU with enough memory is {qlora.rent.gpu} at {prices[0]} for {name} and "
    text += f"{full.rent.gpu} at {prices[1]} for full{note}"
    if qlora.rent.currency != full.rent.currency or not full.rent.price_per_hour:
        return f"{text}."
    ratio = quantities.ratio(qlora.rent.price_per_hour / full.rent.price_per_hour)
    text += f". {name}'s price per hour is {ratio} full's, {RULE_OF_COST[check]}"
    return f"{text}. The run time on these GPUs was not measured."


def _overlaps(ladder: Ladder) -> Sentences:
    """How many of the held-out rows are also in the training rows."""
    overlaps = ladder.work.overlap if ladder.work else {}
    for pair, overlap in overlaps.items():
        if overlap.prompt or overlap.both or overlap.near:  # equal answers are usual, and are in the report's tables
            yield "data", overlap_sentence(pair, overlap)
    tested = overlaps.get("test/train")
    if tested and tested.prompt:
        rows = f"{quantities.integer(tested.prompt)} of {quantities.integer(tested.of)} test rows"
        yield "caveat", f"{rows} have a prompt that is also trained on: scores partly measure memorization."


def _caveats(ladder: Ladder, decisions: Decisions) -> Sentences:
    texts = [ONE_SEED if any(len(row.seeds) == 1 for row in decisions.trained) else ""]
    texts += [_disturbed_timings(ladder, decisions), _other_devices(ladder), _shared_cpu(ladder)]
    texts.append(_chosen_rates(ladder) or ONE_RATE)
    metric = ladder_metric(ladder)
    if metric.lower_is_better:
        unit = f" in {metric.unit}" if metric.unit else ""
        texts.append(f"{metric.title[:1].upper()}{metric.title[1:]}{unit}: {LOWER_IS_BETTER}.")
    if ladder.work and ladder.work.test < MIN_ITEMS:
        texts.append(f"With fewer than {MIN_ITEMS} test items no difference can be significant.")
    texts += [_dependent_items(ladder), unended_answers(ladder, decisions.trained)]
    texts += _advice(ladder, decisions.trained)
    texts += [_incomplete(ladder, row) for row in ladder.rows]
    if decisions.trained and not any(row.peak and row.peak.reserved for row in decisions.trained):
        texts.append(ON_CPU)
    for text in filter(None, texts):
        yield "caveat", text


def _dependent_items(ladder: Ladder) -> str:
    """That groups of test items count as one, or what near-duplicates would change; '' if every item is alone."""
    dependence = ladder.dependence
    if dependence is None or ladder.work is None:
        return ""
    items = amount(ladder.work.test, "test item")
    if not dependence.similar:
        units = amount(dependence.units, "group") + (" (data.group)" if ladder.config.get("data.group") else "")
        return f"{items} are {units}: intervals count each group, such as a conversation, as one item."
    text = f"{integer(dependence.similar)} of {items} have a prompt that is a near-duplicate of another's"
    if dependence.widening is None or dependence.widening < NOTABLE_WIDENING:
        return f"{text}: no sign that their scores depend on each other."
    wider = f"intervals would be about {dependence.widening:.1f}× as wide, as far as they are due to the test items"
    return f"{text}: if they were one group each (data.group), {wider}."


NOTABLE_WIDENING = 1.05
RETIME = "repeat them with --retime"


def _disturbed_timings(ladder: Ladder, decisions: Decisions) -> str:
    """The caveat on disturbed timings; '' without any."""
    causes: dict[str, list[str]] = {}
    for entry in ladder.entries:
        if entry.kind == "run" and entry.disturbed:
            causes.setdefault(entry.disturbed, []).append(f"{rung_title(entry.rung)} seed {entry.seed}")
    parts = [f"{listed(names)} ({cause})" for cause, names in causes.items()]
    if not parts:
        return ""
    left_out = "times, and costs are CPU times" if uses_cpu_time(decisions) else "times and costs"
    return f"Disturbed timings are left out of {left_out}: {', '.join(parts)}; {RETIME}."


def _chosen_rates(ladder: Ladder) -> str:
    """`Learning rates were chosen by the loss on the validation rows: 9 trials took 4:32 …`; '' without trials."""
    trials = [entry for entry in ladder.entries if entry.kind == "trial"]
    if not trials:
        return ""
    how = ", by successive halving" if any(trial.steps is not None for trial in trials) else ""
    text = f"Learning rates were chosen by the loss on the validation rows{how}"
    spent = duration(sum(trial.seconds or 0.0 for trial in trials))
    return f"{text}: {integer(len(trials))} trials took {spent}, which is not part of the costs above."


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


def _advice(ladder: Ladder, rows: Sequence[RungResult]) -> list[str]:
    """One sentence per warning about the trained rungs."""
    work = ladder.work
    rungs = {
        rung_title(row.name): TrainedRung(
            row.method,
            row.learning_rate,
            int(_setting(ladder, row.name, "train.batch") or 0),
            _setting(ladder, row.name, "adapter.target_modules") or "all-linear",
            row.trainable or None,
            (work.answer_tokens or None) if work else None,
        )
        for row in rows
    }
    return [f"{notice.text[:1].upper()}{notice.text[1:]}." for notice in lora_notices(rungs)]


def _setting(ladder: Ladder, rung: str, key: str) -> Any:
    """The rung's value of a setting; None if it does not read it."""
    return ladder.differs.get(key, {}).get(rung, ladder.config.get(key))


def _other_devices(ladder: Ladder) -> str:
    """The caveat on timings of other devices; '' without any."""
    runs = [entry for entry in ladder.entries if entry.kind == "run" and entry.other_device]
    names = [f"{rung_title(entry.rung)} seed {entry.seed} ({entry.other_device})" for entry in runs]
    return f"Timings on another device are left out of times and costs: {listed(names)}." if names else ""


def _shared_cpu(ladder: Ladder) -> str:
    """The caveat on timings of runs that shared the CPU; '' where no two runs shared it."""
    if ladder.runs_at_once == 1 or ladder.machine.get("cuda"):
        return ""
    return f"{ladder.runs_at_once} runs at a time shared this CPU: one that has all of it takes less time."


def _incomplete(ladder: Ladder, row: RungResult) -> str:
    """Why a rung has no result or not all of its seeds; '' if it is complete or has not started."""
    name = method_subject(row)
    if row.status == "partly":
        finished = f"{name} finished {len(row.seeds)} of {len(ladder.seeds)} seeds"
        return f"{finished}: {row.reason}" if row.reason else f"{finished}."
    if row.status not in ("finished", "planned") and row.reason:
        return f"{name}: {status_text(row)}"
    return ""
