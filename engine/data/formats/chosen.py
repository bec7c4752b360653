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
    pair = next(
        (pair for one, other in _PAIRS if (pair := (columns.find(one), columns.optional(other))) and all(pair)), None
    )
    if pair is not None:
        parts = {"chosen": column(str(pair[0])), "rejected": column(str(pair[1]))}
        why = f"columns {pair[0]}, {pair[1]}: chosen (trains on {pair[0]}; {pair[1]} is not used)"
        return DetectedFormat("chosen", why, parts | _prompt_parts(columns))
    return _ranked(columns)


def _ranked(columns: ColumnLookup) -> DetectedFormat | None:
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
    if answers.lower() == "output" and columns.find("instruction") and _two_texts(columns, answers):
        return DetectedFormat("chosen", f"column {answers} with two answers: chosen (trains on the first)", parts)
    return None


def _two_texts(columns: ColumnLookup, name: str) -> bool:
    values = [raw.values.get(name) for raw in columns.summary.sample if not is_empty(raw.values.get(name))]
    return all(isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) for value in values)


def _prompt_parts(columns: ColumnLookup) -> dict[str, Any]:
    optional = columns.optional_parts(system=SYSTEMS, tools=TOOLS, history=("history",))
    if name := columns.optional("instruction"):
        return {"instruction": column(name), **columns.optional_parts(input=("input",)), **optional}
    return columns.optional_parts(history_turns=CHATS) or columns.optional_parts(prompt=_PROMPTS) | optional


def convert(raw: RawRow, detected: DetectedFormat) -> Example:
    chosen = _best(raw, detected)
    if is_empty(chosen):
        raise UnusableRow("data.empty", "no chosen answer")
    rejected = _read(detected.parts["rejected"].fill(raw.values), raw) if "rejected" in detected.parts else None
    before = _before(raw, detected)
    if before is None and isinstance(chosen, str):
        before, chosen, rejected = _marked(chosen, rejected)
        if before is None:
            return Example(None, "", text_of(chosen, raw, "chosen"), raw.where)
    if isinstance(before, str) and isinstance(chosen, str):
        return prompt_and_answer(before, Answer(text_of(chosen, raw, "chosen")), raw, detected)
    return _from_turns(before, chosen, rejected, raw, detected)


def _from_turns(before: Any, chosen: Any, rejected: Any, raw: RawRow, detected: DetectedFormat) -> Example:
    """Only messages after the prompt, or after the common prefix of chosen and rejected, are in the loss."""
    asked = [{"role": "user", "content": before}] if isinstance(before, str) else turns_of(before, raw.where, "prompt")
    reply = (
        [{"role": "assistant", "content": chosen}] if isinstance(chosen, str) else turns_of(chosen, raw.where, "chosen")
    )
    if role_of(reply[0]) != "assistant":  # chosen contains the prompt
        return conversation(reply, raw, detected, trained_from=_shared(reply, rejected))
    return conversation(asked + reply, raw, detected, trained_from=len(asked))


def _shared(chosen: list[Any], rejected: Any) -> int:
    """Number of messages in the common prefix of both answers; all but the last if unknown."""
    if not isinstance(rejected, list):
        return len(chosen) - 1
    pairs = zip(chosen[:-1], rejected, strict=False)
    return next((number for number, (one, other) in enumerate(pairs) if _key(one) != _key(other)), len(chosen) - 1)


def _before(raw: RawRow, detected: DetectedFormat) -> Any:
    """The prompt as text or messages; None if it is part of the answers."""
    if "history_turns" in detected.parts:
        part = detected.parts["history_turns"]
        return turns_of(part.fill(raw.values), raw.where, part.source)
    if "instruction" in detected.parts:
        return instruction_of(raw, detected)
    value = _read(detected.parts["prompt"].fill(raw.values), raw) if "prompt" in detected.parts else None
    return None if is_empty(value) else value


def _best(raw: RawRow, detected: DetectedFormat) -> Any:
    """The preferred answer, as text or messages."""
    value = detected.parts["chosen"].fill(raw.values)
    key = next((role for role in ("scores", "ranks") if role in detected.parts), None)
    if key is not None:
        marks = detected.parts[key].fill(raw.values)
        if not isinstance(value, list) or not isinstance(marks, list) or len(value) != len(marks) or not marks:
            raise UnusableRow("data.scores", f"different numbers of answers and {key}")
        if not all(isinstance(mark, int | float) for mark in marks):
            raise UnusableRow("data.scores", f"not all {key} are numbers")
        pick = max if key == "scores" else min
        value = value[marks.index(pick(marks))]
    elif isinstance(value, list) and value and isinstance(value[0], str):
        value = value[0]
    return _read(value, raw)


def _read(value: Any, raw: RawRow) -> Any:
    """A single message as a list, JSON text as the messages in it, other scalars as text."""
    if isinstance(value, str) and _MESSAGES.match(text := value.strip()):
        value = turns_of(text if text.startswith("[") else f"[{text}]", raw.where, "chosen")
    if isinstance(value, dict):
        return [value]
    return value if isinstance(value, list) or is_empty(value) else as_text(value)


def _marked(chosen: str, rejected: Any) -> tuple[list[dict[str, Any]] | None, Any, Any]:
    """Split Anthropic's HH texts ("\\n\\nHuman: … \\n\\nAssistant: …") into messages: (before, chosen, rejected)."""
    if not chosen.startswith("\n\nHuman:"):
        return None, chosen, rejected
    return [], _turns(chosen), _turns(rejected) if isinstance(rejected, str) else rejected


def _turns(text: str) -> list[dict[str, Any]]:
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
