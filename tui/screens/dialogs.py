"""Small screens over others: a question, a name, a page of text, the letter of a pane."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.events import Key
from textual.widgets import Input, Static

from engine.config.errors import UserError
from engine.config.text import visible
from tui.commands import MOVING, TABLES, TITLES, CommandKeys, displayed_key, moves
from tui.screens.base import BaseScreen, ConfirmScreen, Dialog

if TYPE_CHECKING:  # only to show a preview: help does not need it
    from tui.data.preview import Preview


class SuggestionScreen(ConfirmScreen):
    """Settings with which a dataset can be used, and its first rows with them."""

    CSS = """
    SuggestionScreen #box { width: 90%; max-width: 110; max-height: 95%; padding: 0 1; }
    """

    def __init__(self, data: str, preview: Preview) -> None:
        super().__init__("which columns are trained on?")
        self.data, self.preview = data, preview

    def compose(self) -> ComposeResult:
        with Vertical(id="box") as box:  # an id: the styles of the base, which Textual reads later, have no precedence
            box.border_title = self.question
            columns = visible(", ".join(column["name"] for column in self.preview.columns))
            lines = [
                Content.assemble(("data     ", "$foreground-muted"), visible(self.data)),
                Content.assemble(("columns  ", "$foreground-muted"), columns),
            ]
            suggested = self.preview.suggested
            settings = [(key, value) for key, value in suggested.items() if not isinstance(value, Mapping)]
            for key, value in suggested.items():
                if isinstance(value, Mapping):
                    settings += [(f"{key}.{name}", column) for name, column in value.items()]
            for key, value in settings:
                used = (visible(f"data.{key} = {value}"), "bold")
                lines.append(Content.assemble(("use      ", "$foreground-muted"), used))
            for number, example in enumerate(self.preview.examples, 1):
                lines.append(Content.styled(f"row {number} as it would be trained", "$foreground-muted"))
                for role, text in example:
                    shown = visible(" ".join(text.split()), 200)
                    lines.append(Content.assemble((f"  {role:<11}", "$text-primary"), shown))
            lines.append(Content.styled("enter use these settings   escape back", "$foreground-muted"))
            yield Static(Content("\n").join(lines))


class NameScreen(Dialog[str | None]):
    """Closes with a name for which `check` raises no UserError, or with None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "back", "cancel")]
    CSS = """
    NameScreen > Vertical { width: 70; max-width: 95%; padding: 1 2; }
    NameScreen Input { margin: 1 0; }
    """

    def __init__(self, question: str, proposal: str, check: Callable[[str], object]) -> None:
        super().__init__()
        self.question, self.proposal, self.check = question, proposal, check

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Content(visible(self.question)))
            line = Input(self.proposal, id="name", compact=True)
            line.cursor_blink = False  # each change is sent over SSH
            yield line
            yield Static(id="problem")

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        problem = self._problem(event.value)
        text = Content.styled(visible(problem), "$text-error")
        self.set_text("problem", text if problem else "enter save   escape cancel")

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


class TextScreen(BaseScreen[None]):
    """Shows a title and a text, which is laid out again when the width changes; escape or q closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark", "back", "back"),
        *moves("scroll(-1)", "scroll(1)", "scroll(-9999)", "scroll(9999)", "scroll(-10)", "scroll(10)"),
    ]
    CSS = """
    TextScreen { align: center middle; }
    TextScreen VerticalScroll { max-width: 140; border: round $primary; padding: 0 1; scrollbar-size-vertical: 1; }
    """

    def __init__(self, title: str, text: Callable[[int], Content]) -> None:
        """`text`: returns the text for a width in columns."""
        super().__init__()
        self.heading, self.text = title, text
        self.columns = 0
        """For which the text is laid out."""

    def compose(self) -> ComposeResult:
        with VerticalScroll() as box:
            box.border_title = Content(visible(self.heading))
            box.border_subtitle = "escape back"
            self.columns = self._columns()
            yield Static(self.text(self.columns), id="text")

    def _columns(self) -> int:
        return max(40, min(self.app.size.width, 140) - 6)  # frame, padding and scroll bar

    def on_resize(self) -> None:
        if self._columns() != self.columns:
            self.call_after_refresh(self._lay_out)

    def _lay_out(self) -> None:
        self.columns = self._columns()
        self.set_text("text", self.text(self.columns))

    def action_scroll(self, lines: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)


KEY_WIDTH = 19
"""Columns of a key in help, with the space before it."""


def help_text(keys: CommandKeys, first: Collection[str] = (), width: int = 100) -> Content:
    """Every command with its keys, wrapped to the width; `first`: groups of commands that come before the others."""
    lines = [Content.styled("Move", "bold"), *(_help_line(key, text, "", width) for key, text in MOVING), Content("")]
    for group in sorted(TABLES, key=lambda group: group not in first):
        lines.append(Content.styled(TITLES[group], "bold"))
        if group == "app":
            lines.append(_help_line(keys.presets, "Select a preset.", "", width))
        for command in TABLES[group]:
            if command.id.startswith("preset.") and command.id[7:].isdigit():
                continue  # one line for all
            names = ", ".join(displayed_key(key.strip()) for key in keys.all_of(command.id).split(","))
            lines.append(_help_line(names, command.help, command.id, width))
        lines.append(Content(""))
    return Content("\n").join(lines)


def _help_line(key: str, text: str, id: str, width: int) -> Content:
    """The key, what it does with further lines below the first, and at the end the name for `config.toml`."""
    body = textwrap.wrap(text, max(20, width - KEY_WIDTH))
    fits = len(body[-1]) + 2 + len(id) <= width - KEY_WIDTH
    indent = "\n" + " " * KEY_WIDTH
    name = (f"  {id}" if fits else f"{indent}{id}") if id else ""
    gap = indent if len(key) > KEY_WIDTH - 3 else ""
    shown = (f"  {key:<{KEY_WIDTH - 2}}", "$primary")
    return Content.assemble(shown, gap, indent.join(body), (name, "$foreground-muted"))


class JumpScreen(Dialog[str]):
    """Closes with the next key, the letter of a pane."""

    CSS = """
    JumpScreen { align: center bottom; }
    JumpScreen Static { width: auto; height: 1; background: $primary; color: $background; margin-bottom: 1; }
    """

    def __init__(self, panes: Mapping[str, str]) -> None:
        super().__init__()
        self.panes = panes

    def compose(self) -> ComposeResult:
        yield Static(Content(f" {'   '.join(f'{letter} {name}' for letter, name in self.panes.items())} "))

    def on_key(self, event: Key) -> None:
        event.stop()
        event.prevent_default()
        self.dismiss(event.key)
