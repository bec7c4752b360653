"""The verdict: decisions as sentences. Every number in them is also in the report's tables."""

from __future__ import annotations

from engine.config import quantities
from engine.config.method_specs import RULE_REFERENCE
from engine.ladder import rung_format as fmt
from engine.ladder.advice_sentences import advice_sentences
from engine.ladder.answer_sentences import unended_answers
from engine.ladder.artifact_sentences import artifact_sentences
from engine.ladder.benchmark_sentences import benchmark_sentences
from engine.ladder.cost_sentences import cost_sentences
from engine.ladder.decisions import Decisions, comparison, decide, is_non_inferior, margin_of
from engine.ladder.device_differences import other_devices, shared_cpu_caveat
from engine.ladder.disturbance_sentences import disturbed_timings
from engine.ladder.few_shot_bases import few_shot_sentences
from engine.ladder.phrases import (
    BASE_NOT_SCORED,
    FULL_NOT_SCORED,
    LOWER_IS_BETTER,
    NO_SHARES,
    ON_CPU,
    ONE_SEED,
    POWER,
    RULE_OF_QUALITY,
    SIGNIFICANTLY,
    TRAIN_MORE,
    WITHIN_MARGIN,
    as_good_text,
    both_as_good_text,
    difference_text,
    keeps_gain,
    ladder_metric,
    method_subject,
    needed_sample,
    no_significant_gain,
    not_significant,
    one_rate,
    score_text,
    share_text,
    spread_text,
    status_text,
    worse_than_base,
)
from engine.ladder.rate_sentences import chosen_rates
from engine.ladder.recommendation import recommendations
from engine.runs.ladder import Ladder
from engine.runs.overlap import overlap_sentence
from engine.runs.result import MIN_ITEMS
from engine.runs.rung_results import Comparison, RungResult, VerdictSentence
from engine.runs.rungs import BASE


def verdict(ladder: Ladder) -> list[VerdictSentence]:
    """The sentences in the order in which they are shown; none before a rung has finished."""
    decisions = decide(ladder)
    if not decisions.trained or ladder.work is None:
        return []
    return [
        *_worse_than_base(ladder, decisions),
        *_quality(ladder, decisions),
        *few_shot_sentences(ladder, decisions),
        *benchmark_sentences(ladder),
        *cost_sentences(decisions),
        *recommendations(ladder, decisions),
        *artifact_sentences(ladder, decisions),
        *_overlaps(ladder),
        *_caveats(ladder, decisions),
    ]


def _worse_than_base(ladder: Ladder, decisions: Decisions) -> list[VerdictSentence]:
    """Rungs that training made worse; full fine-tuning has a sentence on its gain."""
    worse = [row for row in decisions.trained if decisions.gained[row.name] == "worse" and row is not decisions.full]
    return [VerdictSentence("quality", worse_than_base(ladder, [row])) for row in worse]


def _quality(ladder: Ladder, decisions: Decisions) -> list[VerdictSentence]:
    full = decisions.full
    if full is None:
        missing = next((row for row in ladder.rows if row.method == RULE_REFERENCE), None)
        why = f" ({status_text(missing)})" if missing and missing.reason else ""
        return [
            VerdictSentence(
                "quality", f"{FULL_NOT_SCORED}{why}, so the share of its quality that other methods keep is unknown."
            )
        ]
    if full.not_compared:
        return [VerdictSentence("quality", f"Full fine-tuning is not compared: {full.not_compared}.")]
    if decisions.gained[full.name] != "yes":
        return [VerdictSentence("quality", _no_gain(ladder, full))]
    sentences = [
        VerdictSentence("quality", _against_full(ladder, row, full, decisions.against_full[row.name]))
        for row in decisions.trained
        if row is not full and row.name in decisions.against_full
    ]
    sentences += [
        VerdictSentence("quality", f"{method_subject(row)} is not compared: {row.not_compared}.")
        for row in decisions.trained
        if row.not_compared
    ]
    if decisions.qlora is not None:
        sentences.append(VerdictSentence("quality", _rule_of_quality(ladder, decisions, decisions.qlora)))
    return sentences


def _no_gain(ladder: Ladder, full: RungResult) -> str:
    metric = ladder_metric(ladder)
    gain = comparison(ladder, full.name, BASE)
    if gain is None:
        return (
            f"{BASE_NOT_SCORED}, so the gain of full fine-tuning, and the share of it that other methods keep, "
            "are unknown."
        )
    numbers = f"full scores {score_text(full, metric)}, {difference_text(ladder, gain)}; {NO_SHARES}."
    if gain.finding == "worse":
        return f"Full fine-tuning is {SIGNIFICANTLY['worse']} than the base model: {numbers} {TRAIN_MORE}"
    text = f"{no_significant_gain(ladder, full)}: {numbers}"
    observed = (gain.difference.mean or 0.0) * (-1 if metric.lower_is_better else 1)
    remedy = _required_sample(ladder, gain) if observed > 0 else ""
    return f"{text}{remedy}" if remedy and observed > margin_of(ladder) else f"{text}{remedy} {TRAIN_MORE}"


