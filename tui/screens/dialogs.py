"""Small screens over others: a question, a name, a page of text, and the notice of a terminal that is too small."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.geometry import Size
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from engine.config.errors import UserError
from engine.config.text import visible
from tui.commands import EVERYWHERE, TABLES, TITLES
from tui.keymap import CommandKeys, displayed_key
from tui.screens.base import BaseScreen
from tui.terminal.themes import MIN_SCREEN_SIZE


class ConfirmScreen(ModalScreen[bool]):
    """Closes with True on y or enter, with False on n, escape or q."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "answer(True)", "yes"),
        Binding("n,escape,q", "answer(False)", "no"),
    ]
    CSS = """
    ConfirmScreen { align: center middle; }
    ConfirmScreen Vertical { width: auto; max-width: 90%; height: auto; border: round $primary; padding: 1 2;
                         background: $background; }
    ConfirmScreen Static { width: auto; max-width: 70; }
    """

    def __init__(self, question: str) -> None:
        super().__init__()
        self.question = question

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Content(visible(self.question)))
            yield Static(Content.styled("y yes   n no", "$foreground-muted"))

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)


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


class TextScreen(BaseScreen[None]):
    """Shows a title and lines; escape or q closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark", "back", "back")]
    CSS = """
    TextScreen { align: center middle; }
    TextScreen VerticalScroll { width: 90%; max-width: 110; height: 90%; border: round $primary; padding: 0 1; }
    """

    def __init__(self, title: str, text: Content) -> None:
        super().__init__()
        self.heading, self.text = title, text

    def compose(self) -> ComposeResult:
        with VerticalScroll() as box:
            box.border_title = Content(visible(self.heading))
            yield Static(self.text)

    def action_back(self) -> None:
        self.dismiss()


def help_text(keys: CommandKeys, first: Collection[str] = ()) -> Content:
    """Every command with its keys; `first`: groups of commands that come before the others."""
    lines: list[Content] = []
    for group in sorted(TABLES, key=lambda group: group not in first):
        lines.append(Content.styled(TITLES[group], "bold"))
        for command in TABLES[group]:
            key = displayed_key(keys.all_of(command.id))
            lines.append(
                Content.assemble((f"  {key:<12} ", "$primary"), command.help, (f"  {command.id}", "$foreground-muted"))
            )
        lines.append(Content(""))
    return Content("\n").join(lines)


def too_small(size: Size) -> bool:
    return size.width < MIN_SCREEN_SIZE[0] or size.height < MIN_SCREEN_SIZE[1]


class SmallScreen(ModalScreen[None]):
    """Shows the required size; the app closes it when the terminal is large enough.

    The only key is the one that leaves: a screen opened by another key would stay above this one.
    """

    BINDINGS: ClassVar[list[BindingType]] = [command.binding() for command in EVERYWHERE if command.id == "app.quit"]
    CSS = """
    SmallScreen { background: $background; }
    SmallScreen Static { width: 1fr; height: auto; }
    """

    def compose(self) -> ComposeResult:
        yield Static()

    def show_size(self, size: Size, key: str) -> None:
        """Show the present size, and the key that leaves."""
        wide, high = MIN_SCREEN_SIZE
        needed = f"Terminal too small: {size.width} x {size.height}, ftbench needs {wide} x {high}."
        text = f"{needed} Enlarge it, or press {key} to detach; runs continue."
        self.query_one(Static).update(Content(text))
