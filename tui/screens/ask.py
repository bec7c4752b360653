"""A dialog with a yes-or-no question."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from engine.config.text import visible


class ConfirmScreen(ModalScreen[bool]):
    """Closes with True on y or enter, with False on n, escape or q."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "answer(True)", "yes"),
        Binding("n,escape,q", "answer(False)", "no"),
    ]
    CSS = """
    ConfirmScreen { align: center middle; }
    ConfirmScreen Vertical { width: auto; max-width: 90%; height: auto; border: round $primary; padding: 1 2;
                         background: $background; }
    ConfirmScreen Static { width: auto; max-width: 70; }
    """

    def __init__(self, question: str) -> None:
        super().__init__()
        self.question = question

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Content(visible(self.question)))
            yield Static(Content.styled("y yes   n no", "$foreground-muted"))

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)
