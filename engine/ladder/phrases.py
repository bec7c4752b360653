"""Phrases of the verdict: written once, for its sentences, the report and the tests."""

from __future__ import annotations

from collections.abc import Sequence

from engine.config import quantities
from engine.config.method_specs import RULE_REFERENCE
from engine.config.metric_specs import MetricSpec, metric_spec
from engine.config.text import amount
from engine.ladder import format as fmt
from engine.runs import score_format
from engine.runs.ladder import Comparison, Finding, Ladder, RungResult, Topic

Sentence = tuple[Topic, str]
"""A sentence of the verdict with its topic."""

NO_SIGNIFICANT_DIFFERENCE = "no significant difference"
SIGNIFICANTLY: dict[Finding, str] = {"better": "significantly better", "worse": "significantly worse"}
NO_GAIN = "No gain over the base model, so shares of the gain are undefined"
NO_RECOMMENDATION = "No method is significantly better than the base model: this ladder recommends none."
BASE_NOT_SCORED = "The base model has no score"
FULL_NOT_SCORED = "Full fine-tuning has no score"
LOWER_IS_BETTER = "lower is better; a negative difference is an improvement"
LOW_MEMORY = "If memory is limited"
SMALLEST_ARTIFACT = "the smallest artifact among the methods that are not significantly worse"
ONLY_RUNG = "it is the only rung with a score"
NOT_COMPARED = "it was not compared"
ONE_SEED = "One seed: the results describe these runs; the variation between seeds is unknown."
ONE_RATE = "Each rung was trained at one learning rate; no other was tried"
ON_CPU = "Measured on a CPU; timings and memory on a GPU will differ."
NO_ENERGY = "No energy counter is available on this machine, so energy was not measured."

RULE_OF_QUALITY = {
    "holds": "the rule of thumb (94% of the quality) holds here.",
    "fails": "the rule of thumb (94% of the quality) does not hold here.",
    "undecided": "the rule of thumb (94% of the quality) is neither confirmed nor refuted: 94% is within the interval.",
    "unknown": "the rule of thumb (94% of the quality) cannot be checked.",
}
RULE_OF_COST = {
    "holds": "at most one eighth, as the rule of thumb says",
    "fails": "more than the rule of thumb's one eighth",
    "undecided": "and the seeds disagree on whether it is at most one eighth",
    "unknown": "not comparable with the rule of thumb's one eighth",
}


def ladder_metric(ladder: Ladder) -> MetricSpec:
    """The metric that the ladder's scores are of."""
    return metric_spec(ladder.work.metric if ladder.work else "")


def sample_size(ladder: Ladder) -> str:
    """`300 test items and 2 seeds`: what the comparisons are based on."""
    items = ladder.work.test if ladder.work else 0
    seeds = min((len(row.seeds) for row in ladder.rows if row.score and row.seeds and not row.source), default=0)
    return amount(items, "test item") + (f" and {amount(seeds, 'seed')}" if seeds else "")


def not_significant(ladder: Ladder) -> str:
    """`No significant difference with 300 test items and 2 seeds`."""
    return f"{NO_SIGNIFICANT_DIFFERENCE.capitalize()} with {sample_size(ladder)}"


def as_fast(names: Sequence[str]) -> str:
    """`For some seeds QLoRA and LoRA were as fast.`"""
    return f"For some seeds {' and '.join(names)} {'were' if len(names) > 1 else 'was'} as fast."


def difference(compared: Comparison, metric: MetricSpec) -> str:
    """`QLoRA − full = −2.3 points, 95% CI [−4.0, −0.6]`; the interval is simultaneous over all comparisons."""
    value = score_format.difference(compared.difference.mean, metric.name) + unit_suffix(metric)
    bounds = score_format.score_bounds(compared.difference, metric.name)
    text = f"{fmt.rung_title(compared.a)} − {fmt.rung_title(compared.b)} = {value}"
    return f"{text}, {confidence(bounds)}" if bounds else text


def confidence(bounds: str) -> str:
    """`95% CI [55.6, 60.6]`."""
    return f"95% CI {bounds}"


def score(row: RungResult, metric: MetricSpec) -> str:
    """A rung's mean score with its unit."""
    return score_format.score(row.score.mean if row.score else None, metric.name) + unit_suffix(metric)


def one_rate(ladder: Ladder) -> str:
    """The caveat that no rates were compared, with each rung's rate and, where it is known, what set it."""
    rates = [
        f"{fmt.rung_title(row.name)} at {quantities.rate(row.learning_rate)}"
        + (f" ({row.learning_rate_origin})" if row.learning_rate_origin else "")
        for row in ladder.rows
        if row.learning_rate is not None
    ]
    return f"{ONE_RATE}{': ' if rates else ''}{', '.join(rates)}."


def method_noun(row: RungResult) -> str:
    """`full fine-tuning`, or the rung's name."""
    return "full fine-tuning" if row.name == RULE_REFERENCE else fmt.rung_title(row.name)


def method_subject(row: RungResult) -> str:
    """The same at the start of a sentence."""
    return "Full fine-tuning" if row.name == RULE_REFERENCE else fmt.rung_title(row.name)


def status(row: RungResult) -> str:
    """`out of memory: the reason`."""
    text = row.status.replace("_", " ")
    return f"{text}: {row.reason}" if row.reason else text


def unit_suffix(metric: MetricSpec) -> str:
    """The unit that the formatted number does not have yet."""
    return "" if metric.is_share or not metric.unit else f" {metric.unit}"
