"""Conversations: a column of lists of {role, content} (OpenAI), or of {from, value} for the format sharegpt."""

from __future__ import annotations

from functools import partial

from engine.config.errors import UserError
from engine.data.columns import ColumnTemplate, column, is_empty
from engine.data.conversation import conversation, turns_of
from engine.data.formats import CHATS, SYSTEMS, TOOLS, ColumnLookup, DataFormat, DetectedFormat
from engine.data.rows import Example, RawRow, UnusableRow


def find_chat(columns: ColumnLookup, style: str) -> DetectedFormat | None:
    """The format for a column of conversations whose messages have the keys of `style`; None if there is none."""
    for name in filter(None, map(columns.find, CHATS)):
        values = (raw.values.get(name) for raw in columns.summary.sample)
        value = next((value for value in values if not is_empty(value)), None)
        # A column with a conversation's name may contain plain text.
        if isinstance(value, list | dict) or (isinstance(value, str) and value.lstrip().startswith("[")):
            break
    else:
        return None
    part = column(name)
    if chat_style(part, columns) != style:
        return None
    keys = "from, value" if style == "sharegpt" else "role, content"
    parts = {"messages": part, **columns.optional_parts(tools=TOOLS, system=SYSTEMS)}
    return DetectedFormat(style, f"column {name} with {keys}: {style}", parts)


def chat_style(part: ColumnTemplate, columns: ColumnLookup) -> str:
    """messages or sharegpt, by the keys of the first message."""
    for raw in columns.summary.sample:
        turns = turns_of(part.fill(raw.values), raw.where, part.source)
        if turns:
            return "sharegpt" if "from" in turns[0] and "role" not in turns[0] else "messages"
    problem = "every conversation is empty"
    raise UserError(problem, f"column {part.source}", "add messages to the rows", code="data.empty_conversations")


def convert_chat(raw: RawRow, detected: DetectedFormat) -> Example:
    part = detected.parts["messages"]
    turns = turns_of(part.fill(raw.values), raw.where, part.source)
    if not turns:
        raise UnusableRow("data.empty", "no messages")
    return conversation(turns, raw, detected)


FORMAT = DataFormat("messages", 20, partial(find_chat, style="messages"), convert_chat)
