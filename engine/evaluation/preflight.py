"""Refuse prepared rows before the model is loaded; the same checks for runs, ladders and the data check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from engine.config.errors import Notice, UserError
from engine.config.metric_specs import metric_spec
from engine.config.schema import Config, Evaluation, Model
from engine.data.chat_template import REASONING_TAGS
from engine.data.check import PreflightResult
from engine.data.items import EvaluationItem, evaluation_items, sampled
from engine.data.prepared import Preparation, Prepared, lengths_of
from engine.data.rows import Row
from engine.evaluation.automatic_metric import decide_metric
from engine.evaluation.metrics import Choices, best_score, is_formatted
from engine.methods.model_source import config_of, maximum_positions


def refuse_rows(config: Config, rows: Prepared) -> None:
    """Raise UserError if a run with this configuration cannot train on these rows or cannot score them."""
    splits = {"train": rows.train, "validation": rows.validation, "test": rows.test}
    if refusal := preflight(config.model, config.train.max_length, config.evaluation, splits):
        raise refusal


def preflight(model: Model, max_length: int, evaluation: Evaluation, rows: dict[str, Any]) -> UserError | None:
    """The first error of rows (split -> sequence of Row) that cannot be trained on or scored, else None: rows longer
    than the model supports, the metric `choice` with too many or too few distinct answers, generation from an empty
    prompt.
    """
    longest = max((int(lengths_of(split).max(initial=0)) for split in rows.values()), default=0)
    positions, metric = maximum_positions(config_of(model)), metric_spec(evaluation.metric)
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
