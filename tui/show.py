"""How values look on a terminal: sizes, times, scores, tables. Foreign text goes through `visible`."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from engine.contract.text import visible


class Terminal(Console):
    """Rich's console; a reader that has gone ends the command as a pipe's end does everywhere, and not as a failure."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


console = Terminal(highlight=False, markup=False, emoji=False, soft_wrap=False)


def say(text: str, style: str = "") -> None:
    """One line, safe whatever it holds."""
    console.print(Text(visible(text), style=style), soft_wrap=True)


def print_json(value: Any) -> None:
    """JSON for another program; ASCII, so that it is safe on a terminal too."""
    import json  # no screen needs it

    print(json.dumps(value, indent=2, ensure_ascii=True))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """A plain table; the columns numbered in `right` are aligned to the right.

    Where the terminal is too narrow the widest columns after the first are cut, which an ellipsis shows. Written
    at once and not by Rich's table, which takes seconds for a thousand rows.
    """
    shown = [[visible(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(columns, *shown, strict=True)]
    gap = 2 if console.width >= 100 else 1
    while console.is_terminal and sum(widths) + gap * (len(widths) - 1) > console.width and max(widths[1:]) > 4:
        widths[widths.index(max(widths[1:]), 1)] -= 1
    if title:
        console.print(Text(title, style="bold"))
    console.print(Text(_line(columns, widths, right, gap), style="dim"), soft_wrap=True)
    sys.stdout.write("".join(f"{_line(row, widths, right, gap)}\n" for row in shown))
    sys.stdout.flush()


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[int], gap: int) -> str:
    made = []
    for number, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        cut = cell if cell_len(cell) <= width else set_cell_size(cell, width - 1).rstrip() + "…"
        filling = " " * (width - cell_len(cut))
        made.append(filling + cut if number in right else cut + filling)
    return (" " * gap).join(made).rstrip()


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


def number(value: float) -> str:
    """At most six characters: `0.123`, `12.3`, `1.2e-5`, `45k`."""
    size = abs(value)
    if size and (size < 1e-3 or size >= 1e6):
        text = f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
        return text if len(text) <= 6 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    if size >= 1e4:
        return f"{value / 1e3:.0f}k"
    return f"{value:.4g}" if size >= 100 else f"{value:.3g}"


def setting(value: object) -> str:
    """A value of a configuration as a preset would have it; what is not set says so."""
    if isinstance(value, bool):
        return str(value).lower()
    return "unset" if value is None or value == "" else str(value)


def moment(seconds: float, form: str) -> str:
    """Unix seconds as local time; a dash for what no calendar has, as damaged files may say."""
    try:
        return time.strftime(form, time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "–"


def duration(seconds: float | None) -> str:
    """1:02:03, 4:05 or 6.7 s."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
