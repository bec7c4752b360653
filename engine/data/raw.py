"""A row as it was read, and the bounds that every row keeps, whatever file it comes from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from engine.contract.errors import UserError
from engine.data.opened import ROW_LIMIT

DEPTH_LIMIT = 64
"""Levels a row may nest: chat rows with tool schemas need about a dozen."""
ROWS_LIMIT = 5_000_000
"""Rows a set may have: they are held in memory."""


@dataclass(frozen=True, slots=True)
class Raw:
    """A row as it was read: its columns, and where it is (`train.jsonl line 7`)."""

    values: dict[str, Any]
    where: str


def row(values: Any, where: str) -> Raw:
    """A checked row: an object with columns, not too deep, no value too long."""
    if not isinstance(values, dict):
        what = f"{described(values)} where a row should be an object"
        raise UserError(what, where, 'write rows as {"column": value, …}; an array of rows belongs in a .json file')
    if _deeper(values, DEPTH_LIMIT):
        raise UserError(f"nested more than {DEPTH_LIMIT} deep", where, "flatten or drop the row")
    for key, value in values.items():
        if isinstance(value, str) and len(value) > ROW_LIMIT:
            raise UserError(f"longer than {ROW_LIMIT >> 20} MiB", f"{where} ({key})", "shorten or drop the row")
    return Raw(values, where)


def parsed(text: str, where: str) -> Any:
    """A JSON value of bounded depth; UserError names the column at which it stops being JSON."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise UserError(f"nested more than {DEPTH_LIMIT} deep", where, "flatten or drop the row") from error
    except json.JSONDecodeError as error:
        place = f"{where} column {error.colno}" if error.lineno == 1 else f"{where}, its line {error.lineno}"
        cut = error.pos >= len(text) or error.msg.startswith("Unterminated")
        do = "the row is cut off: mend or delete it" if cut else "mend the row"
        raise UserError(f"not JSON ({error.msg})", place, do) from error
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"not a usable JSON value ({error})", where, "mend the row") from error
    if _deeper(value, DEPTH_LIMIT):
        raise UserError(f"nested more than {DEPTH_LIMIT} deep", where, "flatten or drop the row")
    return value


def described(value: Any) -> str:
    """What a value is, in the words of an error line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    names: dict[type, str] = {str: "text", list: "a list", tuple: "a list", dict: "an object", bytes: "bytes"}
    return names.get(type(value), f"a {type(value).__name__}")


def _deeper(value: Any, limit: int) -> bool:
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
