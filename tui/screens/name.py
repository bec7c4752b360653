"""A dialog for a name, checked as it is typed."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from engine.config.errors import UserError
from engine.config.text import visible


class NameScreen(ModalScreen[str | None]):
    """Closes with a name for which `check` raises no UserError, or with None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "cancel")]
    CSS = """
    NameScreen { align: center middle; }
    NameScreen Vertical { width: 70; max-width: 95%; height: auto; border: round $primary; padding: 1 2;
                          background: $background; }
    NameScreen Static { height: auto; }
    NameScreen Input { margin: 1 0; }
    """

    def __init__(self, question: str, proposal: str, check: Callable[[str], None]) -> None:
        super().__init__()
        self.question, self.proposal, self.check = question, proposal, check

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Content(visible(self.question)))
            yield Input(self.proposal, id="name", compact=True)
            yield Static(id="problem")

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        problem = self._problem(event.value)
        text = Content.styled(visible(problem), "$text-error") if problem else Content("enter save   escape cancel")
        self.query_one("#problem", Static).update(text)

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if not self._problem(event.value):
            self.dismiss(event.value)

    def _problem(self, name: str) -> str:
        try:
            self.check(name)
        except UserError as error:
            return error.line
        return ""

    def action_cancel(self) -> None:
        self.dismiss(None)
