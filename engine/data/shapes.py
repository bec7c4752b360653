"""The shape of a conversation: everything about it that a chat template may decide by, except its texts."""

from __future__ import annotations

from typing import Any

from engine.data.conversation import Example

Shape = tuple[Any, ...]


def shape_of(example: Example) -> Shape:
    """Equal for conversations with equal roles, keys, weights and numbers of tool calls, whatever they say.

    Whether a text is empty counts as well.
    """
    turns = [
        (turn["role"], turn["content"].isspace() if turn["content"] else None) if len(turn) == 2 else _detailed(turn)
        for turn in example.messages or []
    ]
    return (*turns, example.tools is not None, *sorted(example.weights.items()))


def _detailed(turn: dict[str, Any]) -> Shape:
    """A message with more than a role and a content."""
    keys = sorted((key, value not in (None, "", [], {})) for key, value in turn.items())
    calls = tuple(bool(call["function"]["arguments"]) for call in turn.get("tool_calls") or [])
    return (turn["role"], bool(turn["content"].strip()), *keys, calls)
