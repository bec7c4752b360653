"""Output of subcommands: lines, tables, JSON and Rich displays, with control characters escaped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import IO, Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from engine.config.text import visible
from tui.output import streams
from tui.output.streams import literal


class EscapingConsole(Console):
    """Rich's console with all text escaped, titles and columns of its displays included.

    A closed pipe (`| head`) raises BrokenPipeError, which ends the command without an error.
    """

    @property
    def file(self) -> IO[str]:
        stream: IO[str] = streams.raw(super().file)
        return stream

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or (segment.text.isascii() and segment.text.isprintable()):
                yield segment
            else:
                yield Segment(literal(segment.text), segment.style)

    def show_cursor(self, show: bool = True) -> bool:
        """Leave the cursor visible: a command that a signal ends or suspends could not show it again."""
        return False

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


# without a width of 0, at which Rich prints nothing
_environment = {name: value for name, value in os.environ.items() if name != "COLUMNS" or value.strip("0 ")}
console = EscapingConsole(highlight=False, markup=False, emoji=False, soft_wrap=False, _environ=_environment)


def say(text: str, style: str = "") -> None:
    """Print one line with control characters escaped."""
    console.print(Text(visible(text), style=style), soft_wrap=True)


def print_json(value: Any) -> None:
    """Print JSON as printable ASCII, which is safe on a terminal too."""
    streams.write(streams.json_text(value, indent=2) + "\n")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Print a plain table; the columns whose index is in `right` are right-aligned.

    On a narrow terminal the widest columns after the first are truncated with an ellipsis. Not Rich's table, which
    takes seconds for a thousand rows.
    """
    shown = [[visible(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(columns, *shown, strict=True)]
    gap = 2 if console.width >= 100 else 1
    while console.is_terminal and sum(widths) + gap * (len(widths) - 1) > console.width and max(widths[1:]) > 4:
        widths[widths.index(max(widths[1:]), 1)] -= 1
    if title:
        say(title, "bold")
    console.print(Text(_line(columns, widths, right, gap), style="dim"), soft_wrap=True)
    streams.write("".join(f"{_line(row, widths, right, gap)}\n" for row in shown))
    streams.flush()


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[int], gap: int) -> str:
    parts = []
    for number, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        cut = cell if cell_len(cell) <= width else set_cell_size(cell, width - 1).rstrip() + "…"
        filling = " " * (width - cell_len(cut))
        parts.append(filling + cut if number in right else cut + filling)
    return (" " * gap).join(parts).rstrip()
