"""How values look on a terminal: sizes, times, scores, tables. Foreign text goes through `visible`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.contract.text import visible

console = Console(highlight=False, markup=False, emoji=False, soft_wrap=False)
errors = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def say(text: str, style: str = "") -> None:
    """One line, safe whatever it holds."""
    console.print(Text(visible(text), style=style), soft_wrap=True)


def print_json(value: Any) -> None:
    """JSON for another program; ASCII, so that it is safe on a terminal too."""
    print(json.dumps(value, indent=2, ensure_ascii=True))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """A plain table; the columns numbered in `right` are aligned to the right, the first is never broken."""
    gap = 2 if console.width >= 100 else 1
    made = Table(title=title or None, title_justify="left", title_style="bold", box=None, padding=(0, gap, 0, 0))
    for number, column in enumerate(columns):
        align: Literal["left", "right"] = "right" if number in right else "left"
        made.add_column(column, justify=align, overflow="fold", no_wrap=number == 0, header_style="dim")
    for row in rows:
        made.add_row(*(Text(visible(cell)) for cell in row))
    console.print(made)


def size(count: float | None) -> str:
    """Bytes in binary units."""
    if count is None:
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return (
                f"{count:.0f} {unit}"
                if unit == "B"
                else f"{count:.3g} {unit}"
                if count < 100
                else f"{count:.0f} {unit}"
            )
        count /= 1024
    return ""


def count(number: float) -> str:
    """Parameters or tokens: 1.23 M."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number:.0f}"


def duration(seconds: float | None) -> str:
    """1:02:03, 4:05 or 6.7 s."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
