"""Evaluation items: the held-out rows of one prompt, answered once and scored against all references.

Further answers of test rows become rows of their own: other accepted answers, and earlier answers of conversations.
With examples in the prompt, complete training rows come before it, as earlier turns of the conversation.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.config.errors import Notice, UserError
from engine.config.quantities import share_percent
from engine.config.schema import Data
from engine.config.text import amount
from engine.data.duplicates import KeyTable, keys_of, normalized
from engine.data.rows import IGNORE_INDEX, Example, Problem, Row
from engine.data.split import TEST, TRAIN, Assignment

EARLIER = " answer "
"""In the place of an earlier answer of a conversation: `chat.jsonl line 7 answer 1`."""
FINAL_VALIDATION_ROWS = 512
"""Maximum number of validation rows for the final loss: some datasets have ten thousand."""
CANDIDATES = 2000
"""Training rows among which examples are chosen; a large dataset has enough short rows among them."""


@dataclass(frozen=True, slots=True)
class EvaluationItem:
    """One prompt with its accepted answers: the unit of every statistic over held-out rows."""

    rows: tuple[Row, ...]
    """One row per distinct answer, in reading order; the loss is the mean over them. The first row has the prompt."""
    references: tuple[str, ...]
    """The distinct accepted answers, the first row's target first. Text metrics use the best score over them."""

    @property
    def row(self) -> Row:
        return self.rows[0]

    @property
    def group(self) -> str:
        """Key of items that depend on each other; '' for an item alone."""
        return self.row.group

    @property
    def target(self) -> str:
        return self.references[0]


def evaluation_items(rows: Sequence[Row], further: Sequence[Row] = ()) -> list[EvaluationItem]:
    """Group rows by item number, in order of each item's first row. A row without a number is a separate item.

    `further`: rows that are not rows of the data, for references (`reference_examples`) and for the earlier answers of
    conversations (`earlier_answers`): answers of the item that has their prompt, else items before that of the last
    answer of the first conversation.
    """
    by_item: dict[object, list[Row]] = {}
    for number, row in enumerate(rows):
        by_item.setdefault(row.item if row.item >= 0 else ("alone", number), []).append(row)
    earlier: dict[str, dict[int, list[Row]]] = {}
    first: dict[int, dict[int, list[Row]]] = {}
    for row in further:
        own = earlier.setdefault(row.where.rpartition(EARLIER)[0], {}) if EARLIER in row.where else {}
        if row.item in by_item:
            by_item[row.item].append(row)
        else:
            first.setdefault(row.item, own).setdefault(row.item, []).append(row)
    items: list[EvaluationItem] = []
    for same_prompt in by_item.values():
        before = [earlier[row.where] for row in same_prompt if row.where in earlier]
        items += [_item(answers) for parts in before for answers in parts.values()]
        last = same_prompt
        if before:  # only the last answer of each row is in the loss; rows in which it was cut off are left out
            last = []
            for row in same_prompt:
                start = len(row.prompt)
                labels = [IGNORE_INDEX] * min(start, len(row.labels)) + row.labels[start:]
                if any(label != IGNORE_INDEX for label in labels):
                    last.append(replace(row, labels=labels))
        items += [_item(last)] if last else []
    return items


def _item(rows: list[Row]) -> EvaluationItem:
    by_answer: dict[str, Row] = {}
    for row in rows:
        by_answer.setdefault(normalized(row.target), row)
    texts = [row.target for row in by_answer.values()] + [text for row in rows for text in row.references]
    references = {normalized(text): text for text in reversed(texts)}
    ordered = dict.fromkeys(normalized(text) for text in texts)
    return EvaluationItem(tuple(by_answer.values()), tuple(references[key] for key in ordered))


