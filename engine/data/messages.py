"""One message by one set of names: roles, text, tool calls as objects, every text checked."""

from __future__ import annotations

from typing import Any

from engine.contract.errors import UserError
from engine.data.mapping import as_text
from engine.data.raw import Raw, described, parsed

_ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "function_call": "assistant", "tool_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "tool_response": "tool", "ipython": "tool",
}  # fmt: skip
_DROPPED = ("role", "from", "value", "content", "weight", "tool_calls")


class Unusable(Exception):
    """This row's problem, on its way to whoever converts the row."""

    def __init__(self, kind: str, what: str) -> None:
        self.kind, self.what = kind, what


def turns_of(value: Any, where: str, key: str) -> list[dict[str, Any]]:
    """The turns of a conversation, also where a table holds them as JSON text. UserError when they are none."""
    place = f"{where} ({key})"
    if isinstance(value, str):
        value = parsed(value, place)
    if value is None:
        return []
    if not isinstance(value, list):
        raise UserError(f"{described(value)} where a list of messages should be", place, "write [{role, content}, …]")
    for number, turn in enumerate(value, 1):
        if not isinstance(turn, dict):
            what = f"message {number} is {described(turn)}, not an object"
            raise UserError(what, place, "write it as {role, content}")
    return value


def message(turn: dict[str, Any], number: int, raw: Raw) -> dict[str, Any]:
    """One message under OpenAI's names; other keys that are set stay, for the template to read."""
    said = turn.get("role", turn.get("from"))
    if not isinstance(said, str):
        raise UserError(
            f"message {number} has no role", raw.where, "give it role (or from): user, assistant, system, tool"
        )
    role = _ROLES.get(said.strip().lower())
    if role is None:
        raise Unusable("unknown role", f"message {number} has the role {said!r}")
    content = turn["content"] if "content" in turn else turn.get("value")
    calls = turn.get("tool_calls")
    if "content" not in turn and "value" not in turn and not calls:
        raise UserError(f"message {number} has no content", raw.where, "give it content (or value)")
    if said.strip().lower() in ("function_call", "tool_call") and not calls:
        calls = _called(content)
        content = None if calls else content
    made: dict[str, Any] = {"role": role, "content": _content(content, number, raw)}
    made |= {key: value for key, value in turn.items() if key not in _DROPPED and value is not None}
    if calls:
        text_of(calls, raw, f"the tool calls of message {number}")
        made["tool_calls"] = [_call(call, number, raw) for call in calls]
    return made


def _content(content: Any, number: int, raw: Raw) -> str:
    """Text, or the text parts of a list of parts."""
    if isinstance(content, list):
        other = next(
            (part for part in content if not isinstance(part, dict) or part.get("type", "text") != "text"), None
        )
        if other is not None:
            kind = other.get("type") if isinstance(other, dict) else described(other)
            raise UserError(f"message {number} holds {kind}", raw.where, "ftbench trains on text only: drop the row")
        content = "".join(as_text(part.get("text")) for part in content)
    if isinstance(content, dict):
        raise UserError(f"the content of message {number} is an object", raw.where, "write it as text")
    return text_of(content, raw, f"message {number}")


def _called(content: Any) -> list[Any] | None:
    """ShareGPT's function_call: a JSON object (or a list of them) with name and arguments; else it stays text."""
    try:
        value = parsed(content, "") if isinstance(content, str) else content
    except UserError:
        return None
    calls = value if isinstance(value, list) else [value]
    return calls if calls and all(isinstance(call, dict) and "name" in call for call in calls) else None


def _call(call: Any, number: int, raw: Raw) -> dict[str, Any]:
    """A tool call with its arguments as an object: what chat templates expect, where OpenAI writes JSON text."""
    made = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(made, dict) or not isinstance(made.get("name"), str):
        raise UserError(
            f"a tool call of message {number} has no name", raw.where, "give it function.name and arguments"
        )
    arguments = made.get("arguments")
    if isinstance(arguments, str):
        arguments = parsed(arguments, f"{raw.where}, arguments in message {number}") if arguments.strip() else {}
    kept = {"id": call["id"]} if call.get("id") else {}
    return {**kept, "type": "function", "function": {"name": made["name"], "arguments": arguments or {}}}


def tools_of(value: Any, raw: Raw) -> list[Any] | None:
    """The tool schemas of a row, also where a table holds them as JSON text."""
    if isinstance(value, str):
        value = parsed(value, f"{raw.where} (tools)") if value.strip() else None
    if value is not None and not isinstance(value, list):
        raise UserError(f"tools is {described(value)}, not a list", raw.where, "write a list of tool schemas")
    text_of(value, raw, "tools")
    return value or None


def text_of(value: Any, raw: Raw, part: str) -> str:
    """A value as text that can be encoded."""
    text = as_text(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = f"half a character (\\u{ord(text[error.start]):04x}) at {error.start + 1} in {part}"
        raise UserError(what, raw.where, "mend the escape: such a character has two halves") from error
    return text
