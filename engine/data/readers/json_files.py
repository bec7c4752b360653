"""Read JSON files: JSON lines are streamed; a single JSON value is kept as bytes and decoded row by row.

A value that is not a flat object may be one, too: a list of messages, a [prompt, answer] pair, an article of SQuAD.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from engine.config.errors import UserError
from engine.data.readers.text_files import decoded, lines, no_rows, whole
from engine.data.rows import (
    DEPTH_LIMIT,
    MAX_ROW_BYTES,
    MAX_ROWS,
    RawRow,
    ReadingNotes,
    described,
    is_deeper,
    parsed,
    raw_row,
    too_deep,
    too_many_rows,
)

NESTED = "paragraphs"
"""The key under which SQuAD nests passages with their questions."""
_INVALID = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Exceptions of the fast decoder. The standard library's parser then decides; its errors contain the position."""


def read_lines(path: Path, name: str) -> Iterator[RawRow]:
    """One row per line; blank lines are skipped."""
    decode = msgspec.json.Decoder().decode
    count = 0
    for number, line in lines(path, name):
        where = f"{name} line {number}"
        try:
            values = decode(line)
        except _INVALID:
            text = decoded(line, name, number).strip()
            if not text:
                continue
            values = parsed(text, where)
        else:
            if line.count(b"{") + line.count(b"[") > DEPTH_LIMIT and is_deeper(values, DEPTH_LIMIT):
                raise too_deep(where)
        count += 1
        if count > MAX_ROWS:
            raise too_many_rows(name)
        if type(values) is dict and NESTED not in values:
            yield RawRow(values, where)  # the length of a line is limited
        else:
            yield from rows_of(values, where)


def read_json(path: Path, name: str, notes: ReadingNotes) -> Iterator[RawRow]:
    """The rows of one JSON value: an array, or an object with an array of rows, columns, or rows by id."""
    content = whole(path, name).lstrip()
    if not content:
        raise no_rows(name)
    if content[:1] == b"[":
        yield from _array(content, content, name, f"{name} item", notes)
        return
    members = _members(content)
    if members is None:
        if _is_lines(content, name):
            notes.add(f"{name}: contains JSON lines, read as .jsonl")
            yield from read_lines(path, name)
        else:
            yield from _decoded_rows(content, name)
        return
    # An object: its rows are decoded as late as possible.
    firsts = {key: first for key, item in members.items() if (first := _first(item)) is not None}
    arrays = [key for key, first in firsts.items() if isinstance(first, dict)]
    if len(firsts) == 1:  # the only candidate, so rows may be arrays as well
        arrays = [key for key, first in firsts.items() if isinstance(first, dict | list)]
    if len(arrays) == 1 and not _is_message(firsts[arrays[0]]) and NESTED not in members:
        yield from _array(members[arrays[0]], content, name, f"{name} item")
    elif len(arrays) > 1 and not any(_is_message(firsts[key]) for key in arrays):
        problem = f"several arrays of rows ({', '.join(arrays[:8])})"
        hint = "name them train, validation and test, or write each to a separate file"
        raise UserError(problem, name, hint, code="data.several_arrays")
    else:
        yield from _decoded_rows(content, name)


def read_member(path: Path, name: str, key: str) -> Iterator[RawRow]:
    """The rows of the array under one key of a JSON object of splits."""
    content = whole(path, name)
    members = _members(content)
    if members is None or key not in members:
        hint = "run the command again"
        raise UserError("the file changed while it was read", name, hint, code="data.changed")
    yield from _array(members[key], content, name, f"{name} {key} item")


def array_keys(path: Path, name: str) -> list[str]:
    """The keys of a JSON object whose values are arrays of rows; empty for other files."""
    content = whole(path, name)
    if content.lstrip()[:1] != b"{":
        return []
    return [key for key, item in (_members(content) or {}).items() if isinstance(_first(item), dict | list)]


def _members(content: bytes) -> dict[str, msgspec.Raw] | None:
    """Undecoded values of a JSON object by key; None if the content is not a single valid object."""
    try:
        return msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    except _INVALID:
        return None


def _first(array: msgspec.Raw) -> Any:
    """The first value of an undecoded JSON array; None for anything else."""
    if bytes(memoryview(array)[:1]) != b"[":
        return None
    try:
        items = msgspec.json.decode(array, type=list[msgspec.Raw])
        return msgspec.json.decode(items[0]) if items else None
    except _INVALID:
        return None


