"""The columns of the try screen, next to each other: as many as fit, and which they are."""

from __future__ import annotations

from textual.containers import Horizontal

from tui.live.chat_state import ChatState
from tui.widgets.answer_column import AnswerColumn

MIN_WIDTH = 38
"""Width of a column; a narrower terminal shows fewer columns at a time."""


class AnswerColumns(Horizontal):
    """One column per model."""

    def __init__(self) -> None:
        super().__init__()
        self.first = 0
        """Index of the first visible column."""
        self.position = ""
        """Which columns are visible, for a title; '' if all are."""

    async def create(self, count: int) -> None:
        """Add empty columns."""
        await self.mount(*(AnswerColumn() for _ in range(count)))

    def show(self, state: ChatState, width: int) -> None:
        """Draw the conversations in the columns that fit into the width, from `first` on."""
        columns = list(self.query(AnswerColumn))
        shown = max(1, min(len(columns), width // MIN_WIDTH))
        self.first = max(0, min(self.first, len(columns) - shown))
        names = [*state.columns]
        for index, column in enumerate(columns):
            column.display = self.first <= index < self.first + shown
            if index < len(names):
                column.show(state.columns[names[index]], state.replayed, state.answering == names[index])
        hidden = len(columns) - shown
        self.position = f" · columns {self.first + 1} to {self.first + shown} of {len(columns)}" if hidden > 0 else ""

    def focus_first(self) -> None:
        """Focus the first visible column, which the arrow keys then scroll."""
        shown = [column for column in self.query(AnswerColumn) if column.display]
        self.screen.set_focus(shown[0] if shown else None)
