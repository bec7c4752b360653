"""The device queue: who uses each device and who waits, since when, from which directory."""

from __future__ import annotations

import time
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from engine.config.errors import UserError
from engine.config.text import visible
from engine.runs.queue_list import queue_entries
from tui.history.queue_table import queue_lines
from tui.screens.base import BaseScreen

MAX_LINES = 100
REFRESH_SECONDS = 1.0


class QueueScreen(BaseScreen[None]):
    """Updated once per second; escape or q closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,Q", "back", "back")]
    CSS = """
    QueueScreen { align: center middle; }
    QueueScreen VerticalScroll { width: 95%; max-width: 140; height: 60%; border: round $primary; padding: 0 1; }
    QueueScreen Static { text-wrap: nowrap; text-overflow: ellipsis; }
    """

    def compose(self) -> ComposeResult:
        with VerticalScroll() as box:
            box.border_title = "device queue"
            box.border_subtitle = "escape back"
            yield Static()

    def on_mount(self) -> None:
        self.refresh_queue()
        self.set_interval(REFRESH_SECONDS, self.refresh_queue)

    def refresh_queue(self) -> None:
        """Read the queue again; an unreadable lock folder is shown instead."""
        try:
            shown = queue_lines(queue_entries(), time.time(), MAX_LINES)
        except (UserError, OSError) as error:
            shown = Content.styled(visible(f"cannot read the device queue: {error}", 400), "$text-error")
        self.query_one(Static).update(shown)

    def action_back(self) -> None:
        self.dismiss()
