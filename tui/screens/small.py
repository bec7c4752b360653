"""What is shown on a terminal too small for everything else."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.geometry import Size
from textual.screen import ModalScreen
from textual.widgets import Static

from tui.commands import EVERYWHERE
from tui.terminal.capabilities import SMALLEST


def too_small(size: Size) -> bool:
    return size.width < SMALLEST[0] or size.height < SMALLEST[1]


class SmallScreen(ModalScreen[None]):
    """Says what is needed; goes when there is room.

    One can leave and do nothing else: a screen that another key opened would lie above it for good.
    """

    BINDINGS: ClassVar[list[BindingType]] = [command.binding() for command in EVERYWHERE if command.id == "app.quit"]
    CSS = """
    SmallScreen { background: $background; }
    SmallScreen Static { width: 1fr; height: auto; }
    """

    def compose(self) -> ComposeResult:
        yield Static()

    def say(self, size: Size, key: str) -> None:
        """The size there is, and the key that leaves."""
        wide, high = SMALLEST
        words = f"ftbench needs {wide} x {high}; this is {size.width} x {size.height}. {key} leaves, and runs go on."
        self.query_one(Static).update(Content(words))
