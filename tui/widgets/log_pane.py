"""Events and the worker's raw output as lines: follow, scroll, filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content

from engine.contract.text import visible
from tui.widgets.rows import Rows


class LogPane(Rows, can_focus=True):
    """Shows the newest lines until one scrolls up; `end` follows again."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "up", show=False),
        Binding("down", "move(1)", "down", show=False),
        Binding("pageup", "move(-10)", "page up", show=False),
        Binding("pagedown", "move(10)", "page down", show=False),
        Binding("home", "move(-1000000)", "first", show=False),
        Binding("end", "follow", "follow", show=False),
    ]

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.source: Sequence[str] = ()
        self.pattern = ""
        self.above: int | None = None
        """Lines above the pane while one reads back; None follows."""

    def redraw(self) -> None:
        kept = [text for text in self.source if self.pattern.lower() in text.lower()] if self.pattern else self.source
        height = self.content_size.height
        first = max(0, len(kept) - height) if self.above is None else min(self.above, max(0, len(kept) - height))
        if self.above is not None:
            self.above = first
        shown = [kept[number] for number in range(first, min(len(kept), first + height))]
        self.show([Content.styled(visible(text), colour(text)) for text in shown])

    def filter(self, pattern: str) -> None:
        self.pattern, self.above = pattern, None
        self.redraw()

    def action_move(self, lines: int) -> None:
        height = self.content_size.height
        last = max(0, len(self.source) - height)
        here = last if self.above is None else self.above
        there = max(0, here + lines)
        self.above = None if there >= last else there
        self.redraw()

    def action_follow(self) -> None:
        self.above = None
        self.redraw()


def colour(text: str) -> str:
    """By what a line says after its time."""
    said = text.split(" ", 1)[-1]
    if said.startswith("warning:"):
        return "$text-warning"
    if said.startswith(("failed:", "out of memory:", "diverged:")):
        return "$text-error"
    return "$text-success" if said.startswith("finished") else ""
