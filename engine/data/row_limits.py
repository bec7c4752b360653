"""One row as it was read, and the limits that every row keeps: depth, size and number of rows."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from engine.config.errors import UserError
from engine.data.safe_open import ROW_LIMIT

DEPTH_LIMIT = 64
"""Levels a row may nest: chat rows with tool schemas need about a dozen."""
ROWS_LIMIT = 5_000_000
"""Rows of a file or split."""


class Raw(msgspec.Struct, frozen=True):
    """A row as it was read: its columns, and its place (`train.jsonl line 7`)."""

    values: dict[str, Any]
    where: str


def row(values: Any, where: str) -> Raw:
    """Check a row: an object with columns, nested no deeper than DEPTH_LIMIT, no text longer than ROW_LIMIT."""
    if not isinstance(values, dict):
        what = f"{described(values)} where a row should be an object"
        do = 'write rows as {"column": value, …}, as a list of messages, or as [prompt, answer]'
        raise UserError(what, where, do, code="data.invalid_row")
    if deeper(values, DEPTH_LIMIT):
        raise too_deep(where)
    for key, value in values.items():
        if isinstance(value, str) and len(value) > ROW_LIMIT:
            what = f"longer than {ROW_LIMIT >> 20} MiB"
            raise UserError(what, f"{where} ({key})", "shorten or drop the row", code="data.row_too_long")
    return Raw(values, where)


def too_deep(where: str) -> UserError:
    return UserError(f"nested more than {DEPTH_LIMIT} deep", where, "flatten or drop the row", code="data.too_deep")


def too_many_rows(where: str, do: str = "split the file or take a part of it") -> UserError:
    return UserError(f"more than {ROWS_LIMIT:,} rows", where, do, code="data.too_many_rows")


def parsed(text: str, where: str) -> Any:
    """A JSON value of bounded depth. UserError names the column at which the text stops being JSON."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise too_deep(where) from error
    except json.JSONDecodeError as error:
        place = f"{where} column {error.colno}" if error.lineno == 1 else f"{where}, its line {error.lineno}"
        cut = error.pos >= len(text) or error.msg.startswith("Unterminated")
        do = "the row is cut off: complete or delete it" if cut else "correct the row"
        raise UserError(f"invalid JSON ({error.msg})", place, do, code="data.invalid_json") from error
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"invalid JSON ({error})", where, "correct the row", code="data.invalid_json") from error
    if deeper(value, DEPTH_LIMIT):
        raise too_deep(where)
    return value


def described(value: Any) -> str:
    """The kind of a value, as errors call it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    names: dict[type, str] = {str: "text", list: "a list", tuple: "a list", dict: "an object", bytes: "bytes"}
    return names.get(type(value), f"a {type(value).__name__}")


def deeper(value: Any, limit: int) -> bool:
    """Whether containers nest deeper than `limit`; walks level by level, so that depth costs no stack."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(limit):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
