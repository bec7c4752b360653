"""Conversations of message trees: rows that each are one message and name its parent, as OpenAssistant publishes them.

Each path from a root to a leaf is a conversation. An answer on several paths is in the loss of the first of them only.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from engine.config.errors import UserError
from engine.config.text import amount
from engine.data.rows import RawRow, ReadingNotes

TREE = "message_tree_id"
"""Column of a conversation's tree: its rows stay in one split."""
_COLUMNS = {"message_id", "parent_id", "role"}
_TEXTS = ("text", "content")


def without_trees(rows: Iterator[RawRow], name: str, notes: ReadingNotes) -> Iterator[RawRow]:
    """The rows as they are, or the conversations if each row is one message of a tree. name: the file in notes."""
    first = next(rows, None)
    if first is None:
        return
    rows = chain([first], rows)
    text = next((key for key in _TEXTS if key in first.values), "")
    if text and first.values.keys() >= _COLUMNS and isinstance(first.values["role"], str):
        rows = _conversations(list(rows), text, name, notes)
    yield from rows


def _conversations(rows: list[RawRow], text: str, name: str, notes: ReadingNotes) -> Iterator[RawRow]:
    by_id: dict[Any, RawRow] = {}
    for raw in rows:
        identifier = raw.values.get("message_id")
        if identifier in by_id or not isinstance(identifier, str | int):
            problem = f"message_id {identifier!r} is not that of a single message"
            hint = "give each message an id of its own"
            raise UserError(problem, raw.where, hint, code="data.invalid_tree")
        by_id[identifier] = raw
    parents = {raw.values.get("parent_id") for raw in rows}
    leaves = [identifier for identifier in by_id if identifier not in parents]
    notes.add(f"{name}: {amount(len(rows), 'message')} in trees, read as {amount(len(leaves), 'conversation')}", True)
    if not leaves:
        problem, hint = "every message has an answer: the parents form a circle", "correct parent_id"
        raise UserError(problem, name, hint, code="data.invalid_tree")
    trained: set[Any] = set()
    for leaf in leaves:
        path: list[Any] = []
        place: Any = leaf
        while place in by_id and place not in path:
            path.append(place)
            place = by_id[place].values.get("parent_id")
        messages = []
        for identifier in reversed(path):
            values = by_id[identifier].values
            message = {"role": values.get("role"), "content": values.get(text)}
            if identifier in trained and message["role"] in ("assistant", "gpt", "bot", "model"):
                message["weight"] = 0
            messages.append(message)
        trained.update(path)
        tree = by_id[path[-1]].values.get(TREE) or path[-1]
        yield RawRow({"messages": messages, TREE: str(tree)}, by_id[leaf].where)
