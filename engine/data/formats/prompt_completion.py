"""A column of prompts and a column of answers: prompt and completion, question and answer, text and label."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from engine.config.errors import Notice
from engine.data.columns import column
from engine.data.conversation import ANSWER_LISTS, alternatives, answer_of, conversation, prompt_and_answer, text_of
from engine.data.formats import SYSTEMS, TOOLS, ColumnLookup, DataFormat, DetectedFormat
from engine.data.readers.json_files import is_turn
from engine.data.rows import Example, RawRow

_PAIRS = (
    *(("prompt", answer) for answer in ("completion", "response", "answer", "output", "target", "answers")),
    *(("question", answer) for answer in ("answer", "response", "solution", "completion", "output", "sql", "query")),
    *((prompt, answer) for answer in ("answers", "labels") for prompt in ("question", "prompt", "input", "query")),
    *(("instruction", answer) for answer in ("response", "completion", "answer", "target", "output")),
    *(("query", answer) for answer in ("response", "answer", "completion", "output", "answers")),
    *(("problem", answer) for answer in ("solution", "answer")),
    *(("input", answer) for answer in ("output", "target", "response", "answer", "targets")),
    ("source", "target"),
    ("user", "assistant"),
)
_TEXTS = (
    "text", "sentence", "utterance", "content", "review", "tweet", "message", "query", "question", "comment", "input",
)  # fmt: skip
_LABELS = ("label_text", "label_name", "category", "intent", "label", "class", "sentiment", "topic", "target", "tag")
_ASKED, _ABOUT = ("query", "question", "comment", "input"), ("topic", "tag", "target")
"""Texts that mostly have another answer than a label, and labels that mostly say what a text is about: with them the
pair is a guess."""


def detect(columns: ColumnLookup) -> DetectedFormat | None:
    if columns.data.separator is not None and columns.find("text"):
        return None  # data.separator is for the format text
    if pair := find_pair(columns):
        return pair
    text, label = columns.find(*_TEXTS), columns.find(*_LABELS)
    if text is not None and label == text:
        label = columns.find(*(name for name in _LABELS if name != text.lower()))
    if text is None or label is None:
        return None
    detected = replace(_pair(text, label, columns), is_guess=text.lower() in _ASKED or label.lower() in _ABOUT)
    distinct = columns[label].distinct
    if distinct is not None and all(str(value).strip().isdigit() for value in distinct):
        what = f"the labels in column {label} are numbers: label names usually give better results"
        detected.warnings.append(Notice("data.numeric_labels", what))
    return detected


def find_pair(columns: ColumnLookup) -> DetectedFormat | None:
    """The format for the first known pair of prompt and answer columns; None if there is none.

    A column of texts is preferred as the answer to one of objects: Spider has a `query`, and the same parsed as `sql`.
    """
    found = [(columns.find(prompt), columns.find(completion)) for prompt, completion in _PAIRS]
    pairs = [(prompt, answer) for prompt, answer in found if prompt and answer]
    pairs.sort(key=lambda pair: "an object" in columns.kinds(pair[1]))
    return _pair(*pairs[0], columns) if pairs else None


def convert(raw: RawRow, detected: DetectedFormat) -> Example:
    prompt, completion = (detected.parts[role].fill(raw.values) for role in ("prompt", "completion"))
    if _is_turns(prompt) or _is_turns(completion):  # only answers of the completion are in the loss
        asked = prompt if _is_turns(prompt) else [{"role": "user", "content": prompt}]
        said = completion if _is_turns(completion) else [{"role": "assistant", "content": completion}]
        return conversation(asked + said, raw, detected, trained_from=len(asked))
    others = detected.parts["references"].fill(raw.values) if "references" in detected.parts else None
    name = detected.parts["completion"].lone
    if name is not None and "references" in detected.parts and detected.parts["references"].lone == name:
        texts = alternatives(completion, raw)
        answer, others = answer_of(texts[0] if texts else "", None, raw, texts[1:]), None
    else:
        answer = answer_of(completion, name, raw, others)
    return prompt_and_answer(text_of(prompt, raw, "prompt"), answer, raw, detected)


def _pair(prompt: str, completion: str, columns: ColumnLookup) -> DetectedFormat:
    parts = {"prompt": column(prompt), "completion": column(completion)}
    optional = columns.optional_parts(system=SYSTEMS, tools=TOOLS, history=("history",), references=ANSWER_LISTS)
    if "references" in optional:
        name = optional["references"].source
        # Further accepted answers; `labels` often has one class per row instead.
        if name == completion or (name.lower() == "labels" and not columns.kinds(name) & {"list", "a list"}):
            del optional["references"]
    why = f"columns {prompt}, {completion}: prompt-completion ({prompt} -> prompt, {completion} -> completion)"
    return DetectedFormat("prompt-completion", why, parts | optional)


def _is_turns(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_turn, value))


FORMAT = DataFormat("prompt-completion", 50, detect, convert)
