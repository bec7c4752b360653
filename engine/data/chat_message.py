"""Convert messages to OpenAI's schema: role, content as text, tool calls as objects."""

from __future__ import annotations

from typing import Any

from engine.config.errors import UserError
from engine.data.conversation import UnusableRow
from engine.data.loss_flags import FLAGS
from engine.data.mapping import as_text
from engine.data.media import is_media_part
from engine.data.row_limits import RawRow, described, parsed

_ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "function_call": "assistant", "tool_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "tool_response": "tool", "ipython": "tool",
}  # fmt: skip
_CALLS = ("function_call", "tool_call")
"""ShareGPT roles of messages whose text is a tool call."""
_READ = frozenset(("role", "from", "value", "content", "tool_calls", "function_call")) | FLAGS
"""Keys that become role, content, tool calls and weight; other keys are passed to the chat template."""


def turns_of(value: Any, where: str, key: str) -> list[dict[str, Any]]:
    """The turns of a conversation, which may be JSON text, as in CSV files. Raises UserError for anything else."""
    place = f"{where} ({key})"
    if isinstance(value, str):
        value = parsed(value, place) if value.strip() else None
    if value is None:
        return []
    if not isinstance(value, list):
        what = f"expected a list of messages, found {described(value)}"
        raise UserError(what, place, "write [{role, content}, …]", code="data.invalid_messages")
    for number, turn in enumerate(value, 1):
        if not isinstance(turn, dict):
            what = f"message {number} is {described(turn)}, not an object"
            raise UserError(what, place, "write it as {role, content}", code="data.invalid_messages")
    return value


def role_of(turn: dict[str, Any]) -> str | None:
    """The role as system, user, assistant or tool; None for other roles."""
    role = turn.get("role", turn.get("from"))
    return (_ROLES.get(role) or _ROLES.get(role.strip().lower())) if isinstance(role, str) else None


def message(turn: dict[str, Any], number: int, raw: RawRow) -> dict[str, Any]:
    """Convert one message to OpenAI's schema. Unknown keys are kept for the chat template."""
    said = turn.get("role", turn.get("from"))
    if not isinstance(said, str):
        do = "add role (or from): user, assistant, system or tool"
        raise UserError(f"message {number} has no role", raw.where, do, code="data.message_without_role")
    role = _ROLES.get(said) or role_of(turn)
    if role is None:
        raise UnusableRow("data.unknown_role", f"message {number} has the role {said!r}")
    content = turn["content"] if "content" in turn else turn.get("value")
    if type(content) is str and len(turn) == 2 and said not in _CALLS:
        return {"role": role, "content": content if content.isascii() else text_of(content, raw, f"message {number}")}
    return _message(turn, role, said.strip().lower(), content, number, raw)


def _message(turn: dict[str, Any], role: str, said: str, content: Any, number: int, raw: RawRow) -> dict[str, Any]:
    calls = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else None)
    if "content" not in turn and "value" not in turn and not calls:
        do = "add content (or value)"
        raise UserError(f"message {number} has no content", raw.where, do, code="data.message_without_content")
    if said in _CALLS and not calls:
        calls = _called(content)
        content = None if calls else content
    converted: dict[str, Any] = {"role": role}
    if isinstance(content, list):
        content, more = _parts(content, number, raw)
        calls = calls or more.pop("tool_calls", None)
        converted |= more
    if isinstance(content, dict):
        what = f"the content of message {number} is an object"
        raise UserError(what, raw.where, "write the content as text", code="data.invalid_content")
    converted["content"] = text_of(content, raw, f"message {number}")
    converted |= {key: value for key, value in turn.items() if key not in _READ and value is not None}
    if calls:
        calls = _listed(calls, number, raw)
        text_of(calls, raw, f"the tool calls of message {number}")
        converted["tool_calls"] = [_call(call, number, raw) for call in calls]
    return converted


def _parts(parts: list[Any], number: int, raw: RawRow) -> tuple[str, dict[str, Any]]:
    """Split a list of content parts into the text, and reasoning and tool calls by message key.

    The text of a part is under `text` (OpenAI) or `value` (LLaMA-Factory v1). Raises UnusableRow for images, audio,
    video and files.
    """
    texts: list[str] = []
    reasoning: list[str] = []
    calls: list[Any] = []
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, dict) else described(part)
        value = (
            part if isinstance(part, str) else part.get("text", part.get("value")) if isinstance(part, dict) else None
        )
        if isinstance(part, str) or kind in ("text", "input_text", "output_text"):
            texts.append(as_text(value))
        elif kind in ("reasoning", "thinking"):
            reasoning.append(as_text(part.get("thinking", value)))
        elif kind in ("tool_call", "function_call") and (found := _called(value)):
            calls += found
        elif is_media_part(str(kind)):
            raise UnusableRow("data.media", f"message {number} contains {kind}, and ftbench trains on text only")
        else:
            what = f"unsupported content part {kind!r} in message {number}"
            raise UserError(what, raw.where, "write text parts, or drop the row", code="data.content_part")
    more: dict[str, Any] = {"reasoning_content": text_of("".join(reasoning), raw, "reasoning")} if reasoning else {}
    if calls:
        more["tool_calls"] = calls
    return "".join(texts), more


def _listed(calls: Any, number: int, raw: RawRow) -> list[Any]:
    """Tool calls as a list; they may be JSON text, as in CSV files."""
    if isinstance(calls, str):
        calls = parsed(calls, f"{raw.where} (tool calls of message {number})")
    if not isinstance(calls, list):
        what = f"the tool calls of message {number} are {described(calls)}, not a list"
        raise UserError(what, raw.where, "write a list of tool calls", code="data.invalid_tool_call")
    return calls


def _called(content: Any) -> list[Any] | None:
    """Tool calls from a JSON object with name and arguments, or a list of these (ShareGPT); None for other text."""
    try:
        value = parsed(content, "") if isinstance(content, str) else content
    except UserError:
        return None
    calls = value if isinstance(value, list) else [value]
    return calls if calls and all(isinstance(call, dict) and "name" in call for call in calls) else None


def _call(call: Any, number: int, raw: RawRow) -> dict[str, Any]:
    """A tool call with its arguments as an object, as chat templates expect; OpenAI's API has them as JSON text."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        what = f"a tool call of message {number} has no name"
        raise UserError(what, raw.where, "add function.name and arguments", code="data.invalid_tool_call")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = parsed(arguments, f"{raw.where}, arguments in message {number}") if arguments.strip() else {}
    identifier = {"id": call["id"]} if call.get("id") else {}
    return {**identifier, "type": "function", "function": {"name": function["name"], "arguments": arguments or {}}}


def tools_of(value: Any, raw: RawRow) -> list[Any] | None:
    """The tool schemas of a row; they may be JSON text, as in CSV files."""
    if not value:
        return None
    if isinstance(value, str):
        value = parsed(value, f"{raw.where} (tools)") if value.strip() else None
    if value is not None and not isinstance(value, list):
        what = f"tools is {described(value)}, not a list"
        raise UserError(what, raw.where, "write a list of tool schemas", code="data.invalid_tools")
    text_of(value, raw, "tools")
    return value or None


def text_of(value: Any, raw: RawRow, part: str) -> str:
    """A value as text. Raises UserError for text that cannot be encoded as UTF-8."""
    text = as_text(value)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = f"invalid Unicode surrogate (\\u{ord(text[error.start]):04x}) at character {error.start + 1} of {part}"
        do = "write both halves of the escape"
        raise UserError(what, raw.where, do, code="data.invalid_surrogate") from error
    return text
