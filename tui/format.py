"""Format values for the screen and the CLI: axis labels, scores, settings and moments; the columns and rows of tables.

Sizes, durations, counts and shares: `engine.config.quantities`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from rich.cells import cell_len

from engine.config.quantities import ABSENT


def number(value: float) -> str:
    """A number in at most six characters: `0.123`, `12.3`, `1.2e-5`, `45k`."""
    size = abs(value)
    if 1e4 <= size < 1e6:
        return f"{value / 1e3:.0f}k"
    if size and (size < 1e-3 or size >= 1e6):
        texts = [f"{value:.{digits}e}".replace("e-0", "e-").replace("e+0", "e") for digits in (1, 0)]
    else:
        texts = [f"{value:.{digits}g}" for digits in (4 if size >= 100 else 3, 2, 1)]
    return next((text for text in texts if len(text) <= 6), texts[-1])


def four_digits(value: float | None) -> str:
    """A loss or perplexity with four significant digits."""
    return ABSENT if value is None else f"{value:.4g}"


def setting(value: object) -> str:
    """A configuration value as in a preset file; `unset` for one without a value."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={setting(entry)}" for key, entry in value.items()) or "unset"
    if isinstance(value, list | tuple):
        return ", ".join(map(setting, value)) or "unset"
    return "unset" if value is None or value == "" else str(value)


def last_part(name: str) -> str:
    """The last part of a path or Hub id."""
    return name.rstrip("/").rpartition("/")[2] or name


def without_middle(name: str, cells: int) -> str:
    """A name cut to a width in the middle: names of files and presets differ at their ends too."""
    if cell_len(name) <= cells:
        return name
    head, tail = name[: cells * 2 // 3], name[-(cells // 3) :]
    while head and cell_len(head) + cell_len(tail) >= cells:
        head = head[:-1]
    return f"{head}…{tail}"


def moment(seconds: float, form: str) -> str:
    """Unix seconds as local time; a dash for times outside the calendar, which damaged files may contain."""
    try:
        return time.strftime(form, time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return ABSENT


@dataclass(frozen=True)
class Column:
    """A column; `least` is its minimum width when truncated, 0 means it may be dropped, the last one first.

    `droppable`: it is truncated to the width that others leave, and dropped if that is less than `least`.
    """

    name: str
    least: int = 0
    right: bool = False
    droppable: bool = False


Cell = tuple[str, str]
"""(text, style); control characters in the text are made visible."""


@dataclass(frozen=True)
class TableRow:
    key: str
    cells: tuple[Cell, ...]
