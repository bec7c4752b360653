"""Find the parts of a conversation that a chat template drops, by rendering with and without them.

The conversation is rendered once with a marker in place of every part. A part whose marker is missing is removed from
the conversation itself: if the rendered text does not change, the template drops it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine.data.chat_template import ERRORS, ChatTemplate, Messages
from engine.data.conversation import Example

PREFIX = "data.template_drops_"
TOOLS = "data.template_drops_tools"
CALLS = "data.template_drops_calls"
RESULTS = "data.template_drops_tool_results"
REASONING = "data.template_drops_reasoning"
SYSTEM = "data.template_drops_system"
USER = "data.template_drops_user"
HISTORY = "data.template_drops_history"
NAMES = "data.template_drops_names"
KEYS = "data.template_drops_keys"
_CONTENT = {"system": SYSTEM, "user": USER, "tool": RESULTS, "assistant": HISTORY}
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_NOT_TEXT = frozenset(("role", "content", "tool_calls", "tool_call_id", "id", "type"))
"""Message keys that are handled separately, or only link a message to a tool call."""


@dataclass(frozen=True, slots=True)
class MessagePart:
    """A part of a conversation that a template may drop."""

    thing: str
    """One of the codes above."""
    message: int = -1
    """Index of the message; -1 for the tools of the row."""
    key: str = ""
    call: int = -1
    """Index of the tool call, for `name` and `arguments`."""


def dropped(example: Example, template: ChatTemplate, whole: str, trained: set[int]) -> list[MessagePart]:
    """The parts of a conversation on which its text `whole` does not depend. `trained`: messages in the loss."""
    parts = list(_parts(example, trained))
    marked = _text(template, _marked(example, parts), example.tools)
    missing = [n for n, part in enumerate(parts) if marked is None or part.message < 0 or _mark(n) not in marked]
    return [parts[n] for n in missing if _text(template, *_without(example, parts[n])) == whole]


def _parts(example: Example, trained: set[int]) -> Iterator[MessagePart]:
    assert example.messages is not None
    if example.tools:
        yield MessagePart(TOOLS)
    for number, turn in enumerate(example.messages):
        if number not in trained and turn["content"].strip():
            yield MessagePart(_CONTENT[turn["role"]], number, "content")
        for place, call in enumerate(turn.get("tool_calls") or []):
            yield MessagePart(CALLS, number, "name", place)
            if call["function"]["arguments"]:
                yield MessagePart(CALLS, number, "arguments", place)
        reasoning = next((key for key in REASONING_KEYS if turn.get(key)), None)
        if reasoning and number in trained:
            yield MessagePart(REASONING, number, reasoning)
        for key, value in turn.items():
            if key not in _NOT_TEXT and key not in REASONING_KEYS and value not in (None, "", [], {}):
                yield MessagePart(NAMES if key == "name" else KEYS, number, key)


def _mark(number: int) -> str:
    return f"Mark{number}part"


def _marked(example: Example, parts: list[MessagePart]) -> Messages:
    """The messages with a marker in place of every part."""
    assert example.messages is not None
    messages = [dict(turn) for turn in example.messages]
    for number, part in enumerate(parts):
        if part.message < 0:
            continue
        turn = messages[part.message]
        if part.call < 0:
            turn[part.key] = _mark(number)
        else:
            value = {_mark(number): _mark(number)} if part.key == "arguments" else _mark(number)
            turn["tool_calls"] = _with_call(turn["tool_calls"], part, value)
    return messages


def _without(example: Example, part: MessagePart) -> tuple[Messages, list[Any] | None]:
    """(messages, tools) without this part, or with a changed text."""
    assert example.messages is not None
    messages = [dict(turn) for turn in example.messages]
    if part.message < 0:
        return messages, None
    turn = messages[part.message]
    if part.call >= 0:
        name = turn["tool_calls"][part.call]["function"]["name"]
        value: Any = {} if part.key == "arguments" else f"{name}_other"
        turn["tool_calls"] = _with_call(turn["tool_calls"], part, value)
    elif part.key == "content":
        turn["content"] += " And more."
    else:
        del turn[part.key]
    return messages, example.tools


def _with_call(calls: list[dict[str, Any]], part: MessagePart, value: Any) -> list[dict[str, Any]]:
    """The tool calls of a message, with another name or other arguments in one of them."""
    changed = list(calls)
    changed[part.call] = {**calls[part.call], "function": {**calls[part.call]["function"], part.key: value}}
    return changed


def _text(template: ChatTemplate, messages: Messages, tools: list[Any] | None) -> str | None:
    try:
        return template.text(messages, tools)
    except ERRORS:
        return None
