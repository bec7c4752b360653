"""Plain text: all tokens are in the loss, or only those after the last separator."""

from __future__ import annotations

from engine.data.columns import column
from engine.data.conversation import text_of
from engine.data.formats import ColumnLookup, DataFormat, DetectedFormat
from engine.data.rows import Example, RawRow, UnusableRow


def detect(columns: ColumnLookup) -> DetectedFormat | None:
    name = columns.find("text")
    return DetectedFormat("text", f"column {name}: text", {"text": column(name)}) if name else None


def convert(raw: RawRow, detected: DetectedFormat) -> Example:
    text = text_of(detected.parts["text"].fill(raw.values), raw, "text")
    if not text.strip():
        raise UnusableRow("data.empty", "no text")
    if detected.separator is None:
        return Example(None, "", text, raw.where)
    at = text.rfind(detected.separator)
    if at < 0:
        raise UnusableRow("data.no_answer", f"the separator {detected.separator!r} is not in the text")
    cut = at + len(detected.separator)
    if not text[cut:].strip():
        raise UnusableRow("data.empty", "nothing follows the separator")
    return Example(None, text[:cut], text[cut:], raw.where)


FORMAT = DataFormat("text", 60, detect, convert)