def _against_full(ladder: Ladder, row: RungResult, full: RungResult, against: Comparison) -> str:
    metric, name = ladder_metric(ladder), fmt.rung_title(row.name)
    own, reference = score_text(row, metric), score_text(full, metric)
    if metric.lower_is_better:
        text = f"{name} has a {metric.title} of {own}, full of {reference}"
    else:
        part = f"{quantities.percent(row.share_of_score.mean)} of " if row.share_of_score else "against "
        text = f"{name} scores {own}, {part}full's {reference}"
    if gain := row.share_of_gain:
        text += f", and {keeps_gain(ladder, row, gain)}"
    value = difference_text(ladder, against)
    if against.finding == "undecided":
        return f"{text}. {not_significant(ladder)}: {value}.{_required_sample(ladder, against)}"
    if against.finding == "as_good":
        return f"{text}. {as_good_text(ladder, name, 'full')}: {value}."
    small = f", {WITHIN_MARGIN}" if against.finding == "worse" and is_non_inferior(ladder, row.name, full.name) else ""
    return f"{text}. {name} is {SIGNIFICANTLY[against.finding]} than full{small}: {value}."


def _required_sample(ladder: Ladder, compared: Comparison) -> str:
    """How many test items and seeds would decide the comparison, if the observed difference is the true one."""
    needed = needed_sample(compared)
    if not needed:
        return ""
    goal = f" to show that {both_as_good_text(ladder)}" if compared.needed_for == "as_good" else ""
    return f" If this is the true difference, {needed} {POWER}{goal}, if seeds vary {spread_text(ladder, compared)}."


def _rule_of_quality(ladder: Ladder, decisions: Decisions, qlora: RungResult) -> str:
    """The rule is about the share of the gain; the share of the score stands next to it."""
    rule, gain = RULE_OF_QUALITY[decisions.rule_quality], qlora.share_of_gain
    if gain is None:
        why = f" ({qlora.no_share})" if qlora.no_share else ""
        return f"{rule[:1].upper()}{rule[1:].rstrip('.')}{why}."
    value = share_text(ladder, qlora, gain)
    of_score = (
        f"; its share of full's score is {quantities.percent(qlora.share_of_score.mean)}"
        if qlora.share_of_score
        else ""
    )
    return f"{fmt.rung_title(qlora.name)}'s share of full's gain is {value}{of_score}; {rule}"


def _overlaps(ladder: Ladder) -> list[VerdictSentence]:
    """How many of the held-out rows are also in the training rows."""
    overlaps = ladder.work.overlap if ladder.work else {}
    sentences = [VerdictSentence("data", overlap_sentence(pair, overlap)) for pair, overlap in overlaps.items()]
    tested = overlaps.get("test/train")
    if tested and tested.prompt:
        rows = f"{quantities.integer(tested.prompt)} of {quantities.integer(tested.of)} test rows"
        sentences.append(
            VerdictSentence(
                "caveat", f"{rows} have a prompt that is also trained on: scores partly measure memorization."
            )
        )
    return sentences


def _caveats(ladder: Ladder, decisions: Decisions) -> list[VerdictSentence]:
    texts: list[str] = []
    if any(len(row.seeds) == 1 for row in decisions.trained):
        texts.append(ONE_SEED)
    texts += filter(None, [disturbed_timings(ladder), other_devices(ladder), shared_cpu_caveat(ladder)])
    texts.append(chosen_rates(ladder) or one_rate(ladder))
    metric = ladder_metric(ladder)
    if metric.lower_is_better:
        unit = f" in {metric.unit}" if metric.unit else ""
        texts.append(f"{metric.title[:1].upper()}{metric.title[1:]}{unit}: {LOWER_IS_BETTER}.")
    if ladder.work and ladder.work.test < MIN_ITEMS:
        texts.append(f"With fewer than {MIN_ITEMS} test items no difference can be significant.")
    texts += filter(None, [unended_answers(decisions.trained)])
    texts += advice_sentences(ladder, decisions.trained)
    texts += filter(None, (_incomplete(ladder, row) for row in ladder.rows))
    if decisions.trained and not any(row.peak and row.peak.reserved for row in decisions.trained):
        texts.append(ON_CPU)
    return [VerdictSentence("caveat", text) for text in texts]


def _incomplete(ladder: Ladder, row: RungResult) -> str:
    """Why a rung has no result or not all of its seeds; '' if it is complete or has not started."""
    name = method_subject(row)
    if row.status == "partly":
        finished = f"{name} finished {len(row.seeds)} of {len(ladder.seeds)} seeds"
        return f"{finished}: {row.reason}" if row.reason else f"{finished}."
    if row.status not in ("finished", "planned") and row.reason:
        return f"{name}: {status_text(row)}"
    return ""
