"""Evaluation items: the held-out rows of one prompt, answered once and scored against all references.

With examples in the prompt, complete training rows come before it, as earlier turns of the conversation.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.config.errors import UserError
from engine.config.schema import Data
from engine.data.duplicates import normalized
from engine.data.rows import IGNORE_INDEX, Example, Row

EARLIER = " answer "
"""In the place of an earlier answer of a conversation: `chat.jsonl line 7 answer 1`."""
FINAL_VALIDATION_ROWS = 512
"""Maximum number of validation rows for the final loss: some datasets have ten thousand."""


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
        last = [answer for row in same_prompt if (answer := _last_answer(row))] if before else same_prompt
        items += [_item(last)] if last else []
    return items


def _last_answer(row: Row) -> Row | None:
    """The row with only its last answer in the loss; None if no token of it is left after truncation."""
    start = len(row.prompt)
    labels = [IGNORE_INDEX] * min(start, len(row.labels)) + row.labels[start:]
    return replace(row, labels=labels) if any(label != IGNORE_INDEX for label in labels) else None


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
    from engine.data.examples import examples_of

    wanted = {*examples, *(line["where"].partition(EARLIER)[0] for line in lines)}
    by_place: dict[str, Example] = {}
    for example in examples_of(data):
        if example.where in wanted:
            by_place |= {part.where: part for part in (*earlier_answers(example), example)}
    if lost := next((where for where in examples if where not in by_place), ""):
        raise _changed(data, lost)
    before = [message for where in examples for message in _whole(by_place[where])]
    conversations = []
    for line in lines:
        asked = by_place.get(line["where"])
        messages = _prompt_before(asked, line["target"]) if asked else None
        if asked is None or messages is None:
            raise _changed(data, line["where"])
        start = 1 if before and messages[0]["role"] == "system" else 0
        conversations.append(([*messages[:start], *before, *messages[start:]], asked.tools))
    return conversations


def _changed(data: Data, where: str) -> UserError:
    problem, hint = "the rows differ from those of the runs", "restore the data"
    return UserError(problem, f"{data.id}: {where}", hint, "ladder.items_changed")


def _whole(example: Example) -> list[dict[str, Any]]:
    """A conversation with its answers, without a system prompt."""
    if example.messages is None:
        asked, answered = example.prompt or "", example.completion or ""
        return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return [{**message} for message in example.messages if message["role"] != "system"]


def _prompt_before(example: Example, target: str) -> list[dict[str, Any]] | None:
    """The messages before the last answer; None if the target is another answer.

    A chat template writes more into a target than its text, such as reasoning and tool calls.
    """
    if example.messages is None:
        same = normalized(example.completion or "") == normalized(target)
        return [{"role": "user", "content": example.prompt or ""}] if same else None
    text = normalized(str(example.messages[-1].get("content") or ""))
    return [dict(earlier) for earlier in example.messages[:-1]] if text in normalized(target) else None


def reference_examples(example: Example) -> list[Example]:
    """A copy of the example for each further accepted answer, to be tokenized for the loss."""
    return [_with_answer(example, text) for text in example.references if text.strip()]


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


def _with_answer(example: Example, text: str) -> Example:
    messages = example.messages
    if messages is not None:
        messages = [*messages[:-1], {"role": messages[-1]["role"], "content": text}]
    return replace(example, messages=messages, completion=text, references=())


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
    examples = few_shot_rows(items, train, shots, new_tokens, positions)
    prefix = [token for number, row in enumerate(examples) for token in _without_bos(row.input_ids, bos, number > 0)]
    return [replace(item, rows=tuple(_with_prefix(row, prefix, bos) for row in item.rows)) for item in items]


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
