"""Terms of the verdict, written once for its sentences, the report and the tests: rungs, numbers, phrases.

Functions of numbers take None and NaN too and return `–`. Sizes, durations and counts: `engine.config.quantities`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator

from engine.config import quantities
from engine.config.method_specs import RULE_REFERENCE, VARIANT_TITLES, method_specs
from engine.config.metric_specs import MetricSpec, metric_spec
from engine.config.quantities import Number, decimal, integer
from engine.config.text import amount
from engine.ladder.decisions import RULE_GAIN_SHARE
from engine.ladder.results import comparison, margin_of
from engine.ladder.statistics import CONFIDENCE_LEVEL
from engine.runs import score_format
from engine.runs.ladder.ladder_state import ADDED_PREFIX, BASE, Ladder, artifact_of, is_added, shots_of
from engine.runs.ladder.rung_results import Comparison, CostRatio, Finding, RungResult, SeedRange, Topic

Sentences = Iterator[tuple[Topic, str]]
"""(topic, text) of sentences of the verdict, in their order."""
BASE_TITLES = {"base": "base", "base-4bit": "4-bit base"}


def rung_title(name: str) -> str:
    """The name of a rung in text: methods in their usual spelling, other rungs as they are named; `LoRA Q4_K_M`."""
    if artifact := artifact_of(name):
        return f"{rung_title(artifact[0])} {artifact[1].title}"
    if shots := shots_of(name):
        return f"{shots}-shot base"
    if is_added(name):
        return name.removeprefix(ADDED_PREFIX)
    if name in VARIANT_TITLES:
        return VARIANT_TITLES[name]
    return method_specs()[name].in_text if name in method_specs() else BASE_TITLES.get(name, name)


def share_reference(ladder: Ladder) -> str:
    """Whose gain shares are of: `full`, or `the best` where no full run has a score."""
    has_full = any(row.method == RULE_REFERENCE and row.score and not row.source for row in ladder.rows)
    return RULE_REFERENCE if has_full else "the best"


def metric_title(metric: str) -> str:
    return metric_spec(metric).title


def rounded_up(number: int | None) -> str:
    """An estimated number, rounded up to two digits: `1,900` for 1,853."""
    if not number:
        return integer(number)
    step = 10 ** max(0, len(str(number)) - 2)
    return integer(math.ceil(number / step) * step)


def p_value(value: Number) -> str:
    """A p-value: `0.012`, `< 0.001`."""
    return "< 0.001" if value is not None and value < 0.001 else decimal(value, 3)


def seed_range_text(seeds: SeedRange | None, text: Callable[[Number], str]) -> str:
    """Lowest to highest value over the seeds, formatted by `text`; '' if both are written the same."""
    if seeds is None:
        return ""
    low, high = text(seeds.low), text(seeds.high)
    return "" if low == high else f"{low} – {high}"


def ratio_bounds(cost: CostRatio) -> str:
    """`[0.29, 0.33]`, the 95% interval of a cost ratio; '' for full fine-tuning's own, which is 1."""
    low, high = (quantities.ratio(end).rstrip("×") for end in (cost.low, cost.high))
    return f"[{low}, {high}]" if cost.low < cost.high else ""


NO_SIGNIFICANT_DIFFERENCE = "no significant difference"
SIGNIFICANTLY: dict[Finding, str] = {"better": "significantly better", "worse": "significantly worse"}
FEW_ENDED = 0.5
"""With a smaller share of complete answers, it is their maximum length that the scores show."""
UNFIT = "evaluation.unfit_metric"
"""Code of the warning that a metric that was set does not fit the answers, and that the automatic one does."""
BASE_NOT_SCORED = "The base model has no score"
POWER = "give 80% power"
ASSUMED_SPREAD = "one seed, spread assumed"
SIMULTANEOUS = "simultaneous 95% CI"
WITHIN_MARGIN = "by less than the margin"

RULE_GAIN = f"{RULE_GAIN_SHARE:.0%} of the gain"
RULE = f"the rule of thumb ({RULE_GAIN} at one eighth of the cost)"
COST_TITLES = {
    "training": "training time",
    "time": "total time",
    "cpu": "CPU time in training",
    "energy": "energy",
    "memory": "peak memory while training",
}


