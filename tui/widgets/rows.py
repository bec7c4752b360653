"""A pane of lines that sends only those cells to the terminal that have changed: cheap over a slow connection."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from textual.content import Content
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.visual import Visual
from textual.widget import Widget

EMPTY = Content("")
Cell = tuple[str, tuple[object, ...]]
"""A character and the styles that lie on it."""


class Rows(Widget):
    """Shows one `Content` a line; what is longer than the pane is cut, what is missing is empty."""

    DEFAULT_CSS = "Rows { height: 1fr; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.lines: list[Content] = []
        self._changed: dict[int, tuple[int, int]] = {}
        """Row -> the columns that its last change touched."""

    def show(self, lines: Sequence[Content]) -> None:
        """Replace the lines; cells that stay the same are not sent again."""
        old, self.lines = self.lines, list(lines)
        width = self.content_size.width
        if not width:
            return
        for row in range(max(len(old), len(self.lines))):
            before = old[row] if row < len(old) else EMPTY
            after = self.lines[row] if row < len(self.lines) else EMPTY
            if columns := changed(before, after, width):
                self._changed[row] = columns
                self.refresh(Region(columns[0], row, columns[1] - columns[0], 1))

    def render_line(self, y: int) -> Strip:
        width = self.content_size.width
        style = self.visual_style
        if y >= len(self.lines):
            return Strip.blank(width, style.rich_style)
        line = self.lines[y].truncate(width, ellipsis=True)
        (strip,) = Visual.to_strips(self, line, width, 1, style, pad=True) or [Strip.blank(width, style.rich_style)]
        # Textual sends whole segments: one that begins and ends with the change is all that goes out.
        cuts = sorted({*self._changed.get(y, ()), width} - {0})
        return Strip.join(strip.divide(cuts)) if len(cuts) > 1 and cuts[-1] == width else strip

    def get_content_width(self, container: Size, viewport: Size) -> int:
        return container.width

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return max(1, len(self.lines))


def changed(before: Content, after: Content, width: int) -> tuple[int, int] | None:
    """The columns [first, last) in which two lines differ in text or style; None where they are alike.

    `Content` itself compares the text alone.
    """
    if before.plain == after.plain and before.spans == after.spans:
        return None
    if any(len(line.plain) > width or cell_len(line.plain) != len(line.plain) for line in (before, after)):
        return 0, width
    pairs = list(zip(cells(before, width), cells(after, width), strict=True))
    differ = [column for column, (one, other) in enumerate(pairs) if one != other]
    return (differ[0], differ[-1] + 1) if differ else None


def cells(line: Content, width: int) -> list[Cell]:
    """A line as cells, filled up with blanks."""
    styles: list[tuple[object, ...]] = [()] * width
    for span in line.spans:
        for column in range(span.start, min(span.end, len(line.plain))):
            styles[column] = (*styles[column], span.style)
    return list(zip(line.plain.ljust(width), styles, strict=True))
