"""Evaluation items: the held-out rows of one prompt, asked once and scored against all their answers."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.data.conversation import Example
from engine.data.keys import normalized
from engine.data.tokens import Row


@dataclass(frozen=True, slots=True)
class EvaluationItem:
    """One prompt with its accepted answers: the unit of every statistic over held-out rows."""

    rows: tuple[Row, ...]
    """One for each distinct answer, in reading order; the loss is the mean over them. The first's prompt is asked."""
    references: tuple[str, ...]
    """The distinct accepted answers, the first row's target first. Text metrics take the best of them."""

    @property
    def row(self) -> Row:
        return self.rows[0]

    @property
    def target(self) -> str:
        return self.references[0]


def evaluation_items(rows: Sequence[Row], further: Sequence[Row] = ()) -> list[EvaluationItem]:
    """Group rows by their item number, in the order of each item's first row. Rows without one are items of their own.

    `further` are rows of references that are no rows of the data (`reference_examples`).
    """
    groups: dict[object, list[Row]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row.item if row.item >= 0 else ("alone", number), []).append(row)
    for row in further:
        groups[row.item].append(row)
    return [_item(group) for group in groups.values()]


def _item(rows: list[Row]) -> EvaluationItem:
    by_answer: dict[str, Row] = {}
    for row in rows:
        by_answer.setdefault(normalized(row.target), row)
    texts = [row.target for row in by_answer.values()] + [text for row in rows for text in row.references]
    references = {normalized(text): text for text in reversed(texts)}
    ordered = dict.fromkeys(normalized(text) for text in texts)
    return EvaluationItem(tuple(by_answer.values()), tuple(references[key] for key in ordered))


def reference_examples(example: Example) -> list[Example]:
    """The example once more for each of its other accepted answers, to be tokenized for the loss."""
    return [_with_answer(example, text) for text in example.references if text.strip()]


def _with_answer(example: Example, text: str) -> Example:
    messages = example.messages
    if messages is not None:
        messages = [*messages[:-1], {"role": messages[-1]["role"], "content": text}]
    return dataclasses.replace(example, messages=messages, completion=text, references=())


def sampled(items: Sequence[EvaluationItem], most: int | None) -> list[EvaluationItem]:
    """At most `most` items, chosen by content and not by place, in their order."""
    if most is None or len(items) <= most:
        return list(items)
    return [items[number] for number in sorted(_ranked(items)[:most])]


def sampled_rows(items: Sequence[EvaluationItem], most: int) -> list[EvaluationItem]:
    """Items of at most `most` rows together, but one at least; chosen by content, in their order."""
    chosen: list[int] = []
    for number in _ranked(items):
        most -= len(items[number].rows)
        if most < 0 and chosen:
            break
        chosen.append(number)
    return [items[number] for number in sorted(chosen)]


def all_rows(items: Iterable[EvaluationItem]) -> list[Row]:
    """The rows of all items, one after another."""
    return [row for item in items for row in item.rows]


def _ranked(items: Sequence[EvaluationItem]) -> list[int]:
    """Item numbers in the order of a hash of their content, whatever the order of their rows."""

    def key(number: int) -> bytes:
        return min(hashlib.sha256(repr(row.input_ids).encode()).digest() for row in items[number].rows)

    return sorted(range(len(items)), key=key)
