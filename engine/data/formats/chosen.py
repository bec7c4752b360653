"""Preference data (DPO, reward models, rankings): supervised training on the preferred answers.

Supported: chosen and rejected as texts, messages or lists of messages, with or without a prompt (trl, LLaMA-Factory);
a list of two outputs, the better one first (LLaMA-Factory); a list of answers with a list of scores or ranks.
"""

from __future__ import annotations

import re
from typing import Any

from engine.config.errors import UserError
from engine.data.columns import as_text, column, is_empty
from engine.data.conversation import Answer, conversation, prompt_and_answer, role_of, text_of, turns_of
from engine.data.formats import CHATS, SYSTEMS, TOOLS, ColumnLookup, DataFormat, DetectedFormat
from engine.data.formats.alpaca import instruction_of
from engine.data.rows import Example, RawRow, UnusableRow

_PAIRS = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("response_chosen", "response_rejected"),
    ("preferred", "dispreferred"),
    ("preferred_output", "non_preferred_output"),
    ("winner_response", "loser_response"),
)
_PROMPTS = ("prompt", "question", "query", "input")
_LISTS = ("responses", "completions", "answers", "outputs", "candidates", "output")
_SCORES, _RANKS = ("scores", "rewards", "ratings"), ("ranks", "ranking", "rank")
_MESSAGES = re.compile(r'(\[\s*)?\{\s*"(role|from|content|value)"')
_MARK = re.compile(r"\n\n(Human|Assistant): ?")


def detect(columns: ColumnLookup) -> DetectedFormat | None:
    for known in _PAIRS:
        chosen, rejected = columns.find(known[0]), columns.optional(known[1])
        if chosen and rejected:
            parts = {"chosen": column(chosen), "rejected": column(rejected)}
            why = f"columns {chosen}, {rejected}: chosen (trains on {chosen}; {rejected} is not used)"
            return DetectedFormat("chosen", why, parts | _prompt_parts(columns))
    answers = columns.find(*_LISTS)
    if answers is None or columns.kinds(answers) != {"a list"}:
        return None
    if (labels := columns.find("labels")) and columns.kinds(labels) == {"a list"} and columns.data.format == "auto":
        problem = f"unsupported stepwise labels (columns {answers}, {labels}): ftbench does supervised fine-tuning"
        hint = "write the steps to train on as rows of prompt and completion"
        raise UserError(problem, columns.data.id, hint, code="data.preference_data")
    parts = {"chosen": column(answers), **_prompt_parts(columns)}
    if scores := columns.find(*_SCORES):
        why = f"columns {answers}, {scores}: chosen (trains on the answer with the highest of the {scores})"
        return DetectedFormat("chosen", why, parts | {"scores": column(scores)})
    if ranks := columns.find(*_RANKS):
        why = f"columns {answers}, {ranks}: chosen (trains on the answer of the lowest rank)"
        return DetectedFormat("chosen", why, parts | {"ranks": column(ranks)})
    values = [raw.values.get(answers) for raw in columns.summary.sample if not is_empty(raw.values.get(answers))]
    two_texts = all(isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) for value in values)
    if answers.lower() == "output" and columns.find("instruction") and two_texts:
        return DetectedFormat("chosen", f"column {answers} with two answers: chosen (trains on the first)", parts)
    return None


def _prompt_parts(columns: ColumnLookup) -> dict[str, Any]:
    optional = columns.optional_parts(system=SYSTEMS, tools=TOOLS, history=("history",))
    if name := columns.optional("instruction"):
        return {"instruction": column(name), **columns.optional_parts(input=("input",)), **optional}
    return columns.optional_parts(history_turns=CHATS) or columns.optional_parts(prompt=_PROMPTS) | optional


def convert(raw: RawRow, detected: DetectedFormat) -> Example:
    parts = detected.parts
    chosen = parts["chosen"].fill(raw.values)
    key = next((role for role in ("scores", "ranks") if role in parts), None)
    if key is not None:
        marks = parts[key].fill(raw.values)
        if not isinstance(chosen, list) or not isinstance(marks, list) or len(chosen) != len(marks) or not marks:
            raise UnusableRow("data.scores", f"different numbers of answers and {key}")
        if not all(isinstance(mark, int | float) for mark in marks):
            raise UnusableRow("data.scores", f"not all {key} are numbers")
        chosen = chosen[marks.index(max(marks) if key == "scores" else min(marks))]
    elif isinstance(chosen, list) and chosen and isinstance(chosen[0], str):
        chosen = chosen[0]
    chosen = _read(chosen, raw)
    if is_empty(chosen):
        raise UnusableRow("data.empty", "no chosen answer")
    rejected = _read(parts["rejected"].fill(raw.values), raw) if "rejected" in parts else None

    # What is before the answer, as text or messages; None if it is part of the answers.
    before: Any = None
    if "history_turns" in parts:
        before = turns_of(parts["history_turns"].fill(raw.values), raw.where, parts["history_turns"].source)
    elif "instruction" in parts:
        before = instruction_of(raw, detected)
    elif "prompt" in parts:
        before = _read(parts["prompt"].fill(raw.values), raw)
        before = None if is_empty(before) else before
    if before is None and isinstance(chosen, str):
        if not chosen.startswith("\n\nHuman:"):
            return Example(None, "", text_of(chosen, raw, "chosen"), raw.where)
        before, chosen = [], _turns(chosen)
        rejected = _turns(rejected) if isinstance(rejected, str) else rejected
    if isinstance(before, str) and isinstance(chosen, str):
        return prompt_and_answer(before, Answer(text_of(chosen, raw, "chosen")), raw, detected)

    # Only messages after the prompt, or after the common prefix of chosen and rejected, are in the loss.
    asked = [{"role": "user", "content": before}] if isinstance(before, str) else turns_of(before, raw.where, "prompt")
    reply = (
        [{"role": "assistant", "content": chosen}] if isinstance(chosen, str) else turns_of(chosen, raw.where, "chosen")
    )
    if role_of(reply[0]) == "assistant":
        return conversation(asked + reply, raw, detected, trained_from=len(asked))
    start = len(reply) - 1  # `chosen` contains the prompt
    if isinstance(rejected, list):
        pairs = zip(reply[:-1], rejected, strict=False)
        start = next((number for number, (one, other) in enumerate(pairs) if _key(one) != _key(other)), start)
    return conversation(reply, raw, detected, trained_from=start)


def _read(value: Any, raw: RawRow) -> Any:
    """A single message as a list, JSON text as the messages in it, other scalars as text."""
    if isinstance(value, str) and _MESSAGES.match(text := value.strip()):
        value = turns_of(text if text.startswith("[") else f"[{text}]", raw.where, "chosen")
    if isinstance(value, dict):
        return [value]
    return value if isinstance(value, list) or is_empty(value) else as_text(value)


def _turns(text: str) -> list[dict[str, Any]]:
    """The messages of a text of Anthropic's HH ("\\n\\nHuman: … \\n\\nAssistant: …")."""
    pieces = _MARK.split(text)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": text.strip()} for who, text in zip(pieces[::2], pieces[1::2], strict=True)]


def _key(turn: Any) -> Any:
    return (role_of(turn), turn.get("content", turn.get("value"))) if isinstance(turn, dict) else turn


FORMAT = DataFormat(
    "chosen",
    10,
    detect,
    convert,
    "preference data (chosen and rejected answers): ftbench does supervised fine-tuning, not DPO or reward modeling",
    "train on the preferred answers with",
)
