"""Marked runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from engine.runs.run_dir import RunDir
from tui.history.comparison import compare, read
from tui.screens.base import BaseScreen


class CompareScreen(BaseScreen[None]):
    """Reads the runs once and lays them out again when the width changes."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,c", "back", "back")]
    CSS = """
    CompareScreen VerticalScroll { height: 1fr; border: round $primary; padding: 0 1; scrollbar-size-vertical: 1; }
    """

    def __init__(self, runs: Sequence[RunDir], ascii_only: bool = False) -> None:
        super().__init__()
        self.runs, self.ascii_only = read(runs), ascii_only

    def compose(self) -> ComposeResult:
        with VerticalScroll() as box:
            box.border_title = f"comparison of {len(self.runs)} runs"
            box.border_subtitle = "escape back"
            yield Static(id="compared")

    def on_resize(self) -> None:
        width = max(40, min(self.size.width, 140) - 6)  # frame, padding and scroll bar
        self.query_one("#compared", Static).update(compare(self.runs, width, self.ascii_only))

    def action_back(self) -> None:
        self.dismiss()
