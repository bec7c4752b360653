"""A widget that shows one `Content` per line and redraws only the rows that changed.

Which cells of a row are sent is decided in one place, `tui.terminal.diff_driver`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textual.content import Content
from textual.geometry import Region, Size
from textual.screen import ModalScreen, Screen
from textual.strip import Strip
from textual.visual import Visual
from textual.widget import Widget

EMPTY = Content("")


def is_covered(screen: Screen[Any]) -> bool:
    """Whether another full screen is above: Textual would draw that one again for every change below it.

    Dialogs are transparent. A screen that returns to the front redraws its rows (`BaseScreen`).
    """
    stack = screen.app.screen_stack
    above = stack[stack.index(screen) + 1 :] if screen in stack else []
    return any(not isinstance(one, ModalScreen) for one in above)


class Rows(Widget):
    """Cuts lines that are longer than the widget, and leaves the rows after the last line empty."""

    DEFAULT_CSS = "Rows { height: 1fr; }"

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.lines: list[Content] = []

    def show(self, lines: Sequence[Content]) -> None:
        """Replace the lines; unchanged rows are not drawn again."""
        old, self.lines = self.lines, list(lines)
        width = self.content_size.width
        if not width or is_covered(self.screen):
            return
        for row in range(max(len(old), len(self.lines))):
            before = old[row] if row < len(old) else EMPTY
            after = self.lines[row] if row < len(self.lines) else EMPTY
            if before.plain != after.plain or before.spans != after.spans:  # Content.__eq__ compares the text only
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
