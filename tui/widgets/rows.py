"""A pane of lines that sends only those lines to the terminal that have changed: cheap over a slow connection."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.visual import Visual
from textual.widget import Widget


class Rows(Widget):
    """Shows one `Content` a line; what is longer than the pane is cut, what is missing is empty."""

    DEFAULT_CSS = "Rows { height: 1fr; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.lines: list[Content] = []

    def show(self, lines: Sequence[Content]) -> None:
        """Replace the lines; rows that stay the same are not drawn again."""
        old, self.lines = self.lines, list(lines)
        width = self.content_size.width
        if not width:
            return
        for row in range(max(len(old), len(self.lines))):
            before = old[row] if row < len(old) else None
            after = self.lines[row] if row < len(self.lines) else None
            if before is None or after is None or not same(before, after):
                self.refresh(Region(0, row, width, 1))

    def render_line(self, y: int) -> Strip:
        width = self.content_size.width
        style = self.visual_style
        if y >= len(self.lines):
            return Strip.blank(width, style.rich_style)
        line = self.lines[y].truncate(width, ellipsis=True)
        (strip,) = Visual.to_strips(self, line, width, 1, style, pad=True) or [Strip.blank(width, style.rich_style)]
        return strip

    def get_content_width(self, container: Size, viewport: Size) -> int:
        return container.width

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return max(1, len(self.lines))


def same(one: Content, other: Content) -> bool:
    """Equal in text and style; `Content` itself compares the text alone."""
    return one.plain == other.plain and one.spans == other.spans
