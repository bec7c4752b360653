"""Inputs of one line: a prompt, a value that is edited in place, a word to filter or find."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.events import Paste
from textual.message import Message
from textual.widgets import Input

from tui.settings import app_keys
from tui.widgets.log_pane import WordEntered


class ValueInput(Input):
    """Enter submits (`Input.Submitted`), escape leaves the value as it was (`EditingCancelled`)."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "cancel", show=False)]
    DEFAULT_CSS = """
    ValueInput { height: 1; border: none; display: none; background: $surface; }
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


WORD_PLACEHOLDERS = {"filter": "show only lines that contain …", "find": "find a word, from the latest line up …"}
WHILE_TYPING = ("filter",)
"""Purposes that follow every key press; the others wait for enter."""


class WordInput(Input):
    """Shown by `ask`; enter takes the word, escape clears it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "cancel", show=False)]
    DEFAULT_CSS = "WordInput { height: 1; border: none; display: none; padding: 0 1 !important; }"

    def __init__(self, id: str = "word") -> None:
        super().__init__(id=id, compact=True)
        self.cursor_blink = False  # each change is sent over SSH
        self.purpose = "filter"
        self._words: dict[str, str] = {}
        """Purpose -> the word in effect."""

    def ask(self, purpose: str) -> None:
        """Show the input with the word in effect."""
        self.purpose = purpose
        with self.prevent(Input.Changed):
            self.value = self._words.get(purpose, "")
        self.placeholder, self.display = WORD_PLACEHOLDERS[purpose], True
        self.screen.set_focus(self)  # at once: keys typed ahead are meant for it

    def action_cancel(self) -> None:
        self._post_word("", done=True)

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        event.stop()
        if self.purpose in WHILE_TYPING:
            self._post_word(event.value, done=False)

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._post_word(event.value, done=True)

    def _post_word(self, word: str, done: bool) -> None:
        self._words[self.purpose] = word
        if done:
            self.display = False
            self.screen.set_focus(None)  # at once: keys typed ahead are meant for the bench
        self.post_message(WordEntered(self.purpose, word, done))
