"""The launch screen: what a run will do and which problems it has; enter starts it, escape returns."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from typing import ClassVar

import msgspec
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from engine.config.schema import Config
from engine.config.text import amount, visible
from tui.background import Answered, BackgroundQuestion, ProgressReported
from tui.preview.launch_context import Report, Reports
from tui.preview.launch_preview import LaunchPreview
from tui.preview.problems import Problem

Look = Callable[[Report], LaunchPreview]
LOOK_SECONDS = 1.0
NAME = 10
"""Columns of a fact's name."""


class LaunchScreen(ModalScreen[bool]):
    """Closes with whether to start. The data check runs in the background; starting does not wait for it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,y", "go", "start"),
        Binding("escape,n,q", "back", "back"),
        Binding("up,k", "scroll(-1)", "up", show=False),
        Binding("down,j", "scroll(1)", "down", show=False),
        Binding("pageup", "scroll(-10)", "page up", show=False),
        Binding("pagedown", "scroll(10)", "page down", show=False),
    ]
    CSS = """
    LaunchScreen { align: center middle; }
    LaunchScreen #box { width: 100%; max-width: 116; height: auto; max-height: 100%; border: round $primary;
                        padding: 0 1; background: $background; }
    LaunchScreen VerticalScroll { height: auto; scrollbar-size-vertical: 1; }
    LaunchScreen Static { height: auto; }
    LaunchScreen #keys { margin-top: 1; }
    """

    def __init__(self, config: Config, look: Look, reports: Reports) -> None:
        super().__init__()
        self.config, self.look, self.reports = config, look, reports
        self.key = b""
        self.report = Report()
        self.prospect = look(self.report)
        self.asking: BackgroundQuestion | None = None

    def compose(self) -> ComposeResult:
        with Vertical(id="box") as box:
            box.border_title = "launch"
            with VerticalScroll(can_focus=False):
                yield Static(id="facts")
            yield Static(id="keys")

    def on_mount(self) -> None:
        config = self.config
        arguments = {
            "data": msgspec.to_builtins(config.data),
            "model": msgspec.to_builtins(config.model),
            "evaluation": msgspec.to_builtins(config.evaluation),
            "max_length": config.train.max_length,
        }
        self.key = self.reports.key(arguments)
        if known := self.reports.known(self.key):
            self.report = known
        elif self.prospect.blocked:
            self.report = Report(asked=False)
        else:
            self.asking = BackgroundQuestion("data.check", arguments, self.post_message)
        self.show_prospect()
        self.set_interval(LOOK_SECONDS, self._look_again)
        self.watch(self.query_one(VerticalScroll), "virtual_size", self._say_keys, init=False)

    def on_unmount(self) -> None:
        if self.asking:
            self.asking.leave()

    def on_resize(self) -> None:
        # As high as what it holds, but never higher than the screen: the keys below stay in sight.
        self.query_one(VerticalScroll).styles.max_height = self._room()
        self.call_after_refresh(self._lay_out)

    @on(ProgressReported)
    def _told(self, message: ProgressReported) -> None:
        if message.asking is self.asking and self.report.asked:
            self.report = Report(progress=message.text)
            self.show_prospect()

    @on(Answered)
    def _answered(self, message: Answered) -> None:
        self.report = Report(message.answer, message.error, asked=False)
        self.reports.keep(self.key, self.report)
        self.show_prospect()

    def _look_again(self) -> None:
        """Other processes start and end meanwhile."""
        if self.is_current and (prospect := self.look(self.report)) != self.prospect:
            self.prospect = prospect
            self._say()

    def _lay_out(self) -> None:
        if self.is_current:
            self._say()

    def show_prospect(self) -> None:
        """Show what is known."""
        self.prospect = self.look(self.report)
        self._say()

    def _say(self) -> None:
        self.query_one("#facts", Static).update(Content("\n").join(self._lines()))
        self._say_keys()

    def _room(self) -> int:
        """Lines for the facts: the box has a border, a blank line and the keys besides."""
        return max(3, self.size.height - 4)

    def _say_keys(self) -> None:
        """What enter does, and how to scroll where not everything fits on the screen."""
        go = "cannot start: see the problems above" if self.prospect.blocked else "enter start"
        style = "$text-error" if self.prospect.blocked else "bold $text-success"
        needed = self.query_one(VerticalScroll).virtual_size.height
        scroll = "   up, down scroll" if needed > self._room() else ""
        self.query_one("#keys", Static).update(Content.assemble((go, style), f"   escape back{scroll}"))

    def _lines(self) -> Iterator[Content]:
        """What prevents the start, then what will happen, then the warnings, which are counted at the top."""
        prospect = self.prospect
        blocking = [problem for problem in prospect.problems if problem.blocking]
        warnings = [problem for problem in prospect.problems if not problem.blocking]
        counted = f" · {amount(len(warnings), 'warning')}, see below" if warnings else ""
        yield Content.assemble((visible(prospect.title), "bold"), (counted, "$text-warning"))
        for problem in blocking:
            yield from self._problem(problem)
        for fact in prospect.facts:
            yield Content.assemble((f"{fact.name:<{NAME}}", "$foreground-muted"), (self._hung(fact.text), fact.style))
        for problem in warnings:
            yield from self._problem(problem)

    def _problem(self, problem: Problem) -> Iterator[Content]:
        """The problem, and on a line of its own what to do."""
        style = "$text-error" if problem.blocking else "$text-warning"
        yield Content.styled(f"{'✗' if problem.blocking else '!'} {self._hung(problem.text, 2)}", style)
        if problem.do:
            yield Content(f"  → {self._hung(problem.do, 4)}")

    def _hung(self, text: str, indent: int = NAME) -> str:
        """Wrapped, further lines below the first."""
        width = max(20, self.query_one(VerticalScroll).size.width - indent - 1)
        return f"\n{' ' * indent}".join(textwrap.wrap(visible(text), width))

    def action_go(self) -> None:
        if self.prospect.blocked:
            self.app.bell()
            return
        self.dismiss(True)

    def action_back(self) -> None:
        self.dismiss(False)

    def action_scroll(self, lines: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)