def _array(
    array: bytes | msgspec.Raw, content: bytes, name: str, label: str, notes: ReadingNotes | None = None
) -> Iterator[RawRow]:
    """Rows of a JSON array in the file's `content`, decoded one at a time."""
    try:
        items = msgspec.json.decode(array, type=list[msgspec.Raw])
    except _INVALID:
        yield from _decoded_rows(content, name)
        return
    if notes is not None and items and _is_message(_decoded(items[0], content, name, f"{label} 1")):
        notes.add(f"{name}: read as one conversation")
        yield from rows_of([_decoded(item, content, name, name) for item in items], name)
        return
    if len(items) > MAX_ROWS:
        raise too_many_rows(name)
    for number, item in enumerate(items, 1):
        where = f"{label} {number}"
        value = _decoded(item, content, name, where)
        if type(value) is dict and NESTED not in value and len(memoryview(item)) <= MAX_ROW_BYTES:
            yield RawRow(value, where)
        else:
            yield from rows_of(value, where)


def _decoded(item: msgspec.Raw, content: bytes, name: str, where: str) -> Any:
    try:
        value = msgspec.json.decode(item)
    except _INVALID:
        _precise(content, name)  # raises an error with line and column in the file
        return parsed(bytes(item).decode(), where)
    text = bytes(item)
    if text.count(b"{") + text.count(b"[") > DEPTH_LIMIT and is_deeper(value, DEPTH_LIMIT):
        raise too_deep(where)
    return value


def _is_lines(content: bytes, name: str) -> bool:
    """Whether another value follows the first one."""
    try:
        json.loads(decoded(content, name))
    except json.JSONDecodeError as error:
        return error.msg == "Extra data" and content[:1] == b"{"
    except (ValueError, RecursionError):
        return False
    return False


def _decoded_rows(content: bytes, name: str) -> Iterator[RawRow]:
    """Rows of a file that `_array` does not cover, decoded at once. Raises UserError if it has none."""
    value = _precise(content, name)
    if isinstance(value, dict):
        members = list(value.values())
        # Whether the object is itself a row: a conversation, or an article with nested questions.
        is_row = NESTED in value or any(isinstance(item, list) and item and _is_message(item[0]) for item in members)
        if len(members) > 1 and all(isinstance(item, list) for item in members) and not is_row:
            if len(set(map(len, members))) > 1:
                sizes = ", ".join(f"{key} {len(items)}" for key, items in list(value.items())[:8])
                problem = f"columns of different lengths ({sizes})"
                raise UserError(problem, name, "give all columns the same length", code="data.unequal_columns")
            value = [dict(zip(value, items, strict=True)) for items in zip(*members, strict=True)]
        elif members and all(isinstance(item, dict) for item in members):
            value = members
        elif is_row and any(isinstance(item, list) for item in members):
            value = [value]
        else:
            problem = "an object without an array of rows"
            raise UserError(problem, name, "write an array of objects", code="data.invalid_rows")
    if not isinstance(value, list):
        hint = "write an array of objects"
        raise UserError(f"expected rows, found {described(value)}", name, hint, code="data.invalid_rows")
    for number, item in enumerate(value, 1):
        yield from rows_of(item, f"{name} item {number}")


def _is_message(item: Any) -> bool:
    return is_turn(item) and not {"content", "value", "tool_calls"}.isdisjoint(item)


def _precise(content: bytes, name: str) -> Any:
    """Parse with the standard library, which accepts NaN and lone surrogates and gives error positions."""
    return parsed(decoded(content, name), name, is_file=True)


def rows_of(value: Any, where: str) -> Iterator[RawRow]:
    """The rows of one value in a file: a single row, or one per question of an article of SQuAD (Rajpurkar et al. 2016,
    arXiv:1606.05250: article -> paragraphs -> qas).

    Raises UserError for other values.
    """
    if isinstance(value, list) and value and all(map(is_turn, value)):
        value = {"messages": value}
    elif isinstance(value, list) and len(value) == 2 and all(isinstance(item, str) for item in value):
        value = {"prompt": value[0], "completion": value[1]}
    if not isinstance(value, dict) or not isinstance(value.get(NESTED), list):
        yield raw_row(value, where)
        return
    outer = {key: inner for key, inner in value.items() if key != NESTED}
    number = 0
    for paragraph in value[NESTED]:
        if not isinstance(paragraph, dict) or not isinstance(paragraph.get("qas"), list):
            yield raw_row(value, where)
            return
        shared = outer | {key: inner for key, inner in paragraph.items() if key != "qas"}
        for question in paragraph["qas"]:
            number += 1
            place = f"{where} question {number}"
            yield raw_row({**shared, **question} if isinstance(question, dict) else question, place)


def is_turn(value: Any) -> bool:
    """Whether a value is one message of a conversation."""
    return isinstance(value, dict) and ("role" in value or "from" in value)
