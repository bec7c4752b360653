"""Several labels per text: a column of texts and a column of lists of labels. The answer is the list as JSON text."""

from __future__ import annotations

import json
from typing import Any

from engine.data.columns import column, is_empty
from engine.data.conversation import Answer, prompt_and_answer, text_of
from engine.data.formats import SYSTEMS, ColumnLookup, DataFormat, DetectedFormat
from engine.data.rows import Example, RawRow, UnusableRow, from_json

_TEXTS = ("text", "sentence", "utterance", "content", "review", "tweet", "message", "comment", "abstract", "document")
_LABELS = ("labels", "tags", "categories", "topics", "emotions", "genres", "intents", "classes", "label")
MIN_RECURRENCE = 2
"""Lists have labels if each distinct item occurs so many times on average: items such as names rarely recur."""


def detect(columns: ColumnLookup) -> DetectedFormat | None:
    text, labels = columns.find(*_TEXTS), columns.find(*_LABELS)
    if text is None or labels is None or columns.data.separator is not None:
        return None
    lists = [_list(raw.values.get(labels)) for raw in columns.summary.sample if not is_empty(raw.values.get(labels))]
    items = [item for found in lists for item in found or ()]
    if None in lists or len(items) < MIN_RECURRENCE * len(set(items)):
        return None
    why = f"columns {text}, {labels}: labels ({text} -> prompt, the list of {labels} -> answer)"
    parts = {"prompt": column(text), "completion": column(labels)}
    return DetectedFormat("labels", why, parts | columns.optional_parts(system=SYSTEMS))


def convert(raw: RawRow, detected: DetectedFormat) -> Example:
    name = detected.parts["completion"].source
    value = raw.values.get(name)
    if value is None or value == "":
        raise UnusableRow("data.empty", f"no {name}")
    found = _list(value)
    if found is None:
        raise UnusableRow("data.no_label", f"{name} is not a list of labels")
    prompt = text_of(detected.parts["prompt"].fill(raw.values), raw, "prompt")
    return prompt_and_answer(prompt, Answer(text_of(json.dumps(found, ensure_ascii=False), raw, name)), raw, detected)


def _list(value: Any) -> list[str | int] | None:
    """A list of texts or whole numbers, which may be JSON text; None for another value."""
    if isinstance(value, str) and value[:1] == "[":
        value = from_json(value, "labels")
    is_list = isinstance(value, list) and all(isinstance(item, str | int) for item in value)
    return value if is_list else None


FORMAT = DataFormat("labels", 45, detect, convert)
