"""Convert rows that are not flat objects: lists of messages, [prompt, answer] pairs, SQuAD's nested paragraphs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.data.row_limits import RawRow, row

NESTED = "paragraphs"
"""The key under which SQuAD nests passages with their questions."""


def rows_of(value: Any, where: str) -> Iterator[RawRow]:
    """The rows of one value in a file: a single row, or one per question of a nested article.

    Raises UserError for other values.
    """
    if isinstance(value, dict) and isinstance(value.get(NESTED), list):
        yield from _questions(value, where)
    elif isinstance(value, list) and value:
        yield row(_from_list(value), where)
    else:
        yield row(value, where)


def is_turn(value: Any) -> bool:
    """Whether a value is one message of a conversation."""
    return isinstance(value, dict) and ("role" in value or "from" in value)


def _from_list(items: list[Any]) -> Any:
    if all(is_turn(item) for item in items):
        return {"messages": items}
    if len(items) == 2 and all(isinstance(item, str) for item in items):
        return {"prompt": items[0], "completion": items[1]}
    return items


def _questions(article: dict[str, Any], where: str) -> Iterator[RawRow]:
    """SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250): article -> paragraphs -> qas."""
    outer = {key: value for key, value in article.items() if key != NESTED}
    number = 0
    for paragraph in article[NESTED]:
        if not isinstance(paragraph, dict) or not isinstance(paragraph.get("qas"), list):
            yield row(article, where)
            return
        shared = outer | {key: value for key, value in paragraph.items() if key != "qas"}
        for question in paragraph["qas"]:
            number += 1
            place = f"{where} question {number}"
            yield row({**shared, **question} if isinstance(question, dict) else question, place)
