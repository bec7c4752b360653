"""Further answers of test rows as rows of their own: other accepted answers, and earlier answers of conversations.

Which of them are items or references of items, and which rows depend on each other because of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.config.errors import Notice
from engine.config.quantities import share_percent
from engine.config.text import amount
from engine.data.duplicates import KeyTable, keys_of
from engine.data.items import earlier_answers
from engine.data.rows import IGNORE_INDEX, Example, Problem, Row
from engine.data.split import TEST, TRAIN, Assignment


@dataclass(frozen=True)
class FurtherAnswers:
    """Answers of test rows that are not rows of the data."""

    rows: list[Row]
    """One per answer, with its item. `group` of an earlier answer is its conversation's item, else ''."""
    same_earlier_prompt: list[tuple[int, int]]
    """Items of the last answers of test conversations that have an earlier prompt in common."""

    @property
    def conversations(self) -> list[int]:
        """For each row, the item of the conversation that it is a part of; -1 for an accepted answer."""
        return [int(row.group or -1) for row in self.rows]


def further_answers(
    further: list[tuple[Example, int]],
    keys: KeyTable,
    assignment: Assignment,
    tokenize: Callable[[list[Example]], list[Row | Problem]],
) -> FurtherAnswers:
    """Tokenize further accepted answers, and the earlier answers of conversations, as items of their own.

    `further`: an example for each further accepted answer, and complete conversations, with the test row's item.
    Accepted answers that cannot be tokenized are used by text metrics only. An earlier answer is an item if it is
    in the loss of the complete conversation: some templates rewrite earlier turns. One whose prompt is also in
    training is left out; one whose prompt is that of an item is a reference of this item. Conversations with the
    same last prompt have the same earlier answers.
    """
    whole = {item: example for example, item in reversed(further) if earlier_answers(example)}
    accepted = [(example, item) for example, item in further if not earlier_answers(example)]
    before, same_earlier_prompt = _unseen_earlier_answers(whole, keys, assignment)
    examples = [example for example, _ in (*accepted, *before)] + list(whole.values())
    if not examples:
        return FurtherAnswers([], [])
    tokenized = tokenize(examples)
    conversations = dict(zip(whole, tokenized[len(accepted) + len(before) :], strict=True))
    rows = [
        dataclasses.replace(row, item=item)
        for row, (_, item) in zip(tokenized, accepted, strict=False)
        if isinstance(row, Row)
    ]
    test = assignment.rows(TEST)
    item_of = dict(zip(map(bytes, keys.prompts[test]), assignment.items[test].tolist(), strict=True))
    number = int(assignment.items.max(initial=-1))
    for row, (example, item) in zip(tokenized[len(accepted) :], before, strict=False):
        conversation = conversations[item]
        if isinstance(row, Row) and isinstance(conversation, Row) and _is_trained(row, conversation):
            same_prompt = item_of.setdefault(keys_of(example).prompt, number + 1)
            number = max(number, same_prompt)
            rows.append(dataclasses.replace(row, item=same_prompt, group=str(item)))
    return FurtherAnswers(rows, same_earlier_prompt)


def _unseen_earlier_answers(
    whole: dict[int, Example], keys: KeyTable, assignment: Assignment
) -> tuple[list[tuple[Example, int]], list[tuple[int, int]]]:
    """The earlier answers of test conversations whose prompts are not in training, with the conversation's item; and
    pairs of items of conversations that have such a prompt in common.
    """
    trained: set[bytes] = set()
    if whole:
        trained = {*_answered_early_in_training(keys, assignment), *map(bytes, keys.prompts[assignment.rows(TRAIN)])}
    unseen: list[tuple[Example, int]] = []
    same_earlier_prompt: list[tuple[int, int]] = []
    seen_in: dict[bytes, int] = {}
    left_out = 0
    for item, example in sorted(whole.items()):
        for earlier in earlier_answers(example):
            prompt = keys_of(earlier).prompt
            if prompt in trained:
                left_out += 1
                continue
            unseen.append((earlier, item))
            same_earlier_prompt.append((seen_in.setdefault(prompt, item), item))
    if left_out:
        text = f"test: {amount(left_out, 'earlier answer')} left out, because the prompt is also in training"
        assignment.about.append(text)
    return unseen, same_earlier_prompt


def warn_of_earlier_prompts(keys: KeyTable, assignment: Assignment) -> None:
    """Warn of rows of a given test split whose prompt a training conversation answers before its last turn.

    Test rows that were held out of training are in one split with such conversations.
    """
    answered = _answered_early_in_training(keys, assignment)
    tested = keys.prompts[assignment.rows(TEST)]
    if seen := sum(bytes(prompt) in answered for prompt in tested):
        text = (
            f"{seen:,} of {len(tested):,} test rows ({share_percent(seen / len(tested))}) have a prompt that a "
            "training conversation answers before its last turn: their scores measure memorization; a given test "
            "split is never changed"
        )
        assignment.warnings.append(Notice("data.test_overlaps_earlier", text))


def _answered_early_in_training(keys: KeyTable, assignment: Assignment) -> set[bytes]:
    """Digests of the prompts that training conversations answer before their last turn."""
    return set(map(bytes, keys.earlier[assignment.codes[keys.earlier_rows] == TRAIN]))


def number_groups(items: np.ndarray, keyed: np.ndarray, assignment: Assignment, further: FurtherAnswers) -> np.ndarray:
    """(N,) group of dependent rows of each stored row, -1 for a row alone: rows that stay together in a split for more
    than their prompt, a conversation with its earlier answers, and conversations that begin with the same answered
    prompt.

    `items`: (N,) item of each row of the data, then of each of `further`. `keyed`: the rows with keys.
    """
    parents = further.conversations
    read = len(items) - len(parents)
    group = np.where(np.isin(items, [parent for parent in parents if parent >= 0]), items, -1)
    together = assignment.groups
    chosen = assignment.has_column | np.isin(together, together[together != assignment.items])
    group[keyed[chosen]] = together[chosen]
    of_item = dict(zip(items[:read].tolist(), group[:read].tolist(), strict=True))
    group[read:] = [of_item.get(parent, -1) for parent in parents]
    joined: dict[int, int] = {}

    def lowest(number: int) -> int:
        while number in joined:
            number = joined[number]
        return number

    for pair in further.same_earlier_prompt:
        first, second = sorted(lowest(of_item[item]) for item in pair)
        if first != second:
            joined[second] = first
    for number in joined:
        group[group == number] = lowest(number)
    return group


def _is_trained(answer: Row, conversation: Row) -> bool:
    """Whether an earlier answer is in the loss of the complete conversation."""
    start = len(answer.prompt)
    return conversation.input_ids[:start] == answer.prompt and conversation.labels[start : start + 1] != [IGNORE_INDEX]
