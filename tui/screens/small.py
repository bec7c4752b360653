"""The screen for terminals that are too small for the bench."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.geometry import Size
from textual.screen import ModalScreen
from textual.widgets import Static

from tui.commands import EVERYWHERE
from tui.terminal.capabilities import MIN_SCREEN_SIZE


def too_small(size: Size) -> bool:
    return size.width < MIN_SCREEN_SIZE[0] or size.height < MIN_SCREEN_SIZE[1]


class SmallScreen(ModalScreen[None]):
    """Shows the required size; the app closes it when the terminal is large enough.

    The only key is the one that leaves: a screen opened by another key would stay above this one.
    """

    BINDINGS: ClassVar[list[BindingType]] = [command.binding() for command in EVERYWHERE if command.id == "app.quit"]
    CSS = """
    SmallScreen { background: $background; }
    SmallScreen Static { width: 1fr; height: auto; }
    """

    def compose(self) -> ComposeResult:
        yield Static()

    def show_size(self, size: Size, key: str) -> None:
        """Show the present size, and the key that leaves."""
        wide, high = MIN_SCREEN_SIZE
        needed = f"Terminal too small: {size.width} x {size.height}, ftbench needs {wide} x {high}."
        text = f"{needed} Enlarge it, or press {key} to detach; runs continue."
        self.query_one(Static).update(Content(text))
