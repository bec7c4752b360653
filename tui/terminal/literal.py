"""A line filter that keeps control characters in any widget's output from the terminal."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from engine.config.text import visible


class ControlCharacterFilter(LineFilter):
    """Line filter that Textual applies to every widget of every screen, borders and titles included.

    Widgets escape their text themselves, so that the layout is right. Text that a widget missed is escaped here and
    cut to the same number of cells, so that the rest of the line does not move.
    """

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [one if one.control else escaped_segment(one) for one in segments]


def escaped_segment(segment: Segment) -> Segment:
    """The segment with control characters escaped; unchanged if it has no control characters."""
    shown = visible(segment.text)
    if shown == segment.text:
        return segment
    return Segment(set_cell_size(shown, cell_len(segment.text)), segment.style)
