"""Inputs of one line: a prompt, and a value that is edited in place or a word that is searched for."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.events import Paste
from textual.widgets import Input

from tui.settings import app_keys


class ValueInput(Input):
    """Hidden until it asks for a text. Enter accepts the text, escape discards it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "cancel", show=False)]
    DEFAULT_CSS = """
    ValueInput { height: 1; border: none; display: none; background: $surface; }
    """

    def __init__(self, hidden: Callable[[], object], id: str = "value") -> None:
        """`hidden`: called when the input is hidden again, to move the focus."""
        super().__init__(id=id, compact=True)
        self.cursor_blink = False  # each change is sent over SSH
        self._hidden = hidden
        self._entered: Callable[[str], object] = _ignore
        self._typed: Callable[[str], object] = _ignore
        self._escape: str | None = None

    def ask(
        self,
        text: str,
        placeholder: str,
        entered: Callable[[str], object],
        typed: Callable[[str], object] | None = None,
        escape: str | None = None,
    ) -> None:
        """Show the input with a text to edit; the first character typed replaces it.

        `entered` returns False for a text that is not accepted. `typed` is called with every change. `escape`: what
        that key enters; None for nothing.
        """
        self._entered, self._typed, self._escape = entered, typed or _ignore, escape
        with self.prevent(Input.Changed):
            self.value = text
        self.placeholder, self.display = placeholder, True
        self.screen.set_focus(self)  # at once: keys typed ahead are meant for it
        self.action_select_all()

    def action_cancel(self) -> None:
        if self._escape is not None:
            self._entered(self._escape)
        self._hide()

    def _hide(self) -> None:
        self.display = False
        self.screen.set_focus(None)  # at once: keys typed ahead are meant for the screen
        self._hidden()

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        event.stop()
        if self.display:  # else it is late
            self._typed(event.value)

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if self._entered(event.value) is False:
            self.app.bell()
        else:
            self._hide()

    @on(Input.Blurred)
    def _blurred(self, event: Input.Blurred) -> None:
        event.stop()


def _ignore(text: str) -> None:
    """The default of callbacks."""


LINE_FEED = "⏎"
"""Stands for a line feed."""
PLACEHOLDERS = {
    "prompt": "prompt · enter sends · {back} leaves the line",
    "sampling": "temperature=0 top_p=1 seed=0 max_new_tokens=128",
    "system": "system prompt; empty for no system prompt",
}


class PromptInput(Input):
    """One line; pasted line feeds are kept as symbols."""

    DEFAULT_CSS = """
    PromptInput { height: 1; border: none; padding: 0 1 !important; }
    """

    def __init__(self, id: str) -> None:
        super().__init__(id=id, compact=True)
        self.cursor_blink = False  # each change is sent over SSH
        self.purpose = "prompt"

    def on_mount(self) -> None:
        self._show_purpose()

    @property
    def text(self) -> str:
        """The value with line feeds."""
        return self.value.replace(LINE_FEED, "\n")

    def ask(self, purpose: str, value: str | None = None) -> None:
        """Take the focus for this purpose. value: the text to edit; None keeps what is in the line."""
        self.purpose = purpose
        self._show_purpose()
        if value is not None:
            self.value = value.replace("\n", LINE_FEED)
        self.cursor_position = len(self.value)
        self.screen.set_focus(self)

    def leave(self) -> None:
        """Keep an unfinished prompt; drop unfinished settings."""
        if self.purpose != "prompt":
            self.value, self.purpose = "", "prompt"
            self._show_purpose()

    def _show_purpose(self) -> None:
        self.placeholder = PLACEHOLDERS[self.purpose].format(back=app_keys(self).of("try.back"))

    def _on_paste(self, event: Paste) -> None:
        event.prevent_default()
        event.stop()
        self.insert_text_at_cursor(event.text.rstrip("\r\n").replace("\r\n", "\n").replace("\n", LINE_FEED))
