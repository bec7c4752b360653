"""The answers of a chat session side by side: one column per model."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from engine.config.text import visible
from engine.runs.chat_client import ReplayItem
from tui.live.chat import ChatState, ColumnState, answer_facts, recorded_text
from tui.widgets.text_rows import literal


class AnswerColumn(VerticalScroll, can_focus=True):
    """Shows questions and answers literally; follows the end of a growing answer."""

    DEFAULT_CSS = """
    AnswerColumn { width: 1fr; height: 1fr; scrollbar-size-vertical: 1; }
    AnswerColumn Static { height: auto; }
    """

    def compose(self) -> ComposeResult:
        yield Static()

    def show(self, state: ColumnState, item: ReplayItem | None, answering: bool) -> None:
        """Draw the conversation of a column, once the widget is complete."""
        if not (parts := self.query(Static)):
            return
        self.border_title = Content(visible(state.column.title))
        self.border_subtitle = Content(_subtitle(state, answering))
        parts.first(Static).update(conversation(state, item))
        self.scroll_end(animate=False)


def conversation(state: ColumnState, item: ReplayItem | None) -> Content:
    """The turns, then how the answer to a test item compares with the recorded one."""
    lines: list[Content] = []
    for turn in state.turns:
        for message in turn.question:
            style = "$foreground-muted" if message["role"] == "system" else "$text-primary"
            lines.append(literal(f"{message['role']}: {message['content']}", style))
        if not turn.question and turn.plain:
            lines.append(literal(turn.plain, "$text-primary"))
        lines += [literal(turn.text), literal(answer_facts(turn.answer) if turn.answer else "", "$foreground-muted")]
        lines.append(Content(""))
    if item and state.turns and (answer := state.turns[0].answer):
        recorded = item.recorded.get(state.column.key)
        if note := recorded_text(recorded, answer.text):
            lines.append(literal(note, "$foreground-muted"))
        if recorded and recorded.right is not None and recorded.text != answer.text:
            lines.append(literal(f"recorded: {recorded.text}", "$foreground-muted"))
    return Content("\n").join(lines)


def _subtitle(state: ColumnState, answering: bool) -> str:
    if answering:
        return "answering"
    return "waiting for its turn" if state.turns and state.turns[-1].answer is None else ""


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
        await self.mount(*(AnswerColumn(classes="pane") for _ in range(count)))

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
