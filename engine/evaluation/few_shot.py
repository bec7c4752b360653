"""Test items with examples in the prompt: complete training rows before it, as earlier turns of the conversation."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from engine.config.errors import UserError
from engine.data.items import EvaluationItem
from engine.data.rows import IGNORE_INDEX, Row

CANDIDATES = 2000
"""Training rows among which examples are chosen; a large dataset has enough short rows among them."""


def few_shot_items(
    items: Sequence[EvaluationItem],
    train: Sequence[Row],
    shots: int,
    bos: int | None,
    new_tokens: int,
    positions: int | None,
) -> list[EvaluationItem]:
    """The items with the same `shots` training rows before each prompt, chosen at random with a fixed seed.

    Each example is a row with its end token. A leading `bos` token occurs once. `positions` is the model's maximum.
    Raises UserError if so many examples do not fit.
    """
    longest = max((len(row.input_ids) for item in items for row in item.rows), default=0)
    room = None if positions is None else positions - longest - new_tokens
    examples = _choose(train, shots, room)
    prefix = [token for number, row in enumerate(examples) for token in _without_bos(row.input_ids, bos, number > 0)]
    return [replace(item, rows=tuple(_with_prefix(row, prefix, bos) for row in item.rows)) for item in items]


def _choose(train: Sequence[Row], shots: int, room: int | None) -> list[Row]:
    """Random rows that are complete and together have at most `room` tokens."""
    order = random.Random(0).sample(range(len(train)), min(len(train), CANDIDATES))
    chosen: list[Row] = []
    for number in order:
        row = train[number]
        used = sum(len(one.input_ids) for one in chosen)
        share = None if room is None else (room - used) / (shots - len(chosen))
        if not row.cut and (share is None or len(row.input_ids) <= share):
            chosen.append(row)
        if len(chosen) == shots:
            return chosen
    what = f"{shots} examples do not fit in the prompt" if len(train) >= shots else f"fewer than {shots} training rows"
    raise UserError(what, "evaluation.base_shots", "use fewer examples", code="evaluation.shots_do_not_fit")


def _without_bos(tokens: Sequence[int], bos: int | None, strip: bool) -> list[int]:
    return list(tokens[1:] if strip and tokens and bos is not None and tokens[0] == bos else tokens)


def _with_prefix(row: Row, prefix: Sequence[int], bos: int | None) -> Row:
    stripped = len(row.input_ids) - len(_without_bos(row.input_ids, bos, True))
    ids, labels = row.input_ids[stripped:], row.labels[stripped:]
    weights = row.weights
    return replace(
        row,
        input_ids=[*prefix, *ids],
        labels=[*[IGNORE_INDEX] * len(prefix), *labels],
        prompt=[*prefix, *_without_bos(row.prompt, bos, True)],
        weights=None if weights is None else [*[0.0] * len(prefix), *weights[stripped:]],
    )
