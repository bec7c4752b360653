"""The launch screen: what a run or ladder will do, its options and problems. Enter starts it, escape returns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import ClassVar, Literal, NamedTuple

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from engine.config.errors import UserError
from engine.config.text import amount, visible
from tui.background import ProgressReported, ResponseReceived
from tui.commands import bindings
from tui.preview.launch_context import DataCheck, DataCheckCache
from tui.preview.launch_preview import LaunchProblem
from tui.preview.launches import Launch, LaunchOption
from tui.screens.data_checking import DataChecking
from tui.settings import app_keys
from tui.widgets.inputs import ValueInput

REFRESH_SECONDS = 1.0
NAME_WIDTH = 10
"""Columns of a fact's name."""


class LaunchAnswer(NamedTuple):
    """How the launch screen was closed, and the launch with the options that were changed."""

    answer: Literal["back", "start", "now"]
    """`now`: start while another run uses the device."""
    launch: Launch


class LaunchScreen(ModalScreen[LaunchAnswer]):
    """The data check runs in the background; the user need not wait for it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings("launch"),
        *(Binding(str(slot), f"edit({slot})", show=False) for slot in range(1, 10)),
        Binding("q", "back", show=False),
        Binding("up,k", "scroll(-1)", "up", show=False),
        Binding("down,j", "scroll(1)", "down", show=False),
        Binding("pageup", "scroll(-10)", "page up", show=False),
        Binding("pagedown", "scroll(10)", "page down", show=False),
    ]
    AUTO_FOCUS = ""
    CSS = """
    LaunchScreen { align: center middle; }
    LaunchScreen #box { width: 100%; max-width: 116; height: auto; max-height: 100%; border: round $primary;
                        padding: 0 1; background: $background; }
    LaunchScreen VerticalScroll { height: auto; scrollbar-size-vertical: 1; }
    LaunchScreen Static { height: auto; }
    LaunchScreen #hint { display: none; }
    LaunchScreen #keys { margin-top: 1; }
    LaunchScreen.-editing #keys { margin-top: 0; }
    """

    def __init__(self, launch: Launch, checks: DataCheckCache) -> None:
        super().__init__()
        self.launch = launch
        self.checking = DataChecking(checks, self.post_message)
        self.preview = launch.preview(self.report)
        self.edited: LaunchOption | None = None
        """The option that is being edited."""
        self.candidate: Launch | None = None
        """The launch with the value that is being typed; None where it is invalid or nothing is edited."""

    @property
    def shown(self) -> Launch:
        """The launch whose preview is shown."""
        return self.candidate or self.launch

    @property
    def report(self) -> DataCheck:
        return self.checking.report

    def compose(self) -> ComposeResult:
        with Vertical(id="box") as box:
            box.border_title = "launch"
            with VerticalScroll(can_focus=False):
                yield Static(id="facts")
            yield ValueInput()
            yield Static(id="hint")
            yield Static(id="keys")

    def on_mount(self) -> None:
        self._check_data()
        self.set_interval(REFRESH_SECONDS, self._refresh_preview)
        self.watch(self.query_one(VerticalScroll), "virtual_size", self._show_keys, init=False)

    def on_unmount(self) -> None:
        self.checking.leave()

    def _check_data(self) -> None:
        self.preview = self.launch.preview(self.report)
        self.checking.begin(self.launch.configs, start=not self.preview.blocked)
        self.update_preview()

    def on_resize(self) -> None:
        self._fit_height()
        self.call_after_refresh(self._show_current)

    def _fit_height(self) -> None:
        """As high as the content, but never higher than the screen: the keys below stay visible."""
        self.query_one(VerticalScroll).styles.max_height = self._max_lines()

    @on(ProgressReported)
    def _progress_reported(self, message: ProgressReported) -> None:
        if self.checking.take_progress(message):
            self.update_preview()

    @on(ResponseReceived)
    def _answered(self, message: ResponseReceived) -> None:
        if self.checking.take(message):
            self.update_preview()

    def _refresh_preview(self) -> None:
        """Make the preview again: other processes may have started or ended."""
        if self.is_current and (preview := self.shown.preview(self.report)) != self.preview:
            self.preview = preview
            self._show()

    def _show_current(self) -> None:
        if self.is_current:
            self._show()

    def update_preview(self) -> None:
        """Make the preview again and show it."""
        self.preview = self.shown.preview(self.report)
        self._show()

    def _show(self) -> None:
        self.query_one("#facts", Static).update(Content("\n").join(self._lines()))
        self._show_keys()

    def _max_lines(self) -> int:
        """Lines available for the facts: border, blank line, keys, and the line that is edited with its hint."""
        return max(3, self.size.height - (6 if self.edited else 4))

    def _show_keys(self) -> None:
        """Show what enter does, and how to scroll if not everything fits."""
        if self.edited:
            self.query_one("#keys", Static).update(Content("enter apply   escape cancel   empty: default"))
            return
        keys = app_keys(self)
        start = "cannot start: see the problems above" if self.preview.blocked else f"{keys.of('launch.start')} start"
        style = "$text-error" if self.preview.blocked else "bold $text-success"
        needed = self.query_one(VerticalScroll).virtual_size.height
        scroll = "   up, down scroll" if needed > self._max_lines() else ""
        last = len(self.launch.options())
        others = f"   {keys.of('launch.back')} back   1-{last} change   {keys.of('launch.copy')} copy command{scroll}"
        self.query_one("#keys", Static).update(Content.assemble((start, style), others))

    def _lines(self) -> Iterator[Content]:
        """Blocking problems, then options and facts, then warnings; the title has the number of warnings."""
        preview = self.preview
        blocking = [problem for problem in preview.problems if problem.blocking]
        warnings = [problem for problem in preview.problems if not problem.blocking]
        warning_count = f" · {amount(len(warnings), 'warning')}, see below" if warnings else ""
        yield Content.assemble((visible(preview.title), "bold"), (warning_count, "$text-warning"))
        for problem in blocking:
            yield from self._problem(problem)
        yield self._options()
        for fact in preview.facts:
            yield self._fact(fact.name, fact.text, fact.style)
        yield self._fact("command", self.shown.command, "")
        for problem in warnings:
            yield from self._problem(problem)

    def _fact(self, name: str, text: str, style: str) -> Content:
        return Content.assemble((f"{name:<{NAME_WIDTH}}", "$foreground-muted"), (self._wrapped(text), style))

    def _options(self) -> Content:
        """`1 epochs 2   2 steps unset   …`: each with its key, changed ones in bold."""
        width = self._width(NAME_WIDTH)
        rows: list[list[Content]] = [[]]
        for slot, option in enumerate(self.shown.options(), 1):
            value = visible(option.shown or option.text, 60) or option.default
            style = "bold $text-primary" if option.changed else "bold"
            cell = Content.assemble((f"{slot} ", "$text-primary"), f"{option.name} ", (value, style))
            if rows[-1] and sum(one.cell_length + 3 for one in rows[-1]) + cell.cell_length > width:
                rows.append([])
            rows[-1].append(cell)
        names = ["change", *[""] * (len(rows) - 1)]
        lines = [
            Content.assemble((f"{name:<{NAME_WIDTH}}", "$foreground-muted"), Content("   ").join(row))
            for name, row in zip(names, rows, strict=True)
        ]
        return Content("\n").join(lines)

    def _problem(self, problem: LaunchProblem) -> Iterator[Content]:
        """A problem, and on the next line what to do."""
        style = "$text-error" if problem.blocking else "$text-warning"
        yield Content.styled(f"{'✗' if problem.blocking else '!'} {self._wrapped(problem.text, 2)}", style)
        if problem.do:
            yield Content(f"  → {self._wrapped(problem.do, 4)}")

    def _width(self, indent: int) -> int:
        return max(20, self.query_one(VerticalScroll).size.width - indent - 1)

    def _wrapped(self, text: str, indent: int = NAME_WIDTH) -> str:
        """The text wrapped, with further lines indented below the first."""
        return f"\n{' ' * indent}".join(textwrap.wrap(visible(text), self._width(indent), break_on_hyphens=False))

    def action_edit(self, slot: int) -> None:
        """Edit the option with this number key."""
        options = self.launch.options()
        if slot > len(options):
            return
        self.edited = options[slot - 1]
        self.set_class(True, "-editing")
        self._fit_height()
        self.query_one(ValueInput).ask(self.edited.text, f"{self.edited.name}: {self.edited.accepts}")
        self._show_hint(self.launch)
        self._show_keys()

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        if self.edited:
            self._show_hint(self._edited_launch(event.value))

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        edited = self._edited_launch(event.value)
        if isinstance(edited, UserError):
            self.app.bell()
            return
        self.launch, self.candidate = edited, None
        self.query_one(ValueInput).leave()
        self._end_editing()
        self._check_data()

    @on(ValueInput.EditingCancelled)
    def _end_editing(self) -> None:
        self.edited = self.candidate = None
        self.set_class(False, "-editing")
        self.query_one("#hint").display = False
        self._fit_height()
        self.update_preview()

    def _edited_launch(self, text: str) -> Launch | UserError:
        """The launch with the text as the value of the edited option."""
        assert self.edited is not None
        try:
            return self.launch.with_option(self.edited.name, text)
        except UserError as error:
            return error

    def _show_hint(self, edited: Launch | UserError) -> None:
        """The range and the default, or what is wrong; the facts above show the effect at once."""
        assert self.edited is not None
        hint = self.query_one("#hint", Static)
        hint.display = True
        self.candidate = None if isinstance(edited, UserError) else edited
        if isinstance(edited, UserError):
            hint.update(Content.styled(self._wrapped(edited.line, 0), "$text-error"))
            return
        about = f"{self.edited.name}: {self.edited.accepts}; default {self.edited.default}"
        hint.update(Content.styled(self._wrapped(about, 0), "$foreground-muted"))
        self.update_preview()

    def action_go(self) -> None:
        self._close("start")

    def action_now(self) -> None:
        self._close("now")

    def _close(self, answer: Literal["start", "now"]) -> None:
        if self.preview.blocked:
            self.app.bell()
            return
        self.dismiss(LaunchAnswer(answer, self.launch))

    def action_back(self) -> None:
        self.dismiss(LaunchAnswer("back", self.launch))

    def action_copy(self) -> None:
        """Copy the equivalent command line."""
        self.app.copy_to_clipboard(self.launch.command)
        self.app.notify(visible(f"copied: {self.launch.command}", 300), markup=False)

    def action_scroll(self, lines: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)
