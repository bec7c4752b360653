"""The shape of a conversation: everything except its texts that can affect a chat template."""

from __future__ import annotations

from typing import Any

from engine.data.conversation import Example

Shape = tuple[Any, ...]


def shape_of(example: Example) -> Shape:
    """Equal for conversations with equal roles, keys, weights and numbers of tool calls, independent of their texts.

    Whether a text is empty is part of the shape.
    """
    turns = [
        (turn["role"], turn["content"].isspace() if turn["content"] else None) if len(turn) == 2 else _detailed(turn)
        for turn in example.messages or []
    ]
    return (*turns, example.tools is not None, *sorted(example.weights.items()))


def _detailed(turn: dict[str, Any]) -> Shape:
    """The shape of a message with more than role and content."""
    keys = sorted((key, value not in (None, "", [], {})) for key, value in turn.items())
    calls = tuple(bool(call["function"]["arguments"]) for call in turn.get("tool_calls") or [])
    return (turn["role"], bool(turn["content"].strip()), *keys, calls)
