"""Problems that are found by tokenizing: reasons for leaving rows out, and errors of the chat template."""

from __future__ import annotations

from engine.config.errors import UserError
from engine.data import dropped
from engine.data.chat_template import FAILED, REFUSED

REASONS = {
    "data.no_prompt": "no message before the answer",
    "data.empty_answer": "the answer is empty",
    "data.cut_before_answer": "no token of the answer is left after truncation to max_length",
    "data.answer_not_rendered": "the chat template leaves out the content of the last answer",
    dropped.CALLS: "the chat template does not render tool calls, so the answer is lost",
    REFUSED: "the chat template rejects the conversation",
    FAILED: "the chat template fails on the conversation",
}
"""Kind -> why rows of this kind are left out."""
DO = {
    "data.cut_before_answer": "raise train.max_length or shorten the prompts",
    REFUSED: "set model.chat_template to a template that accepts these conversations",
    FAILED: "correct the template, or set model.chat_template to another template",
    dropped.CALLS: "set model.chat_template to a template that renders tool calls",
    "data.answer_not_rendered": "set model.chat_template to a template that renders all answers",
}
"""Kind -> what to do about it."""
ANSWERS_LOST = frozenset((dropped.CALLS,))
"""Kinds of which a single row is enough to refuse the data: its answer is not in the rendered text."""
_TEMPLATE = {
    REFUSED: "the chat template rejects {rows:,} of {total:,} {split} rows: {what}",
    FAILED: "the chat template fails on {rows:,} of {total:,} {split} rows: {what}",
    dropped.CALLS: "{rows:,} of {total:,} {split} rows lose their answer: {what}",
    "data.answer_not_rendered": "{rows:,} of {total:,} {split} rows lose their answer: {what}",
}


def template_refusal(kind: str, what: str, rows: int, total: int, split: str, where: str) -> UserError | None:
    """The error for rows that are left out because of the chat template; None for other kinds.

    `what` is the description of the first such row; after the first `; ` it has a setting that was tried and works.
    """
    if kind not in _TEMPLATE:
        return None
    what, _, do = what.partition("; ")
    text = _TEMPLATE[kind].format(rows=rows, total=total, split=split, what=what)
    return UserError(text, where, do or DO[kind], code=kind)
