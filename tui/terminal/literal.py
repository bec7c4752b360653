"""The gate of the workbench: whatever a widget draws, only text and Textual's own styles go to the terminal."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from engine.config.text import visible


class Literal(LineFilter):
    """Textual's last step before the terminal, for every widget of every screen, borders and titles included.

    Widgets make their text visible themselves, so that it is laid out as it is shown. What one of them forgets is
    escaped here, in as many cells as there are, so that nothing behind it moves.
    """

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [one if one.control else escaped(one) for one in segments]


def escaped(segment: Segment) -> Segment:
    """The segment itself where there is nothing to escape."""
    shown = visible(segment.text)
    if shown == segment.text:
        return segment
    return Segment(set_cell_size(shown, cell_len(segment.text)), segment.style)
