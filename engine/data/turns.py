"""Convert messages, or a prompt and its answer, to an Example with the loss weight of each message."""

from __future__ import annotations

from typing import Any

from engine.config.errors import UserError
from engine.data.answers import Answer
from engine.data.chat_message import message, text_of, tools_of
from engine.data.conversation import EMPTY_TURN, Example, UnusableRow
from engine.data.format import DetectedFormat
from engine.data.loss_flags import weight_of
from engine.data.media import refuse_placeholder
from engine.data.row_limits import RawRow, parsed


def conversation(turns: list[dict[str, Any]], raw: RawRow, found: DetectedFormat, trained_from: int = 0) -> Example:
    """A conversation whose assistant messages from `trained_from` on are in the loss, with their weights.

    Messages after the last trained answer are dropped. Empty answers before it get weight 0.
    """
    messages = [message(turn, number, raw) for number, turn in enumerate(turns, 1)]
    weights = _weights(turns, messages, raw, trained_from)
    trained = [number for number, weight in weights.items() if weight > 0]
    if not trained:
        raise UnusableRow("data.no_answer", "no assistant message to train on")
    last = trained[-1]
    if _is_empty(messages[last]):
        raise UnusableRow("data.empty", "the last answer is empty")
    del messages[last + 1 :]
    weights = {number: weight for number, weight in weights.items() if number <= last}
    skipped = [number for number in trained if number < last and _is_empty(messages[number])]
    weights |= dict.fromkeys(skipped, 0.0)
    refuse_placeholder(messages)
    if _add_system(messages, raw, found):
        weights = {number + 1: weight for number, weight in weights.items()}
    tools = found.parts["tools"].fill(raw.values) if "tools" in found.parts else None
    return Example(
        messages,
        None,
        None,
        raw.where,
        tools_of(tools, raw),
        {number: weight for number, weight in weights.items() if weight != 1.0},
        notes=(EMPTY_TURN,) if skipped else (),
    )


def prompt_and_answer(
    prompt: str, answer: Answer, raw: RawRow, found: DetectedFormat, earlier: list[dict[str, Any]] | None = None
) -> Example:
    """A prompt and its answer, after `earlier` messages."""
    if not prompt.strip():
        raise UnusableRow("data.empty", "no prompt")
    if not answer.text.strip():
        raise UnusableRow("data.empty", "no answer")
    reply = {"role": "assistant", "content": answer.text}
    turns = [*(earlier or []), {"role": "user", "content": prompt}, reply]
    chat = conversation(turns, raw, found)
    assert chat.messages is not None
    system = f"{chat.messages[0]['content']}\n\n" if chat.messages[0]["role"] == "system" else ""
    return Example(
        chat.messages,
        system + prompt,
        answer.text,
        raw.where,
        chat.tools,
        chat.weights,
        answer.references,
        notes=chat.notes,
    )


def history_of(value: Any, raw: RawRow) -> list[dict[str, Any]]:
    """Earlier messages from a list of [question, answer] pairs; it may be JSON text, as in CSV files."""
    if isinstance(value, str):
        value = parsed(value, f"{raw.where} (history)") if value.strip() else None
    turns: list[dict[str, Any]] = []
    for pair in (value or []) if isinstance(value, list | None) else [value]:
        if not isinstance(pair, list) or len(pair) != 2:
            what = "history is not a list of [question, answer]"
            raise UserError(what, raw.where, "correct the row", code="data.invalid_history")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return turns


def _weights(
    turns: list[dict[str, Any]], messages: list[dict[str, Any]], raw: RawRow, trained_from: int
) -> dict[int, float]:
    """Loss weight of each assistant message."""
    weights = {}
    for number, turn in enumerate(turns):
        weight = weight_of(turn, messages[number]["role"], number + 1, raw)
        if messages[number]["role"] == "assistant":
            weights[number] = weight if number >= trained_from else 0.0
    return weights


def _is_empty(turn: dict[str, Any]) -> bool:
    """Whether a message has no text, tool call or reasoning."""
    return not (turn["content"].strip() or turn.get("tool_calls") or turn.get("reasoning_content"))


def _add_system(messages: list[dict[str, Any]], raw: RawRow, found: DetectedFormat) -> bool:
    """Insert the row's system message, unless the conversation starts with one."""
    if "system" not in found.parts or messages[0]["role"] == "system":
        return False
    system = text_of(found.parts["system"].fill(raw.values), raw, "system")
    if system.strip():
        messages.insert(0, {"role": "system", "content": system})
    return bool(system.strip())
