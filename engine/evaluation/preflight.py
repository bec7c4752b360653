"""What a run refuses about prepared rows before it loads the model; the data check and the ladder refuse the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.config.errors import UserError
from engine.config.metric_specs import metric_spec
from engine.config.schema import Config, Evaluation, Model
from engine.data.prepare import Prepared
from engine.data.tokenized import lengths_of
from engine.data.tokens import Row
from engine.evaluation.choices import Choices
from engine.methods.model_config import config_of, maximum_positions


def refuse_rows(config: Config, rows: Prepared) -> None:
    """Raise UserError where a run of this configuration cannot train on these rows, or cannot score them."""
    splits = {"train": rows.train, "validation": rows.validation, "test": rows.test}
    if refusal := preflight(config.model, config.train.max_length, config.evaluation, splits):
        raise refusal


def preflight(model: Model, max_length: int, evaluation: Evaluation, rows: dict[str, Any]) -> UserError | None:
    """The first reason why these rows (split -> sequence of Row) cannot be trained on or scored, else None."""
    longest = max((int(lengths_of(split).max(initial=0)) for split in rows.values()), default=0)
    return too_long(longest, maximum_positions(config_of(model)), max_length) or not_scorable(
        evaluation, rows["train"], rows["test"]
    )


def too_long(longest: int, positions: int | None, max_length: int) -> UserError | None:
    """The error where a row of `longest` tokens has more of them than the model has positions."""
    if not positions or longest <= positions:
        return None
    what = f"rows of {longest:,} tokens, and the model supports {positions:,} positions"
    do = f"set train.max_length = {positions} (it is {max_length})"
    return UserError(what, "train.max_length", do, "data.longer_than_model")


def not_scorable(evaluation: Evaluation, train: Sequence[Row], test: Sequence[Row]) -> UserError | None:
    """The error where the metric has no meaning for these rows: `choice` among too many or too few distinct answers,
    an answer to be generated to an empty prompt.
    """
    try:
        if metric_spec(evaluation.metric).picks_from_choices and len(test):
            Choices.of(train)
        if metric_spec(evaluation.metric).needs_answers and evaluation.when != "never":
            check_prompts(test)
    except UserError as error:
        return error
    return None


def check_prompts(rows: Sequence[Row]) -> None:
    """Raise UserError for a row without a prompt: there is nothing to answer."""
    for row in rows:
        if not row.prompt:
            what = "the test row has no prompt to answer, and this tokenizer adds no beginning-of-text token"
            do = 'set evaluation.metric = "loss", or data.separator'
            raise UserError(what, row.where, do, "data.empty_prompt")