def conversations_of(
    data: Data, lines: Sequence[dict[str, Any]], examples: Sequence[str] = ()
) -> list[tuple[list[dict[str, Any]], list[Any] | None]]:
    """(messages, tools) of the prompt of each line of `predictions.jsonl`, from the rows of the data.

    A prompt of plain text is one message of the user. `examples`: places of training rows whose conversations are
    earlier turns, without their system prompts. Raises UserError if a row is missing or has another answer.
    """
    from engine.data.detection import examples_of  # reads files, which scoring does not

    wanted = {*examples, *(line["where"].partition(EARLIER)[0] for line in lines)}
    by_place: dict[str, Example] = {}
    for example in examples_of(data):
        if example.where in wanted:
            by_place |= {part.where: part for part in (*earlier_answers(example), example)}

    def turns(example: Example) -> list[dict[str, Any]]:
        if example.messages is not None:
            return [dict(message) for message in example.messages]
        asked, answered = example.prompt or "", example.completion or ""
        return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]

    problem, hint = "the rows differ from those of the runs", "restore the data"
    if lost := next((where for where in examples if where not in by_place), ""):
        raise UserError(problem, f"{data.id}: {lost}", hint, "ladder.items_changed")
    before = [turn for where in examples for turn in turns(by_place[where]) if turn["role"] != "system"]
    conversations = []
    for line in lines:
        asked = by_place.get(line["where"])
        changed = UserError(problem, f"{data.id}: {line['where']}", hint, "ladder.items_changed")
        if asked is None:
            raise changed
        *messages, answer = turns(asked)
        text, target = normalized(str(answer.get("content") or "")), normalized(line["target"])
        # A chat template writes more into a target than its text, such as reasoning and tool calls.
        if text not in target if asked.messages is not None else text != target:
            raise changed
        start = 1 if before and messages[0]["role"] == "system" else 0
        conversations.append(([*messages[:start], *before, *messages[start:]], asked.tools))
    return conversations


def reference_examples(example: Example) -> list[Example]:
    """A copy of the example for each further accepted answer, to be tokenized for the loss."""
    copies = []
    for text in filter(str.strip, example.references):
        messages = example.messages
        if messages is not None:
            messages = [*messages[:-1], {"role": messages[-1]["role"], "content": text}]
        copies.append(replace(example, messages=messages, completion=text, references=()))
    return copies


def earlier_answers(example: Example) -> list[Example]:
    """The conversation up to each answer in the loss before the last one, with only that answer in the loss."""
    messages = example.conversation
    answers = [number for number, turn in enumerate(messages) if turn["role"] == "assistant"]
    return [
        replace(
            example,
            messages=messages[: last + 1],
            weights={number: 0.0 if number < last else example.weight(last) for number in answers if number <= last},
            where=f"{example.where}{EARLIER}{count}",
            prompt=None,
            completion=None,
            references=(),
        )
        for count, last in enumerate(example.trained[:-1], 1)
    ]


@dataclass(frozen=True)
class FurtherAnswers:
    """Answers of test rows that are not rows of the data."""

    rows: list[Row]
    """One per answer, with its item. `group` of an earlier answer is its conversation's item, else ''."""
    same_earlier_prompt: list[tuple[int, int]]
    """Items of the last answers of test conversations that have an earlier prompt in common."""


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

    # The earlier answers whose prompts are not in training, and conversations that have such a prompt in common.
    trained: set[bytes] = set()
    if whole:
        trained = {*_answered_early_in_training(keys, assignment), *map(bytes, keys.prompts[assignment.rows(TRAIN)])}
    before: list[tuple[Example, int]] = []
    same_earlier_prompt: list[tuple[int, int]] = []
    seen_in: dict[bytes, int] = {}
    left_out = 0
    for item, example in sorted(whole.items()):
        for earlier in earlier_answers(example):
            prompt = keys_of(earlier).prompt
            if prompt in trained:
                left_out += 1
                continue
            before.append((earlier, item))
            same_earlier_prompt.append((seen_in.setdefault(prompt, item), item))
    if left_out:
        text = f"test: {amount(left_out, 'earlier answer')} left out, because the prompt is also in training"
        assignment.about.append(text)

    examples = [example for example, _ in (*accepted, *before)] + list(whole.values())
    if not examples:
        return FurtherAnswers([], [])
    tokenized = tokenize(examples)
    conversations = dict(zip(whole, tokenized[len(accepted) + len(before) :], strict=True))
    rows = [
        replace(row, item=item) for row, (_, item) in zip(tokenized, accepted, strict=False) if isinstance(row, Row)
    ]
    test = assignment.rows(TEST)
    item_of = dict(zip(map(bytes, keys.prompts[test]), assignment.items[test].tolist(), strict=True))
    number = int(assignment.items.max(initial=-1))
    for row, (example, item) in zip(tokenized[len(accepted) :], before, strict=False):
        conversation = conversations[item]
        if not isinstance(row, Row) or not isinstance(conversation, Row):
            continue
        start = len(row.prompt)
        is_trained = conversation.labels[start : start + 1] != [IGNORE_INDEX]
        if is_trained and conversation.input_ids[:start] == row.prompt:
            same_prompt = item_of.setdefault(keys_of(example).prompt, number + 1)
            number = max(number, same_prompt)
            rows.append(replace(row, item=same_prompt, group=str(item)))
    return FurtherAnswers(rows, same_earlier_prompt)


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
    parents = [int(row.group or -1) for row in further.rows]  # -1 for an accepted answer
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


