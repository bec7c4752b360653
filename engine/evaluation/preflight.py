"""What prepared rows say before the model is loaded: which metric fits them, and what cannot be trained on or scored.

`evaluation.metric = "auto"` is decided by the training answers alone, so the choice depends on no model and on no test
row. The first rule that holds decides; its thresholds are measured on public datasets of known kind
(tools/RESULTS.md, "Automatic metric"). Runs, ladders and the data check ask the same functions. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median_low
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace

from engine.config.errors import Notice, UserError
from engine.config.metric_specs import AUTO, metric_spec
from engine.config.model_config import check_trainable
from engine.config.quantities import share_percent
from engine.config.reasoning import REASONING_TAGS, without_reasoning
from engine.config.schema import Config, Evaluation, Model
from engine.config.text import amount
from engine.data.check import PreflightResult
from engine.data.items import EvaluationItem, evaluation_items, sampled
from engine.data.prepared import Preparation, TokenizedRows, lengths_of
from engine.data.rows import Row
from engine.data.store import CALLS
from engine.evaluation.metrics import (
    Choices,
    best_score,
    has_box,
    is_formatted,
    is_list,
    is_object,
)
from engine.evaluation.numbers import COMMA, NumberFormat
from engine.methods.model_source import config_of, maximum_positions

SAMPLE = 2000
"""Training rows that are read at most, evenly spread: 0.1 s for answers of 300 words."""
CALLS_SHARE = 0.05
"""Share of rows that train a tool call from which calls are what matters; the other rows say that none is expected."""
FORMAT_SHARE = 0.95
"""Share of answers in a format from which it is the format of the answers."""
ROWS_PER_LABEL, MAX_LABELS, MAX_NUMERIC_LABELS = 5, 400, 12
"""Answers are labels with at least so many rows per distinct answer, and at most so many distinct answers; numbers are
labels, such as ratings, if there are fewer."""
LABEL_WORDS, SHORT_WORDS, SHORT_TAIL_WORDS = 12, 5, 12
"""Words at most: of 90% of labels, of half of the answers that can be matched exactly, and of 90% of these."""
UNMATCHABLE_WORDS = 20
"""From this median on, a right answer is hardly ever equal to the reference."""
_UNSPACED = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
"""A word; in scripts without spaces between words, a letter."""
_COUNTED = 2000
"""Characters of an answer in which words are counted; the rest is estimated."""


class MetricChoice(NamedTuple):
    """The metric of a run, and why it is used."""

    metric: str
    reason: str
    """One clause, such as `98.2% of 1,004 training answers are JSON objects`; '' if the user set the metric."""


@dataclass(frozen=True)
class AnswerProfile:
    """What the training answers look like."""

    answers: int
    """How many were read."""
    words: int = 0
    """Words of an answer, median."""
    many_words: int = 0
    """Words that 10% of the answers exceed."""
    distinct: int = 0
    """Distinct answers among those that were read."""
    objects: float = 0.0
    """Share that are JSON objects."""
    lists: float = 0.0
    """Share that are JSON lists of labels."""
    boxes: float = 0.0
    """Share with a `\\boxed{}`."""
    numbers: NumberFormat = field(default_factory=NumberFormat)
    """How many are a number, or have one after a marker such as `####`, and their notation."""
    calls: float = 0.0
    """Share of rows that train a tool call."""
    prompts: float = 1.0
    """Share of rows with a prompt."""

    @classmethod
    def of(cls, rows: TokenizedRows, tags: Sequence[str] = REASONING_TAGS) -> AnswerProfile:
        """The profile of at most SAMPLE rows, evenly spread."""
        if not len(rows):
            return cls(0)
        chosen = rows.take(np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(int)))
        answers = [without_reasoning(text, tags).strip() for text in chosen.targets()]
        lengths = sorted(map(_words, answers))
        count = len(answers)
        return cls(
            answers=count,
            words=median_low(lengths),
            many_words=lengths[int(0.9 * (count - 1))],
            distinct=len(set(answers)),
            objects=sum(map(is_object, answers)) / count,
            lists=sum(map(is_list, answers)) / count,
            boxes=sum(map(has_box, answers)) / count,
            numbers=NumberFormat.of(answers),
            calls=float(((chosen.column("flags") & CALLS) > 0).mean()),
            prompts=float((chosen.column("prompt_size") > 1).mean()),
        )

    @property
    def are_labels(self) -> bool:
        """Whether the answers are a few short texts that recur."""
        limit = MAX_NUMERIC_LABELS if self.numbers.share >= FORMAT_SHARE else MAX_LABELS
        few = 2 <= self.distinct <= min(limit, self.answers / ROWS_PER_LABEL)
        return few and self.many_words <= LABEL_WORDS

    def choose(self) -> MetricChoice:
        """The metric that fits, with the reason."""
        count = amount(self.answers, "training answer")
        if self.prompts < 0.5:
            return MetricChoice("loss", f"{share_percent(1 - self.prompts)} of the training rows have no prompt")
        if self.calls >= CALLS_SHARE:
            return MetricChoice("tool_calls", f"{share_percent(self.calls)} of the training rows have tool calls")
        if self.objects >= FORMAT_SHARE:
            return MetricChoice("json", f"{share_percent(self.objects)} of {count} are JSON objects")
        if self.lists >= FORMAT_SHARE:
            return MetricChoice("set", f"{share_percent(self.lists)} of {count} are JSON lists of labels")
        if self.are_labels:
            return MetricChoice("choice", f"{count} are {self.distinct:,} distinct short texts")
        if self.boxes >= FORMAT_SHARE and (self.numbers.doubt or self.numbers.share < FORMAT_SHARE):
            found = f"{share_percent(self.boxes)} of {count} have a \\boxed{{}}"
            return MetricChoice("boxed", f"{found}, and not all of these are clearly numbers")
        if self.numbers.share >= FORMAT_SHARE:
            found = f"{share_percent(self.numbers.share)} of {count} are or end in a number"
            if self.numbers.doubt:
                return MetricChoice("exact_match", f"{found}, but {self.numbers.doubt}")
            if self.numbers.decimal == COMMA:
                return MetricChoice("number_comma", f"{found}, read with a decimal comma")
            return MetricChoice("number", f"{found}, read with a decimal point")
        length = f"of {count} the median has {amount(self.words, 'word')}, and 10% have more than {self.many_words:,}"
        # Short enough that a right answer can be expected to equal its reference.
        is_short = self.words <= SHORT_WORDS and self.many_words <= SHORT_TAIL_WORDS
        return MetricChoice("exact_match" if is_short else "open", length)


def decide_metric(evaluation: Evaluation, train: TokenizedRows) -> tuple[MetricChoice, list[Notice]]:
    """The metric of a run, and a warning if the user set one that cannot work on the training answers."""
    profile = AnswerProfile.of(train, evaluation.reasoning_tags)
    if evaluation.metric != AUTO.name:
        notice = unfit_warning(evaluation.metric, profile)
        return MetricChoice(evaluation.metric, ""), [notice] if notice else []
    chosen = profile.choose()
    if chosen.metric == "choice" and evaluation.generated_only:
        return MetricChoice("exact_match", f"{chosen.reason}, and rungs that are not trained generate theirs"), []
    if chosen.metric == "choice" and evaluation.when != "never":
        try:
            Choices.of(train)
        except UserError as error:  # labels that max_length truncates, or a long tail of rare ones
            chosen = MetricChoice("exact_match", f"{chosen.reason}, but {error.problem}")
    return chosen, []


def unfit_warning(metric: str, profile: AnswerProfile) -> Notice | None:
    """The warning about a metric that would score every model 0, or all alike."""
    chosen = profile.choose()
    if not profile.answers or metric == chosen.metric:
        return None
    why = ""
    if metric in ("exact_match", "contains") and profile.objects >= FORMAT_SHARE:
        why = (
            f"{share_percent(profile.objects)} of the training answers are JSON objects, whose keys may be in any order"
        )
    elif metric in ("exact_match", "contains") and profile.words >= UNMATCHABLE_WORDS:
        does = "contains" if metric == "contains" else "equals"
        why = f"the median training answer has {profile.words:,} words: a right answer hardly ever {does} the reference"
    elif metric_spec(metric).picks_from_choices and not profile.are_labels:
        answers = amount(profile.answers, "training answer")
        why = f"{profile.distinct:,} of {answers} are distinct, and a model can choose only among them"
    elif metric == "tool_calls" and not profile.calls:
        why = "no training row has a tool call"
    elif metric == "json" and not profile.objects:
        why = "no training answer is a JSON object"
    elif metric in ("number", "number_comma") and profile.numbers.share >= FORMAT_SHARE:
        why = chosen.reason
    if not why:
        return None
    fits = f"--set evaluation.metric={chosen.metric} fits these answers"
    return Notice("evaluation.unfit_metric", f"the metric {metric} says little here: {why}; {fits}")


def _words(text: str) -> int:
    return round(len(_WORD.findall(text[:_COUNTED])) * max(len(text), _COUNTED) / _COUNTED)


def refuse_rows(config: Config, rows: Preparation) -> None:
    """Raise UserError if a run with this configuration cannot train on these rows or cannot score them."""
    if refusal := preflight(config.model, config.train.max_length, config.evaluation, rows.rows):
        raise refusal


def preflight(model: Model, max_length: int, evaluation: Evaluation, rows: dict[str, Any]) -> UserError | None:
    """The first error of rows (split -> sequence of Row) that cannot be trained on or scored, else None: a model that
    no method can train, rows longer than it supports, the metric `choice` with too many or too few distinct answers,
    generation from an empty prompt.
    """
    longest = max((int(lengths_of(split).max(initial=0)) for split in rows.values()), default=0)
    model_config, metric = config_of(model), metric_spec(evaluation.metric)
    positions = maximum_positions(model_config)
    try:
        check_trainable(model_config.to_dict(), model.id)
    except UserError as error:
        return error
    if positions and longest > positions:
        problem = f"rows of {longest:,} tokens exceed the model's {positions:,} positions"
        hint = f"--set train.max_length={positions} (it is {max_length})"
        return UserError(problem, "train.max_length", hint, "data.longer_than_model")
    try:
        if metric.picks_from_choices and len(rows["test"]):
            Choices.of(rows["train"])
        if metric.needs_answers and evaluation.when != "never":
            check_prompts(rows["test"])
    except UserError as error:
        return error
    return None


def check_prepared(model: Model, max_length: int, evaluation: Evaluation, done: Preparation) -> PreflightResult:
    """The metric of a run with these rows, the first error (`preflight`), and the run's warnings about them."""
    chosen, notices = decide_metric(evaluation, done.rows["train"])
    evaluation = replace(evaluation, metric=chosen.metric)
    items = [] if evaluation.when == "never" else evaluation_items(done.rows["test"], done.references)
    if notice := unscorable_warning(evaluation.metric, sampled(items, evaluation.rows), evaluation.reasoning_tags):
        notices.append(notice)
    refusal = preflight(model, max_length, evaluation, done.rows)
    return PreflightResult(refusal, notices, chosen.metric, chosen.reason)


