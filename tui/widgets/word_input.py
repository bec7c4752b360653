"""The input line for filtering and finding in the log; hidden until needed."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.widgets import Input

from tui.widgets.log_pane import WordEntered

PLACEHOLDERS = {"filter": "show only lines that contain …", "find": "find a word, from the latest line up …"}
WHILE_TYPING = ("filter",)
"""Purposes that follow every key press; the others wait for enter."""


class WordInput(Input):
    """Shown by `ask`; enter takes the word, escape clears it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "cancel", show=False)]
    DEFAULT_CSS = "WordInput { height: 1; border: none; display: none; }"

    def __init__(self, id: str = "word") -> None:
        super().__init__(id=id, compact=True)
        self.purpose = "filter"
        self._words: dict[str, str] = {}
        """Purpose -> the word in effect."""

    def ask(self, purpose: str) -> None:
        """Show the input with the word in effect."""
        self.purpose = purpose
        with self.prevent(Input.Changed):
            self.value = self._words.get(purpose, "")
        self.placeholder, self.display = PLACEHOLDERS[purpose], True
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
