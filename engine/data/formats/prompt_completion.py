"""A column of prompts and a column of answers: prompt and completion, question and answer, text and label."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from engine.config.errors import Notice
from engine.data.column_names import ANSWERS, LABELS, PROMPTS, is_identifier_name, rank
from engine.data.columns import ColumnTemplate, column
from engine.data.conversation import (
    ANSWER_LISTS,
    alternatives,
    answer_of,
    calls_of,
    conversation,
    prompt_and_answer,
    text_of,
)
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
_RELATIONS = (
    "label_text", "label_name", "gold_label", "label", "relation", "is_duplicate", "is_paraphrase", "score",
    "similarity_score", "similarity", "relatedness_score",
)  # fmt: skip
"""Answers to two texts."""
_TWO_TEXTS = (("premise", "hypothesis"), ("claim", "evidence"), ("question", "sentence"), ("query", "passage"))
_NUMBERED = re.compile(r"(?i)(\w*[a-z])[ _-]?([12]|(?<=[_-])[ab])")
"""The name of one of two texts: `sentence1`, `text_b`."""


def detect(columns: ColumnLookup) -> DetectedFormat | None:
    if columns.data.separator is not None and columns.find("text"):
        return None  # data.separator is for the format text
    if pair := find_pair(columns) or _find_relation(columns) or _find_by_last_words(columns):
        return pair
    text, label = columns.find(*_TEXTS), columns.find(*_LABELS)
    if text is not None and label == text:
        label = columns.find(*(name for name in _LABELS if name != text.lower()))
    if text is None or label is None:
        return None
    is_guess = text.lower() in _ASKED or label.lower() in _ABOUT
    return replace(_pair(text, label, columns), is_guess=is_guess, warnings=_numeric_labels(label, columns))


def find_pair(columns: ColumnLookup) -> DetectedFormat | None:
    """The format for the first known pair of prompt and answer columns; None if there is none.

    A column of texts is preferred as the answer to one of objects: Spider has a `query`, and the same parsed as `sql`.
    """
    found = [(columns.find(prompt), columns.find(completion)) for prompt, completion in _PAIRS]
    pairs = [(prompt, answer) for prompt, answer in found if prompt and answer]
    pairs.sort(key=lambda pair: "an object" in columns.kinds(pair[1]))
    return _pair(*pairs[0], columns) if pairs else None


def _find_relation(columns: ColumnLookup) -> DetectedFormat | None:
    """Two texts and a label or score: inference, paraphrases, similarity. Both texts are the prompt, with names."""
    by_stem: dict[str, dict[str, str]] = {}
    for name in columns.summary.filled:
        if match := _NUMBERED.fullmatch(name):
            by_stem.setdefault(match[1].lower(), {})[match[2].lower()] = name
    numbered = [tuple(names[key] for key in sorted(names)) for names in by_stem.values() if len(names) == 2]
    known = [(columns.find(one), columns.find(other)) for one, other in _TWO_TEXTS]
    pairs = [(one, other) for one, other in (*known, *numbered) if one and other]
    pairs = [pair for pair in pairs if all(columns.kinds(name) == {"text"} for name in pair)]
    label = columns.find(*_RELATIONS)
    if not pairs or label is None:
        return None
    one, other = pairs[0]
    pieces = ((f"{one}: ", one), (f"\n{other}: ", other))
    prompt = ColumnTemplate(f"{one}: {{{one}}}\n{other}: {{{other}}}", pieces)
    detected = _pair(one, label, columns)
    why = f"columns {one}, {other}, {label}: prompt-completion ({one} and {other} -> prompt, {label} -> completion)"
    return replace(
        detected, why=why, parts=detected.parts | {"prompt": prompt}, warnings=_numeric_labels(label, columns)
    )


def _find_by_last_words(columns: ColumnLookup) -> DetectedFormat | None:
    """The only column of texts named like a prompt, and the only one named like an answer: `src` and `tgt`."""
    texts = [name for name in columns.summary.filled if columns.find(name.lower()) and columns.kinds(name) == {"text"}]
    texts = [name for name in texts if not is_identifier_name(name) and name.lower() != "text"]
    prompts = [name for name in texts if rank(name, PROMPTS) < len(PROMPTS)]
    answers = [name for name in texts if rank(name, ANSWERS[: -len(LABELS)]) < len(ANSWERS) - len(LABELS)]
    return _pair(prompts[0], answers[0], columns) if len(prompts) == len(answers) == 1 else None


def _numeric_labels(label: str, columns: ColumnLookup) -> list[Notice]:
    """A warning about labels that are numbers."""
    distinct = columns[label].distinct
    if distinct is None or not all(str(value).strip().isdigit() for value in distinct):
        return []
    what = f"the labels in column {label} are numbers: label names usually give better results"
    return [Notice("data.numeric_labels", what)]


def convert(raw: RawRow, detected: DetectedFormat) -> Example:
    prompt, completion = (detected.parts[role].fill(raw.values) for role in ("prompt", "completion"))
    if "tools" in detected.parts and (calls := calls_of(completion)):
        completion = [{"role": "assistant", "content": "", "tool_calls": calls}]
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
