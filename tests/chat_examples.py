"""Conversations with tool calls, and a chat template that renders text only."""

from __future__ import annotations

from typing import Any

from engine.data.rows import Example

TEXT_ONLY = (  # as of many small models: roles and contents, nothing else
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo", "days": 3}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
ASKED = {"role": "user", "content": "Will it rain?"}
SAID = {"role": "assistant", "content": "It will."}
CALLING: list[dict[str, Any]] = [
    ASKED,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "rain"},
    SAID,
]


def chat(*messages: dict[str, Any], tools: list[Any] | None = None, **more: Any) -> Example:
    return Example([dict(message) for message in messages], None, None, "a.jsonl line 1", tools, **more)