def ladder_metric(ladder: Ladder) -> MetricSpec:
    return metric_spec(ladder.metric)


def metric_failed(ladder: Ladder) -> str:
    """Why the scores say nothing about training: all rungs have the same one, and the loss fell. '' if not.

    `Every rung scores 0.0% in exact match, while the held-out loss of LoRA is 1.34 nats/token lower than …`
    """
    metric = ladder_metric(ladder)
    scored = [row for row in ladder.rows if row.score and not row.source]
    means = {row.score.mean for row in scored if row.score}
    if metric.is_loss or len(means) != 1:
        return ""
    fallen = fallen_loss(ladder)
    if not fallen:
        return ""
    score = score_format.score(means.pop(), metric.name)
    calls = {row.extra.get("expected_calls") for row in scored}
    same = calls.pop() if len(calls) == 1 else None
    where = "" if same is None else f", and {quantities.percent(same)} where a call is expected"
    text = f"Every rung scores {score} in {metric.title}{where}, while {fallen[1]}: the model learned, and "
    is_unfit = UNFIT in ladder.warning_codes
    compare = f"compare with --set evaluation.metric={'auto' if is_unfit else 'open'}"
    ended = fallen[0].ended
    if ended is not None and ended < FEW_ENDED:
        cut = f"only {quantities.percent(ended)} of its answers end within evaluation.max_new_tokens"
        return f"{text}{cut}: raise that with {longer_answers(ladder)}, or {compare}."
    return f"{text}{metric.title} {'cannot measure' if is_unfit else 'does not show'} it: {compare}."


def fallen_loss(ladder: Ladder) -> tuple[RungResult, str] | None:
    """The rung with the largest significant fall of the held-out loss, which shows that training worked.

    With `the held-out loss of LoRA is 1.34 nats/token lower than the base model's`; None if no loss fell.
    """
    falls = [
        (loss.mean, row)
        for row in ladder.rows
        if row.score
        and not row.source
        and (gain := comparison(ladder, row.name, BASE))
        and (loss := gain.loss_difference)
        and loss.mean is not None
        and loss.high is not None
        and loss.high < 0
    ]
    if not falls:
        return None
    fall, row = min(falls, key=lambda pair: pair[0])
    lower = f"{score_format.loss(-fall)} nats/token lower than the base model's"
    return row, f"the held-out loss of {rung_title(row.name)} is {lower}"


def longer_answers(ladder: Ladder) -> str:
    """The setting with which answers may be twice as long: `--set evaluation.max_new_tokens=256`."""
    limit = ladder.config.get("evaluation.max_new_tokens")
    return f"--set evaluation.max_new_tokens={2 * limit if isinstance(limit, int) else 'NUMBER'}"


def sample_size(ladder: Ladder) -> str:
    """`300 test items and 2 seeds`: what the comparisons are based on."""
    items = ladder.work.test if ladder.work else 0
    seeds = min((len(row.seeds) for row in ladder.rows if row.score and row.seeds and not row.source), default=0)
    return amount(items, "test item") + (f" and {amount(seeds, 'seed')}" if seeds else "")


def not_significant(ladder: Ladder) -> str:
    """`no significant difference with 300 test items and 2 seeds`."""
    return f"{NO_SIGNIFICANT_DIFFERENCE} with {sample_size(ladder)}"


def difference_text(ladder: Ladder, compared: Comparison) -> str:
    """`QLoRA − full = −2.3 points, simultaneous 95% CI [−4.0, −0.6]`, and what is assumed about single seeds."""
    metric = ladder_metric(ladder)
    value = score_format.difference(compared.difference.mean, metric.name) + unit_suffix(metric)
    bounds = score_format.score_bounds(compared.difference, metric.name)
    text = f"{rung_title(compared.a)} − {rung_title(compared.b)} = {value}"
    # What is assumed about other seeds is not about an artifact and its run.
    of_artifact = any((row.name, row.source) == (compared.a, compared.b) for row in ladder.rows)
    scope = f" ({ASSUMED_SPREAD})" if has_one_seed(ladder, compared.a, compared.b) and not of_artifact else ""
    return f"{text}, {SIMULTANEOUS} {bounds}{scope}" if bounds else text


