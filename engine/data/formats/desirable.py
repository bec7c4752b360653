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
    if label is None or not _is_verdict(columns[label].distinct, columns.data.format == "desirable"):
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


def _is_verdict(distinct: set[Any] | None, selected: bool) -> bool:
    """Whether the values are booleans; if data.format does not select this format, also whether any is false."""
    if not distinct:
        return False
    labels = {_text(value) for value in distinct}
    return labels <= {*_GOOD, *_BAD} and (selected or not labels.isdisjoint(_BAD))


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
