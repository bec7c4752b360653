"""The input line of the try screen: for prompts, sampling settings and the system prompt."""

from __future__ import annotations

from textual.events import Paste
from textual.widgets import Input

from tui.workbench import app_keys

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
    PromptInput { height: 1; border: none; }
    PromptInput > .input--placeholder { color: $foreground-muted; }
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