def has_one_seed(ladder: Ladder, *names: str) -> bool:
    """Whether one of these rungs finished one seed only."""
    return any(row.name in names and len(row.seeds) == 1 for row in ladder.rows)


def margin_text(ladder: Ladder) -> str:
    """`2 points`, `0.02 nats/token`."""
    metric = ladder_metric(ladder)
    value = float(f"{margin_of(ladder) * metric.scale:.6g}")
    return f"{value:g} {'point' if value == 1 else 'points'}" if metric.is_share else f"{value:g}{unit_suffix(metric)}"


def as_good_text(ladder: Ladder, a: str, b: str) -> str:
    """`LoRA is as good as full within the margin of 2 points`."""
    return f"{a} is {as_good_as(ladder, b)}"


def as_good_as(ladder: Ladder, b: str) -> str:
    """`as good as full within the margin of 2 points`."""
    return f"as good as {b} within the margin of {margin_text(ladder)}"


def allowed_collapses(ladder: Ladder, *names: str) -> str:
    """` (none of 3 seeds collapsed, but up to 63% of seeds may)`: what *as good* leaves open.

    '' for an artifact and its own run.
    """
    seeds, share = _fewest_seeds(ladder, names), collapse_bound(ladder, *names)
    if not share:
        return ""
    return (
        f" (none of {seeds} seeds collapsed, but up to {share} of seeds may)"
        if seeds > 1
        else f" (up to {share} of seeds may collapse)"
    )


def collapse_bound(ladder: Ladder, *names: str) -> str:
    """`63%`: the upper 95% bound of the share of seeds that collapse, 1 − 0.05^(1/S) if none of S seeds did.

    No interval covers what no seed has shown. '' for an artifact and its own run, which have the same seeds.
    """
    is_own = any(row.name in names and row.source in names for row in ladder.rows)
    seeds = _fewest_seeds(ladder, names)
    return quantities.percent(1 - (1 - CONFIDENCE_LEVEL) ** (1 / seeds), 0) if seeds and not is_own else ""


def _fewest_seeds(ladder: Ladder, names: Collection[str]) -> int:
    return min((len(row.seeds) for row in ladder.rows if row.name in names and row.seeds), default=0)


def needed_sample(compared: Comparison) -> str:
    """`about 600 test items and 9 seeds`; '' if nothing is known."""
    if compared.needed_items is None:
        return ""
    items = f"about {rounded_up(compared.needed_items)} test items"
    return f"{items} and {rounded_up(compared.needed_seeds)} seeds" if compared.needed_seeds else items


def deciding_sample(ladder: Ladder, compared: Comparison) -> str:
    """`about 600 test items give 80% power to show that each is as good as the other …`; '' if nothing is known."""
    needed = needed_sample(compared)
    both = as_good_text(ladder, "each", "the other")
    goal = f" to show that {both}" if compared.needed_for == "as_good" else ""
    return f"{needed} {POWER}{goal}" if needed else ""


def score_text(row: RungResult, metric: MetricSpec) -> str:
    return score_format.score(row.score.mean if row.score else None, metric.name) + unit_suffix(metric)


def method_noun(row: RungResult) -> str:
    """`full fine-tuning`, or the rung's name."""
    return "full fine-tuning" if row.name == RULE_REFERENCE else rung_title(row.name)


def method_subject(row: RungResult) -> str:
    """The same at the start of a sentence."""
    return "Full fine-tuning" if row.name == RULE_REFERENCE else rung_title(row.name)


def status_text(row: RungResult) -> str:
    """`out of memory: the reason`."""
    text = row.status.replace("_", " ")
    return f"{text}: {row.reason}" if row.reason else text


def unit_suffix(metric: MetricSpec) -> str:
    """The unit that the formatted number does not have yet."""
    return "" if metric.is_share or not metric.unit else f" {metric.unit}"
