"""Instruction, optional input and output (Taori et al. 2023, Stanford Alpaca), with system, history and tools."""

from __future__ import annotations

from engine.data.columns import column
from engine.data.conversation import answer_of, prompt_and_answer, text_of
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


def convert(raw: RawRow, detected: DetectedFormat) -> Example:
    output = detected.parts["completion"]
    answer = answer_of(output.fill(raw.values), output.lone, raw)
    return prompt_and_answer(instruction_of(raw, detected), answer, raw, detected)


def instruction_of(raw: RawRow, detected: DetectedFormat) -> str:
    """The instruction, followed by the input if the row has one."""
    task = text_of(detected.parts["instruction"].fill(raw.values), raw, "instruction")
    more = text_of(detected.parts["input"].fill(raw.values), raw, "input") if "input" in detected.parts else ""
    return f"{task}\n\n{more}" if more.strip() else task


FORMAT = DataFormat("alpaca", 30, detect, convert)
