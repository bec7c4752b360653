"""The input line in which a value is edited in place; hidden until needed."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input


class ValueInput(Input):
    """Enter submits (`Input.Submitted`), escape leaves the value as it was (`EditingCancelled`)."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "cancel", show=False)]
    DEFAULT_CSS = """
    ValueInput { height: 1; border: none; display: none; background: $surface; }
    ValueInput > .input--placeholder { color: $foreground-muted; }
    """

    class EditingCancelled(Message):
        """The value stays as it was."""

    def __init__(self, id: str = "value") -> None:
        super().__init__(id=id, compact=True)
        self.cursor_blink = False  # each change is sent over SSH

    def ask(self, text: str, placeholder: str) -> None:
        """Show the input with a text to edit; the first character typed replaces it."""
        with self.prevent(Input.Changed):
            self.value = text
        self.placeholder, self.display = placeholder, True
        self.screen.set_focus(self)  # at once: keys typed ahead are meant for it
        self.action_select_all()

    def leave(self) -> None:
        """Hide the input and return the focus to the screen."""
        self.display = False
        self.screen.set_focus(None)

    def action_cancel(self) -> None:
        self.leave()
        self.post_message(self.EditingCancelled())

    @on(Input.Blurred)
    def _blurred(self, event: Input.Blurred) -> None:
        event.stop()
