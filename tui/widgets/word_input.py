"""A line to type a word into, for filtering or finding; not there until it is asked for."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.widgets import Input

from tui.widgets.log_pane import Word

ASKS = {"filter": "only lines that hold …", "find": "find, from the newest line up …"}
WHILE_TYPING = ("filter",)
"""What follows every letter; the rest waits for enter."""


class WordInput(Input):
    """Shown by `ask`; enter takes the word, escape takes none."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "give_up", "none", show=False)]
    DEFAULT_CSS = "WordInput { height: 1; border: none; display: none; }"

    def __init__(self, id: str = "word") -> None:
        super().__init__(id=id, compact=True)
        self.what = "filter"
        self._words: dict[str, str] = {}

    def ask(self, what: str) -> None:
        """Begin with the word that holds now."""
        self.what = what
        with self.prevent(Input.Changed):
            self.value = self._words.get(what, "")
        self.placeholder, self.display = ASKS[what], True
        self.screen.set_focus(self)  # at once: what is typed ahead is meant for it

    def action_give_up(self) -> None:
        self._tell("", done=True)

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        if self.what in WHILE_TYPING:
            self._tell(event.value, done=False)

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        event.stop()
        self._tell(event.value, done=True)

    def _tell(self, word: str, done: bool) -> None:
        self._words[self.what] = word
        if done:
            self.display = False
            self.screen.set_focus(None)  # at once: what was typed ahead is meant for the bench
        self.post_message(Word(self.what, word, done))
