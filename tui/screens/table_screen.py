"""The base of screens that are a table: title, rows, details of the row under the cursor, an input line, the keys.

Other screens use the input line too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import ClassVar, TypeVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Input, OptionList, Static

from tui.format import Column
from tui.screens.base import BaseScreen
from tui.widgets.table import Table
from tui.widgets.text_rows import KeyLine, literal

R = TypeVar("R")


class ValueInput(Input):
    """Hidden until it asks for a text. Enter accepts the text, escape discards it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "cancel", show=False)]
    DEFAULT_CSS = """
    ValueInput { height: 1; border: none; display: none; background: $surface; }
    """

    def __init__(self, hidden: Callable[[], object], id: str = "value") -> None:
        """`hidden`: called when the input is hidden again, to move the focus."""
        super().__init__(id=id, compact=True)
        self.cursor_blink = False  # each change is sent over SSH
        self._hidden = hidden
        self._entered: Callable[[str], object] = lambda text: None
        self._typed: Callable[[str], object] | None = None
        self._escape: str | None = None

    def ask(
        self,
        text: str,
        placeholder: str,
        entered: Callable[[str], object],
        typed: Callable[[str], object] | None = None,
        escape: str | None = None,
    ) -> None:
        """Show the input with a text to edit; the first character typed replaces it.

        `entered` returns False, or a coroutine that returns False, for a text that is not accepted. `typed` is called
        with every change. `escape`: the text that the escape key enters; None for no text.
        """
        self._entered, self._typed, self._escape = entered, typed, escape
        with self.prevent(Input.Changed):
            self.value = text
        self.placeholder, self.display = placeholder, True
        self.screen.set_focus(self)  # at once: keys typed ahead are meant for it
        self.action_select_all()

    def action_cancel(self) -> None:
        if self._escape is not None:
            self._entered(self._escape)
        self._hide()

    def _hide(self) -> None:
        self.display = False
        self.screen.set_focus(None)  # at once: keys typed ahead are meant for the screen
        self._hidden()

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        event.stop()
        if self.display and self._typed:  # the message may arrive after the input was hidden
            self._typed(event.value)

    @on(Input.Submitted)
    async def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        accepted = self._entered(event.value)
        if (await accepted if isinstance(accepted, Awaitable) else accepted) is False:
            self.app.bell()
        else:
            self._hide()

    @on(Input.Blurred)
    def _blurred(self, event: Input.Blurred) -> None:
        event.stop()


class TableScreen(BaseScreen[R]):
    """Shows only the rows that contain a word, if the user enters one; the back key clears it first."""

    AUTO_FOCUS = "Lines"
    DEFAULT_CSS = """
    TableScreen Table { padding: 0 1; }
    TableScreen #detail { height: 5; padding: 0 1; border-top: solid $foreground 30%; }
    TableScreen ValueInput { margin: 0 1; }
    """
    columns: ClassVar[Sequence[Column]] = ()
    row_name: ClassVar[str] = ""
    """Plural noun for the rows, shown in the empty filter line."""

    word = ""
    """Only rows that contain this word are listed."""

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield Table(self.columns, id="table")
        yield Static(id="detail")
        yield ValueInput(self.close_input)
        yield from self.below()
        yield KeyLine()

    def below(self) -> Iterator[Widget]:
        """Widgets between the input line and the keys."""
        yield from ()

    @property
    def table(self) -> Table:
        return self.query_one(Table)

    @property
    def key(self) -> str:
        return self.table.key

    def fill(self, cursor: str = "") -> None:
        """List the rows; the cursor stays on its row, or goes to `cursor`."""
        raise NotImplementedError

    def describe(self) -> None:
        """Show what is known about the row under the cursor."""
        raise NotImplementedError

    def leave(self) -> None:
        self.dismiss()

    def show_detail(self, text: str) -> None:
        self.set_text("detail", literal(text))

    @on(OptionList.OptionHighlighted)
    def _cursor_moved(self) -> None:
        self.describe()
        self.query_one(KeyLine).redraw()

    @property
    def input_line(self) -> ValueInput:
        return self.query_one(ValueInput)

    def close_input(self) -> None:
        self.table.focus()
        self.fill()

    def action_filter(self) -> None:
        hint = f"show only {self.row_name} that contain …"
        self.input_line.ask(self.word, hint, self._filter, self._filter, escape="")

    def _filter(self, word: str) -> None:
        self.word = word
        self.fill()

    def action_back(self) -> None:
        """Clear the filter, or close the screen."""
        if self.word:
            self._filter("")
        else:
            self.leave()