def check_prompts(rows: Sequence[Row]) -> None:
    """Raise UserError for a row with an empty prompt, from which nothing can be generated."""
    for row in rows:
        if not row.prompt:
            problem = "test row without a prompt, and this tokenizer adds no beginning-of-text token"
            hint = "--set evaluation.metric=loss, or data.separator"
            raise UserError(problem, row.where, hint, "data.empty_prompt")


def unscorable_warning(
    metric: str, items: Sequence[EvaluationItem], tags: Sequence[str] = REASONING_TAGS
) -> Notice | None:
    """The warning about test items of which no accepted answer has the format that the metric reads; None without any.

    Some metrics score these items otherwise: `json` by exact match.
    """
    unscorable = [
        item for item in items if all(is_formatted(metric, answer, tags) is False for answer in item.references)
    ]
    if not unscorable:
        return None
    first = f"first: {unscorable[0].target!r}, {unscorable[0].row.where}"
    text = f"{len(unscorable)} of {len(items)} test items have no answer in the format of the metric {metric}"
    correct = [best_score(metric, item.references[0], item.references, tags)[metric] for item in unscorable]
    effect = "every answer to them is a format error, even if it is scored as correct"
    return Notice(
        "data.unscorable_answers", f"{text}: {effect if any(correct) else 'every model scores 0 on them'} ({first})"
    )
