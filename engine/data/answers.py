"""Read columns with several accepted answers: lists, SQuAD's answer spans, TriviaQA's aliases."""

from __future__ import annotations

from typing import Any, NamedTuple

from engine.data.chat_message import text_of
from engine.data.conversation import UnusableRow
from engine.data.row_limits import RawRow, parsed

ANSWER_LISTS = ("answers", "references", "targets", "accepted_answers", "gold_answers", "aliases")
"""Columns in which a list contains alternative answers."""
_NESTED = ({"text", "answer_start"}, {"value", "aliases"})


class Answer(NamedTuple):
    """The answer to train on, and further accepted answers."""

    text: str
    references: tuple[str, ...] = ()


def answer_of(value: Any, name: str | None, raw: RawRow, others: Any = None) -> Answer:
    """Read a column's value as an answer. `name`: the column, if it is a single one. `others`: further alternatives.

    Raises UnusableRow for an empty list of answers: the question has no answer.
    """
    is_list = name is not None and name.lower() in ANSWER_LISTS
    if type(value) is str and others is None and not is_list:
        return Answer(text_of(value, raw, "the answer"))
    if is_list or is_nested(value):
        found = alternatives(value, raw)
        if not found:
            raise UnusableRow("data.unanswerable", "the list of answers is empty")
    else:
        found = [text_of(value, raw, "the answer")]
    found += alternatives(others, raw)
    return Answer(found[0], tuple(dict.fromkeys(text for text in found[1:] if text != found[0])))


def is_nested(value: Any) -> bool:
    """Whether a value is SQuAD's {text, answer_start}, TriviaQA's {value, aliases}, or a list of these."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, dict) and is_nested(item) for item in value)
    return isinstance(value, dict) and any(keys <= value.keys() for keys in _NESTED)


def alternatives(value: Any, raw: RawRow) -> list[str]:
    """Every text in a list of answers, in order. The list may be JSON text, as in CSV files."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        value = parsed(value, f"{raw.where} (answers)")
    return _texts(value, raw)


def _texts(value: Any, raw: RawRow) -> list[str]:
    """Texts inside a list are not parsed as JSON: an answer may start with a bracket."""
    if isinstance(value, list):
        return [text for item in value for text in _texts(item, raw)]
    if isinstance(value, dict):
        inner = [value[key] for key in ("text", "value", "aliases") if key in value]
        return [text for item in inner for text in _texts(item, raw)]
    text = text_of(value, raw, "an answer")
    return [text] if text.strip() else []
