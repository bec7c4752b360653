"""Read JSON files: lines are streamed, the items of an array are decoded one by one, an object is decoded at once.

A value that is not a flat object may be a row, too: a list of messages, a [prompt, answer] pair, an article of SQuAD.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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

NESTED = {"paragraphs": "qas", "instances": ""}
"""Keys of lists that have rows: passages with lists of questions (SQuAD), instances of an instruction (seed tasks)."""
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
            text = decoded(line, path, name, number).strip()
            if not text:
                continue
            values = parsed(text, where)
        count += 1
        if count > MAX_ROWS:
            raise too_many_rows(name)
        yield from _rows(values, line, where)


def read_json(path: Path, name: str, notes: ReadingNotes) -> Iterator[RawRow]:
    """The rows of one JSON value: an array, or an object with an array of rows, columns, or rows by id."""
    content = whole(path, name).lstrip()
    if not content:
        raise no_rows(name)
    if content[:1] == b"[":
        yield from _array(content, path, name, notes)
        return
    try:
        value = _value(content, path, name)
    except UserError as error:
        if content[:1] != b"{" or getattr(error.__cause__, "msg", "") != "Extra data":
            raise
        notes.add(f"{name}: contains JSON lines, read as .jsonl")
        yield from read_lines(path, name)
    else:
        yield from _numbered(_rows_in(value, name), name, f"{name} item")


def read_member(path: Path, name: str, key: str) -> Iterator[RawRow]:
    """The rows of the array under one key of a JSON object of splits."""
    value = _value(whole(path, name), path, name)
    if not isinstance(value, dict) or not isinstance(value.get(key), list):
        hint = "run the command again"
        raise UserError("the file changed while it was read", name, hint, code="data.changed")
    yield from _numbered(value[key], name, f"{name} {key} item")


def array_keys(path: Path, name: str) -> list[str]:
    """The keys of a JSON object whose values are arrays of rows; empty for other files."""
    content = whole(path, name)
    if content.lstrip()[:1] != b"{":
        return []
    try:
        value = _value(content, path, name)
    except UserError:  # JSON lines, or invalid, as `read_json` will say
        return []
    return [key for key, items in _arrays(value).items() if isinstance(items[0], dict | list)]


def _arrays(value: dict[str, Any]) -> dict[str, list[Any]]:
    """The arrays in an object that are not empty and do not start with null."""
    return {key: item for key, item in value.items() if isinstance(item, list) and item and item[0] is not None}


def _rows_in(value: Any, name: str) -> list[Any]:
    """The rows of an object: the object itself (a conversation, an article with nested questions), the items of its
    only array of rows, the rows of its columns, or its values (rows by id). Raises UserError if it has none.
    """
    hint = "write an array of objects"
    if not isinstance(value, dict):
        raise UserError(f"expected rows, found {described(value)}", name, hint, code="data.invalid_rows")
    if (columns := _pandas_columns(value)) is not None:
        return columns
    arrays, members = _arrays(value), list(value.values())
    is_row = not NESTED.keys().isdisjoint(value) or any(_is_message(items[0]) for items in arrays.values())
    if is_row and any(isinstance(item, list) for item in members):
        return [value]
    row_types = (dict, list) if len(arrays) == 1 else (dict,)  # rows of the only array may be arrays as well
    keys = [key for key, items in arrays.items() if isinstance(items[0], row_types)]
    if len(keys) == 1:
        return arrays[keys[0]]
    if keys:
        problem = f"several arrays of rows ({', '.join(keys[:8])})"
        hint = "name them train, validation and test, or write each to a separate file"
        raise UserError(problem, name, hint, code="data.several_arrays")
    if len(members) > 1 and all(isinstance(item, list) for item in members):
        if len(set(map(len, members))) > 1:
            sizes = ", ".join(f"{key} {len(items)}" for key, items in list(value.items())[:8])
            problem = f"columns of different lengths ({sizes})"
            raise UserError(problem, name, "give all columns the same length", code="data.unequal_columns")
        return [dict(zip(value, items, strict=True)) for items in zip(*members, strict=True)]
    if members and all(isinstance(item, dict) for item in members):
        return members
    raise UserError("an object without an array of rows", name, hint, code="data.invalid_rows")


def _pandas_columns(value: dict[str, Any]) -> list[Any] | None:
    """The rows of what `DataFrame.to_json` writes with orient split (columns, index, data) or columns ({column: {row:
    value}}); None for another object.
    """
    names, data = value.get("columns"), value.get("data")
    if value.keys() <= {"columns", "index", "data"} and isinstance(names, list) and isinstance(data, list):
        rows = [row for row in data if isinstance(row, list) and len(row) == len(names)]
        return [dict(zip(map(str, names), row, strict=True)) for row in rows] if len(rows) == len(data) else None
    members = list(value.values())
    if not members or not all(isinstance(column, dict) and column for column in members):
        return None
    keys = list(dict.fromkeys(key for column in members for key in column))
    if not all(key.isdigit() for key in keys) or all(key.isdigit() for key in value):
        return None
    return [{name: column.get(key) for name, column in value.items()} for key in keys]


def _array(content: bytes, path: Path, name: str, notes: ReadingNotes) -> Iterator[RawRow]:
    """Rows of a JSON array, decoded one at a time."""
    try:
        items = msgspec.json.decode(content, type=list[msgspec.Raw])
    except _INVALID:
        yield from _numbered(_precise(content, path, name), name, f"{name} item")
        return
    if items and _is_message(_item(items[0], content, path, name, f"{name} item 1")):
        notes.add(f"{name}: read as one conversation")
        yield from rows_of([_item(item, content, path, name, name) for item in items], name)
        return
    if len(items) > MAX_ROWS:
        raise too_many_rows(name)
    for number, item in enumerate(items, 1):
        where = f"{name} item {number}"
        yield from _rows(_item(item, content, path, name, where), bytes(item), where)


def _item(item: msgspec.Raw, content: bytes, path: Path, name: str, where: str) -> Any:
    """The value of an item of the array that is the file's `content`."""
    try:
        return msgspec.json.decode(item)
    except _INVALID:
        _precise(content, path, name)  # raises an error with line and column in the file
        return parsed(bytes(item).decode(), where)


