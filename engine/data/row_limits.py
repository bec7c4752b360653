"""A raw row, and limits on the depth, size and number of rows."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from engine.config.errors import UserError
from engine.data.safe_open import MAX_ROW_BYTES

DEPTH_LIMIT = 64
"""Maximum nesting of a row: chat rows with tool schemas need about 12 levels."""
MAX_ROWS = 5_000_000
"""Maximum rows of a file or split."""


class RawRow(msgspec.Struct, frozen=True):
    """A row as it was read: its columns and its place (`train.jsonl line 7`)."""

    values: dict[str, Any]
    where: str


def row(values: Any, where: str) -> RawRow:
    """Check that a row is an object within DEPTH_LIMIT, with no text of more than MAX_ROW_BYTES characters."""
    if not isinstance(values, dict):
        what = f"expected an object as row, found {described(values)}"
        do = 'write rows as {"column": value, …}, as a list of messages, or as [prompt, answer]'
        raise UserError(what, where, do, code="data.invalid_row")
    if deeper(values, DEPTH_LIMIT):
        raise too_deep(where)
    for key, value in values.items():
        if isinstance(value, str) and len(value) > MAX_ROW_BYTES:
            what = f"text longer than {MAX_ROW_BYTES >> 20} MiB"
            raise UserError(what, f"{where} ({key})", "shorten or drop the row", code="data.row_too_long")
    return RawRow(values, where)


def too_deep(where: str) -> UserError:
    return UserError(f"nested deeper than {DEPTH_LIMIT} levels", where, "flatten or drop the row", code="data.too_deep")


def too_many_rows(where: str, do: str = "split the file or use a part of it") -> UserError:
    return UserError(f"more than {MAX_ROWS:,} rows", where, do, code="data.too_many_rows")


def parsed(text: str, where: str) -> Any:
    """Parse JSON of limited depth. Raises UserError with the column of the error."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise too_deep(where) from error
    except json.JSONDecodeError as error:
        place = f"{where} column {error.colno}" if error.lineno == 1 else f"{where}, line {error.lineno} of the value"
        truncated = error.pos >= len(text) or error.msg.startswith("Unterminated")
        do = "complete or delete the row: it is truncated" if truncated else "correct the row"
        raise UserError(f"invalid JSON ({error.msg})", place, do, code="data.invalid_json") from error
    except ValueError as error:  # a number with thousands of digits
        raise UserError(f"invalid JSON ({error})", where, "correct the row", code="data.invalid_json") from error
    if deeper(value, DEPTH_LIMIT):
        raise too_deep(where)
    return value


def described(value: Any) -> str:
    """The kind of a value, for errors."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    names: dict[type, str] = {str: "text", list: "a list", tuple: "a list", dict: "an object", bytes: "bytes"}
    return names.get(type(value), f"a {type(value).__name__}")


def deeper(value: Any, limit: int) -> bool:
    """Whether containers are nested deeper than `limit`; iterative, because deep values would overflow the stack."""
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
