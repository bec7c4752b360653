"""The cost part of the verdict: the QLoRA rung's time, energy, memory and rent relative to full fine-tuning's."""

from __future__ import annotations

from collections.abc import Callable

from engine.config import quantities
from engine.config.text import listed
from engine.ladder import rung_format as fmt
from engine.ladder.decisions import Decisions, RuleCheck, training_peak
from engine.ladder.phrases import NO_ENERGY, NO_TIMING, ONE_TIMING, RULE_OF_COST
from engine.runs.rung_results import RungResult, SeedRange, Topic, VerdictSentence


def cost_sentences(decisions: Decisions) -> list[VerdictSentence]:
    """One sentence per measured cost; none if QLoRA or full has no score."""
    qlora, full = decisions.qlora, decisions.full
    if qlora is None or full is None:
        return []
    name = fmt.rung_title(qlora.name)
    once = f" ({ONE_TIMING})" if len(qlora.seeds) == len(full.seeds) == 1 else ""
    sentences = []
    measured: list[tuple[Topic, str, str, SeedRange | None, SeedRange | None]] = [
        ("time", "training", "training time", qlora.training_seconds, full.training_seconds),
        ("time", "time", "total time", qlora.all_seconds, full.all_seconds),
        ("time", "cpu", "CPU time in training", qlora.cpu_seconds, full.cpu_seconds),
        ("energy", "energy", "energy use", qlora.energy, full.energy),
    ]
    for topic, key, title, candidate, reference in measured:
        text = quantities.energy if topic == "energy" else quantities.duration
        if candidate and reference:
            sentence = _cost(f"{name}'s {title}", candidate, reference, text, decisions.rule_costs[key])
            sentences.append(VerdictSentence(topic, sentence[:-1] + once + "."))
    if timeless := [row for row in (qlora, full) if row.disturbed]:
        names = listed([fmt.rung_title(row.name) for row in timeless])
        sentences.append(
            VerdictSentence("time", f"{NO_TIMING} of {names}: times and costs that depend on them are not compared.")
        )
    if not (qlora.energy and full.energy) and not timeless:
        sentences.append(VerdictSentence("energy", NO_ENERGY))
    peaks = training_peak(qlora.peak), training_peak(full.peak)
    if peaks[0] and peaks[1]:
        ratio = quantities.ratio(peaks[0] / peaks[1])
        sizes = f"{quantities.size(peaks[0])} vs. {quantities.size(peaks[1])}"
        check = RULE_OF_COST[decisions.rule_costs["memory"]]
        sentences.append(
            VerdictSentence("memory", f"{name}'s peak memory while training is {ratio} full's, {check}: {sizes}.")
        )
    return sentences + _rent(qlora, full, decisions.rule_costs["rent"])


def _cost(
    title: str, candidate: SeedRange, reference: SeedRange, text: Callable[[float | None], str], check: RuleCheck
) -> str:
    ratio = quantities.ratio(candidate.mean / reference.mean) if reference.mean else quantities.ABSENT
    values = f"{mean_and_range(candidate, text)} vs. {mean_and_range(reference, text)}"
    return f"{title} is {ratio} full's, {RULE_OF_COST[check]}: {values}."


def mean_and_range(seeds: SeedRange, text: Callable[[float | None], str], unit: str = "") -> str:
    """`48.4 s per run (seeds: 47.3 s – 49.9 s)`: the mean with `unit`, and the range if the seeds differ."""
    value, extent = f"{text(seeds.mean)}{unit}", fmt.seed_range_text(seeds, text)
    return f"{value} (seeds: {extent})" if extent else value


def _rent(qlora: RungResult, full: RungResult, check: RuleCheck) -> list[VerdictSentence]:
    if not qlora.rent or not full.rent:
        return []
    name = fmt.rung_title(qlora.name)
    note = f" ({qlora.rent_note})" if qlora.rent_note else ""
    prices = [f"{quantities.money(row.rent.price_per_hour, row.rent.currency)}/h" for row in (qlora, full) if row.rent]
    if qlora.rent.gpu == full.rent.gpu:
        text = f"{full.rent.gpu} at {prices[1]} is the cheapest listed GPU with enough memory for either"
        return [VerdictSentence("rent", f"{text}{note}: {name} saves no rent.")]
    text = f"The cheapest listed GPU with enough memory is {qlora.rent.gpu} at {prices[0]} for {name} and "
    text += f"{full.rent.gpu} at {prices[1]} for full{note}"
    if qlora.rent.currency != full.rent.currency or not full.rent.price_per_hour:
        return [VerdictSentence("rent", f"{text}.")]
    ratio = quantities.ratio(qlora.rent.price_per_hour / full.rent.price_per_hour)
    text += f". {name}'s price per hour is {ratio} full's, {RULE_OF_COST[check]}"
    return [VerdictSentence("rent", f"{text}. The run time on these GPUs was not measured.")]