def _rows(value: Any, text: bytes, where: str) -> Iterable[RawRow]:
    """`rows_of` with checks by the value's text, which are fast."""
    if text.count(b"{") + text.count(b"[") > DEPTH_LIMIT and is_deeper(value, DEPTH_LIMIT):
        raise too_deep(where)
    if type(value) is dict and NESTED.keys().isdisjoint(value) and len(text) <= MAX_ROW_BYTES:
        return (RawRow(value, where),)
    return rows_of(value, where)


def _numbered(items: list[Any], name: str, label: str) -> Iterator[RawRow]:
    if len(items) > MAX_ROWS:
        raise too_many_rows(name)
    for number, item in enumerate(items, 1):
        yield from rows_of(item, f"{label} {number}")


def _value(content: bytes, path: Path, name: str) -> Any:
    """A file's JSON value. Raises UserError with the position of the error."""
    try:
        return msgspec.json.decode(content)
    except _INVALID:
        return _precise(content, path, name)


def _is_message(item: Any) -> bool:
    return is_turn(item) and not {"content", "value", "tool_calls"}.isdisjoint(item)


def _precise(content: bytes, path: Path, name: str) -> Any:
    """Parse with the standard library, which accepts NaN and lone surrogates and gives error positions."""
    return parsed(decoded(content, path, name), name, is_file=True)


def rows_of(value: Any, where: str) -> Iterator[RawRow]:
    """The rows of one value in a file: a single row, or one per question of an article of SQuAD (Rajpurkar et al. 2016,
    arXiv:1606.05250: article -> paragraphs -> qas), or per instance of an instruction.

    Raises UserError for other values.
    """
    if isinstance(value, list) and value and all(map(is_turn, value)):
        value = {"messages": value}
    elif isinstance(value, list) and len(value) == 2 and all(isinstance(item, str) for item in value):
        value = {"prompt": value[0], "completion": value[1]}
    key = next((key for key in NESTED if isinstance(value, dict) and isinstance(value.get(key), list)), "")
    if not key or not value[key]:
        yield raw_row(value, where)
        return
    outer = {name: inner for name, inner in value.items() if name != key}
    if not NESTED[key]:
        if not all(isinstance(instance, dict) for instance in value[key]):
            yield raw_row(value, where)
            return
        for number, instance in enumerate(value[key], 1):
            yield raw_row(outer | instance, f"{where} instance {number}")
        return
    number = 0
    for paragraph in value[key]:
        if not isinstance(paragraph, dict) or not isinstance(paragraph.get(NESTED[key]), list):
            yield raw_row(value, where)
            return
        shared = outer | {name: inner for name, inner in paragraph.items() if name != NESTED[key]}
        for question in paragraph[NESTED[key]]:
            number += 1
            place = f"{where} question {number}"
            yield raw_row({**shared, **question} if isinstance(question, dict) else question, place)


def is_turn(value: Any) -> bool:
    """Whether a value is one message of a conversation."""
    return isinstance(value, dict) and ("role" in value or "from" in value)
