"""The launch screen: what a run or ladder will do, and its problems. Enter starts it, escape returns."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
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
from tui.background import BackgroundRequest, ProgressReported, ResponseReceived
from tui.preview.launch_context import DataCheck, DataCheckCache
from tui.preview.launch_preview import LaunchPreview
from tui.preview.problems import LaunchProblem

MakePreview = Callable[[DataCheck], LaunchPreview]
REFRESH_SECONDS = 1.0
NAME_WIDTH = 10
"""Columns of a fact's name."""


class LaunchScreen(ModalScreen[bool]):
    """Closes with True to start. The data check runs in the background; the user need not wait for it."""

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

    def __init__(self, config: Config, make_preview: MakePreview, checks: DataCheckCache) -> None:
        super().__init__()
        self.config, self.make_preview, self.checks = config, make_preview, checks
        self.key = b""
        """Of this data check among `checks`."""
        self.report = DataCheck()
        self.preview = make_preview(self.report)
        self.request: BackgroundRequest | None = None
        self.sharing_request: BackgroundRequest | None = None
        """Follows the check, whose result it takes from the cache."""

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
        packing = {"train": msgspec.to_builtins(config.train), "adapter": msgspec.to_builtins(config.adapter)}
        self.key = self.checks.key({**arguments, **packing})
        if known := self.checks.known(self.key):
            self.report = known
            self._ask_for_sharing()
        elif self.preview.blocked:
            self.report = DataCheck(running=False)
        else:
            self.request = BackgroundRequest("data.check", arguments, self.post_message)
        self.update_preview()
        self.set_interval(REFRESH_SECONDS, self._refresh_preview)
        self.watch(self.query_one(VerticalScroll), "virtual_size", self._show_keys, init=False)

    def on_unmount(self) -> None:
        for request in (self.request, self.sharing_request):
            if request:
                request.leave()

    def on_resize(self) -> None:
        # As high as its content, but never higher than the screen: the keys below stay visible.
        self.query_one(VerticalScroll).styles.max_height = self._max_lines()
        self.call_after_refresh(self._show_current)

    @on(ProgressReported)
    def _progress_reported(self, message: ProgressReported) -> None:
        if message.asking is self.request and self.report.running:
            self.report = DataCheck(progress=message.text)
            self.update_preview()

    @on(ResponseReceived)
    def _answered(self, message: ResponseReceived) -> None:
        if message.asking is self.sharing_request:
            self.report = replace(self.report, sharing=message.answer or "")
        else:
            self.report = DataCheck(message.answer, message.error, running=False)
            self._ask_for_sharing()
        self.checks.keep(self.key, self.report)
        self.update_preview()

    def _ask_for_sharing(self) -> None:
        """After a check without refusal: what shared prefixes save, which takes the time of importing torch."""
        report = self.report
        if report.sharing is None and report.answer and not report.answer["refused"]:
            arguments = {"config": msgspec.to_builtins(self.config)}
            self.sharing_request = BackgroundRequest("data.sharing", arguments, self.post_message)

    def _refresh_preview(self) -> None:
        """Make the preview again: other processes may have started or ended."""
        if self.is_current and (preview := self.make_preview(self.report)) != self.preview:
            self.preview = preview
            self._show()

    def _show_current(self) -> None:
        if self.is_current:
            self._show()

    def update_preview(self) -> None:
        """Make the preview again and show it."""
        self.preview = self.make_preview(self.report)
        self._show()

    def _show(self) -> None:
        self.query_one("#facts", Static).update(Content("\n").join(self._lines()))
        self._show_keys()

    def _max_lines(self) -> int:
        """Lines available for the facts: border, blank line and keys take four."""
        return max(3, self.size.height - 4)

    def _show_keys(self) -> None:
        """Show what enter does, and how to scroll if not everything fits."""
        start = "cannot start: see the problems above" if self.preview.blocked else "enter start"
        style = "$text-error" if self.preview.blocked else "bold $text-success"
        needed = self.query_one(VerticalScroll).virtual_size.height
        scroll = "   up, down scroll" if needed > self._max_lines() else ""
        self.query_one("#keys", Static).update(Content.assemble((start, style), f"   escape back{scroll}"))

    def _lines(self) -> Iterator[Content]:
        """Blocking problems, then facts, then warnings; the title has the number of warnings."""
        preview = self.preview
        blocking = [problem for problem in preview.problems if problem.blocking]
        warnings = [problem for problem in preview.problems if not problem.blocking]
        warning_count = f" · {amount(len(warnings), 'warning')}, see below" if warnings else ""
        yield Content.assemble((visible(preview.title), "bold"), (warning_count, "$text-warning"))
        for problem in blocking:
            yield from self._problem(problem)
        for fact in preview.facts:
            yield Content.assemble(
                (f"{fact.name:<{NAME_WIDTH}}", "$foreground-muted"), (self._wrapped(fact.text), fact.style)
            )
        for problem in warnings:
            yield from self._problem(problem)

    def _problem(self, problem: LaunchProblem) -> Iterator[Content]:
        """A problem, and on the next line what to do."""
        style = "$text-error" if problem.blocking else "$text-warning"
        yield Content.styled(f"{'✗' if problem.blocking else '!'} {self._wrapped(problem.text, 2)}", style)
        if problem.do:
            yield Content(f"  → {self._wrapped(problem.do, 4)}")

    def _wrapped(self, text: str, indent: int = NAME_WIDTH) -> str:
        """The text wrapped, with further lines indented below the first."""
        width = max(20, self.query_one(VerticalScroll).size.width - indent - 1)
        return f"\n{' ' * indent}".join(textwrap.wrap(visible(text), width))

    def action_go(self) -> None:
        if self.preview.blocked:
            self.app.bell()
            return
        self.dismiss(True)

    def action_back(self) -> None:
        self.dismiss(False)

    def action_scroll(self, lines: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)
