"""Rows labeled as good or bad (KTO): supervised training on the good ones.

The label is an additional boolean column (trl: label; LLaMA-Factory: kto_tag);
the other columns are in any other format.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from engine.data.columns import column, is_empty
from engine.data.formats import ColumnLookup, DataFormat, DetectedFormat, alpaca, messages, prompt_completion, sharegpt
from engine.data.rows import Example, RawRow, UnusableRow

_LABELS = ("kto_tag", "label", "desirable", "is_desirable")
_GOOD, _BAD = ("true", "1", "1.0"), ("false", "0", "0.0")
_BASES = {base.name: base for base in (messages.FORMAT, sharegpt.FORMAT, alpaca.FORMAT, prompt_completion.FORMAT)}


def detect(columns: ColumnLookup) -> DetectedFormat | None:
    label = columns.optional(*_LABELS)
    values = {_text(value) for value in columns[label].distinct or ()} if label else set()
    # Booleans; if data.format does not select this format, some are false.
    if label is None or not values or not values <= {*_GOOD, *_BAD}:
        return None
    if columns.data.format != "desirable" and values.isdisjoint(_BAD):
        return None
    finders = (messages.FORMAT.detect, sharegpt.FORMAT.detect, alpaca.FORMAT.detect, prompt_completion.find_pair)
    base = next((detected for finder in finders if (detected := finder(columns))), None)
    if base is None or any(label in part.columns for part in base.parts.values()):
        return None
    why = f"column {label} in {base.name} rows: desirable (trains on rows whose {label} is true)"
    return replace(base, name="desirable", base=base.name, why=why, parts=base.parts | {"label": column(label)})


def convert(raw: RawRow, detected: DetectedFormat) -> Example:
    value = detected.parts["label"].fill(raw.values)
    if is_empty(value):
        raise UnusableRow("data.no_label", "missing label")
    if _text(value) not in _GOOD:
        raise UnusableRow("data.undesirable", "the answer is labeled as bad")
    return _BASES[detected.base].convert(raw, detected)


def _text(value: Any) -> str:
    return str(value).strip().lower()


FORMAT = DataFormat(
    "desirable",
    11,
    detect,
    convert,
    "answers labeled as good and bad (KTO): ftbench does supervised fine-tuning, which trains on every answer",
    "train on the good answers with",
)
