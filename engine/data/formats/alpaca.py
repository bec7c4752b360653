"""Instruction, optional input and output (Taori et al. 2023, Stanford Alpaca), with system, history and tools."""

from __future__ import annotations

from engine.data.columns import column
from engine.data.conversation import answer_of, history_of, prompt_and_answer, text_of
from engine.data.formats import SYSTEMS, TOOLS, ColumnLookup, DataFormat, DetectedFormat
from engine.data.rows import Example, RawRow

_ANSWERS = ("output", "response", "completion", "answer", "target")
_INPUTS = ("input", "context")


def detect(columns: ColumnLookup) -> DetectedFormat | None:
    instruction, output = columns.find("instruction"), columns.find(*_ANSWERS)
    more = columns.optional_parts(input=_INPUTS, history=("history",))
    if instruction is None or output is None or (output.lower() != "output" and "input" not in more):
        return None
    if columns.data.separator is not None and columns.find("text"):
        return None  # data.separator is for the format text
    parts = {"instruction": column(instruction), **more, "completion": column(output)}
    why = f"columns {', '.join(part.source for part in parts.values())}: alpaca"
    return DetectedFormat("alpaca", why, parts | columns.optional_parts(system=SYSTEMS, tools=TOOLS))


def convert(raw: RawRow, found: DetectedFormat) -> Example:
    output = found.parts["completion"]
    answer = answer_of(output.fill(raw.values), output.lone, raw)
    earlier = history_of(found.parts["history"].fill(raw.values), raw) if "history" in found.parts else None
    return prompt_and_answer(instruction_of(raw, found), answer, raw, found, earlier)


def instruction_of(raw: RawRow, found: DetectedFormat) -> str:
    """The instruction, followed by the input if the row has one."""
    task = text_of(found.parts["instruction"].fill(raw.values), raw, "instruction")
    more = text_of(found.parts["input"].fill(raw.values), raw, "input") if "input" in found.parts else ""
    return f"{task}\n\n{more}" if more.strip() else task


FORMAT = DataFormat("alpaca", 30, detect, convert)