def items_fingerprint(items: Sequence[EvaluationItem]) -> str:
    """SHA-256 over the prompts and accepted answers of the test items, in order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr((item.row.prompt, item.target)).encode())
        if item.references[1:]:
            digest.update(repr(item.references[1:]).encode())
    return digest.hexdigest()


def sampled(items: Sequence[EvaluationItem], max_items: int | None) -> list[EvaluationItem]:
    """At most `max_items` items, selected by content hash, in their original order."""
    if max_items is None or len(items) <= max_items:
        return list(items)
    return [items[number] for number in sorted(_ranked(items)[:max_items])]


def sampled_by_rows(items: Sequence[EvaluationItem], max_rows: int) -> list[EvaluationItem]:
    """Items with at most `max_rows` rows in total, but at least one item; selected by content hash, in order."""
    chosen: list[int] = []
    for number in _ranked(items):
        max_rows -= len(items[number].rows)
        if max_rows < 0 and chosen:
            break
        chosen.append(number)
    return [items[number] for number in sorted(chosen)]


def all_rows(items: Iterable[EvaluationItem]) -> list[Row]:
    """The rows of all items, in order."""
    return [row for item in items for row in item.rows]


def _ranked(items: Sequence[EvaluationItem]) -> list[int]:
    """Item indices in order of a content hash, which does not depend on the order of rows."""

    def key(number: int) -> bytes:
        return min(hashlib.sha256(repr(row.input_ids).encode()).digest() for row in items[number].rows)

    return sorted(range(len(items)), key=key)


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
    examples = few_shot_rows(items, train, shots, new_tokens, positions)
    prefix = [token for number, row in enumerate(examples) for token in _without_bos(row.input_ids, bos, number > 0)]

    def prefixed(row: Row) -> Row:
        stripped = len(row.input_ids) - len(_without_bos(row.input_ids, bos, True))
        weights = row.weights
        return replace(
            row,
            input_ids=[*prefix, *row.input_ids[stripped:]],
            labels=[*[IGNORE_INDEX] * len(prefix), *row.labels[stripped:]],
            prompt=[*prefix, *_without_bos(row.prompt, bos, True)],
            weights=None if weights is None else [*[0.0] * len(prefix), *weights[stripped:]],
        )

    return [replace(item, rows=tuple(map(prefixed, item.rows))) for item in items]


def few_shot_rows(
    items: Sequence[EvaluationItem], train: Sequence[Row], shots: int, new_tokens: int, positions: int | None
) -> list[Row]:
    """The training rows before each prompt of `few_shot_items`: random ones that are complete and fit together.

    Raises UserError if so many do not fit.
    """
    longest = max((len(row.input_ids) for item in items for row in item.rows), default=0)
    room = float("inf") if positions is None else positions - longest - new_tokens
    chosen: list[Row] = []
    for number in random.Random(0).sample(range(len(train)), min(len(train), CANDIDATES)):
        row = train[number]
        if not row.cut and len(row.input_ids) <= room / (shots - len(chosen)):
            chosen.append(row)
            room -= len(row.input_ids)
        if len(chosen) == shots:
            return chosen
    problem = (
        f"{shots} examples do not fit in the prompt" if len(train) >= shots else f"fewer than {shots} training rows"
    )
    raise UserError(problem, "evaluation.base_shots", "use fewer examples", code="evaluation.shots_do_not_fit")


def _without_bos(tokens: Sequence[int], bos: int | None, strip: bool) -> list[int]:
    return list(tokens[1:] if strip and tokens and bos is not None and tokens[0] == bos else tokens)
