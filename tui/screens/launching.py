"""The launch screen: what a run or ladder will do, its options and problems. Enter starts it, escape returns."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import msgspec
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import OptionList, Static

from engine.config.errors import UserError
from engine.config.schema import Config
from engine.config.text import amount, visible
from tui.background import BackgroundRequest, RequestProgress
from tui.commands import bindings, moves
from tui.data_report import check_arguments
from tui.preview.launch_context import DataCheck, DataCheckCache, LaunchContext, WeightsCheck
from tui.preview.launches import Launch, LaunchOption
from tui.preview.method_table import LaunchTimes, Training
from tui.screens.base import BaseScreen, Dialog
from tui.screens.table_screen import ValueInput
from tui.settings import app_keys
from tui.widgets.table import Lines

REFRESH_SECONDS = 1.0
NAME_WIDTH = 10
"""Columns of a fact's name."""


class LaunchForecast:
    """What is known before a launch: its data check, from the cache of earlier checks or in the background, and the
    times of earlier runs. `changed` is called in the event loop of `node` when there is news.
    """

    def __init__(
        self, checks: DataCheckCache, node: BaseScreen[Any], changed: Callable[[], object], runs: Path
    ) -> None:
        self._checks, self._node, self._changed = checks, node, changed
        self.times = LaunchTimes(runs)
        self._key = self._details_key = b""
        """Keys in `checks` of the data check, and of its report with the details."""
        self.report = DataCheck()
        self._configs: list[Config] = []
        self.request: BackgroundRequest | None = None
        """The check, or then the details, which take its result from the engine's cache."""

    def begin(self, trainings: Sequence[Training], context: Callable[[], LaunchContext], start: bool = True) -> None:
        """Check the data of these runs, which is the same for all, and their use of the weights; with `start=False`
        only take the report of an earlier check.
        """

        def read_times() -> None:  # in a thread: the results of earlier runs may be many
            if self.times.read(trainings, context()):
                self._node.call_later(self._changed)  # ignored if the screen was closed

        self._node.run_worker(read_times, thread=True, exclusive=True, group="times")
        configs = [training.config for training in trainings]
        arguments = check_arguments(configs[0])
        names = ("method", "train", "adapter", "quantization")
        settings = [{name: msgspec.to_builtins(getattr(config, name)) for name in names} for config in configs]
        key, details_key = self._checks.key(arguments), self._checks.key({**arguments, "runs": settings})
        same = key == self._key and self.request is not None and self.report.running
        self._key, self._details_key, self._configs = key, details_key, configs
        if same:
            return  # the check in progress answers for this configuration too
        self.leave()
        self.report = self._checks.known(details_key) or self._checks.known(key) or DataCheck(running=start)
        if self.report.answer:
            self._ask_for_details()
        elif start:
            self.request = BackgroundRequest(self._node, "data.check", arguments, self._checked, self._progressed)

    def leave(self) -> None:
        if self.request:
            self.request.cancel()
            self.request = None

    def _progressed(self, progress: RequestProgress) -> None:
        if self.report.running:
            self.report = DataCheck(progress=progress.text)
            self._changed()

    def _checked(self, answer: dict[str, Any] | None, error: str) -> None:
        self.report = DataCheck(answer, error, running=False)
        self._checks.keep(self._key, self.report)
        self._ask_for_details()
        self._changed()

    def _ask_for_details(self) -> None:
        """After a check without refusal: what shared prefixes save and how weights are used, which needs torch."""
        if self.report.awaits_details:
            arguments: dict[str, Any] = {"configs": msgspec.to_builtins(self._configs)}
            self.request = BackgroundRequest(self._node, "launch.details", arguments, self._detailed)

    def _detailed(self, answer: dict[str, Any] | None, error: str) -> None:
        """Take the details; without them the launch shows less."""
        details = answer or {}
        weights = msgspec.convert(details.get("weights", []), tuple[WeightsCheck, ...])
        self.report = replace(self.report, sharing=details.get("sharing", ""), weights=weights)
        self._checks.keep(self._details_key, self.report)
        self._changed()


class LaunchAnswer(NamedTuple):
    """How the launch screen was closed, and the launch with the options that were changed."""

    answer: Literal["back", "start", "now"]
    """`now`: start while another run uses the device."""
    launch: Launch


START = "start"
"""Id of the first row, on which enter starts the launch."""


class LaunchRows(Lines, inherit_bindings=False):
    """The rows to choose from; other keys scroll the screen."""

    BINDINGS: ClassVar[list[BindingType]] = moves("cursor_up", "cursor_down", "first", "last")


class LaunchScreen(Dialog[LaunchAnswer]):
    """Problems first, then what can be changed, facts, and how long it takes. Enter starts, or edits the marked row.

    The data check runs in the background; the user need not wait for it.
    """

    BINDINGS: ClassVar[list[BindingType]] = bindings("launch")
    AUTO_FOCUS = "#rows"
    CSS = """
    LaunchScreen > Vertical { width: 100%; max-width: 116; max-height: 100%; }
    LaunchScreen VerticalScroll { height: auto; scrollbar-size-vertical: 1; }
    LaunchScreen #rows { height: auto; }
    LaunchScreen #hint { display: none; }
    """

    def __init__(self, launch: Launch, checks: DataCheckCache) -> None:
        super().__init__()
        self.launch = launch
        self.forecast = LaunchForecast(checks, self, self.update_preview, launch.runs)
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
        return self.forecast.report

    @property
    def rows(self) -> Lines:
        return self.query_one("#rows", Lines)

    @property
    def row(self) -> str:
        """The marked row: START or the name of an option."""
        return self.rows.key or START

    def compose(self) -> ComposeResult:
        with Vertical() as box:
            box.border_title = "launch"
            with VerticalScroll(can_focus=False):
                yield Static(id="problems")
                yield LaunchRows(id="rows", compact=True)
                yield Static(id="facts")
            yield ValueInput(self._end_editing)
            yield Static(id="hint")
            yield Static(id="time")
            yield Static(id="keys")

    def on_mount(self) -> None:
        self._check_data()
        self.set_interval(REFRESH_SECONDS, self._refresh_preview)
        body = self.query_one(VerticalScroll)
        self.watch(body, "virtual_size", self._show_keys, init=False)
        self.watch(body, "size", self._show_current, init=False)  # texts are wrapped to its width

    def on_unmount(self) -> None:
        self.forecast.leave()

    def _check_data(self) -> None:
        self.preview = self.launch.preview(self.report)
        self.forecast.begin(self.launch.trainings(), self.launch.context, start=not self.preview.blocked)
        self.update_preview()

    def on_resize(self) -> None:
        self._fit_height()
        self.call_after_refresh(self._show_current)

    def _fit_height(self) -> None:
        """As high as the content, but never higher than the screen: the lines below stay visible."""
        self.query_one(VerticalScroll).styles.max_height = self._max_lines()

    def _max_lines(self) -> int:
        """Lines available for the body: border, time, keys, and the line that is edited with its hint."""
        return max(3, self.size.height - (7 if self.edited else 5))

    def _refresh_preview(self) -> None:
        """Make the preview again: other processes may have started or ended."""
        if self.is_current and (preview := self.shown.preview(self.report)) != self.preview:
            self.preview = preview
            self._show()

    def _show_current(self) -> None:
        if self.is_current:
            self._show()

    def update_preview(self) -> None:
        self.preview = self.shown.preview(self.report)
        self._show()

    def _show(self) -> None:
        preview = self.preview
        warnings = [problem for problem in preview.problems if not problem.blocking]
        count = f" · {amount(len(warnings), 'warning')}" if warnings else ""
        lines = [Content.assemble((visible(preview.title), "bold"), (count, "$text-warning"))]
        for problem in sorted(preview.problems, key=lambda problem: not problem.blocking):
            mark, style = ("✗", "$text-error") if problem.blocking else ("!", "$text-warning")
            lines.append(Content.styled(f"{mark} {self._wrapped(problem.text, 2)}", style))
            if problem.hint:
                lines.append(Content(f"  → {self._wrapped(problem.hint, 4)}"))
        self.set_text("problems", Content("\n").join(lines))

        first = "cannot start" if preview.blocked else f"start: {preview.queue}"
        rows = [(START, Content.styled(first, "bold"))]
        for option in self.shown.options():
            value = visible(option.shown or option.text, 60) or option.default
            style = "bold $text-primary" if option.changed else "bold"
            rows.append((option.name, Content.assemble((f"  {option.name:<15}", "$foreground-muted"), (value, style))))
        self.rows.show(rows)

        facts = [self._fact(fact.name, fact.text, fact.style) for fact in preview.facts]
        facts.append(self._fact("command", self.shown.command, ""))
        self.set_text("facts", Content("\n").join(facts))
        self.set_text("time", self._fact("time", self.forecast.times.text(self.shown.trainings(), self.report), "bold"))
        self._show_keys()

    def _show_keys(self) -> None:
        """Show what enter does, and how to scroll if not everything fits."""
        keys = app_keys(self)
        if self.edited:
            self.set_text("keys", "enter apply   escape cancel   empty: default")
            return
        blocked = "cannot start: see the problems above"
        does = "start" if self.row == START else f"edit {self.row}"
        start = blocked if self.preview.blocked else f"{keys.of('launch.open')} {does}"
        style = "$text-error" if self.preview.blocked else "bold $text-success"
        needed = self.query_one(VerticalScroll).virtual_size.height
        scroll = f"   {keys.of('launch.down')} scroll" if needed > self._max_lines() else ""
        others = f"   ↑↓ value   {keys.of('launch.back')} back   {keys.of('launch.copy')} copy{scroll}"
        self.set_text("keys", Content.assemble((start, style), others))

    def _fact(self, name: str, text: str, style: str) -> Content:
        return Content.assemble((f"{name:<{NAME_WIDTH}}", "$foreground-muted"), (self._wrapped(text), style))

    def _wrapped(self, text: str, indent: int = NAME_WIDTH) -> str:
        """The text wrapped, with further lines indented below the first."""
        width = max(20, self.query_one(VerticalScroll).size.width - indent - 1)
        return f"\n{' ' * indent}".join(textwrap.wrap(visible(text), width, break_on_hyphens=False))

    @on(OptionList.OptionHighlighted)
    def _row_marked(self) -> None:
        """Keep the marked row visible; at the first one show the problems above."""
        self._show_keys()
        body, rows = self.query_one(VerticalScroll), self.rows
        at = rows.virtual_region.y + (rows.highlighted or 0) if rows.highlighted else 0
        if not body.scroll_offset.y <= at < body.scroll_offset.y + body.size.height or not at:
            body.scroll_to(y=max(0, at - body.size.height // 2), animate=False)

    @on(OptionList.OptionSelected)
    def action_open(self) -> None:
        option = next((offered for offered in self.launch.options() if offered.name == self.row), None)
        if option is None:
            self._close("start")
            return
        self.edited = option
        self._fit_height()
        self.query_one(ValueInput).ask(option.text, f"{option.name}: {option.accepts}", self._enter, self._try)
        self._try(option.text)

    def _try(self, text: str) -> None:
        """Show the range and the default, or what is wrong; the facts above show the effect at once."""
        assert self.edited is not None
        self.candidate, style = None, "$foreground-muted"
        about = f"{self.edited.name}: {self.edited.accepts}; default {self.edited.default}"
        try:
            self.candidate = self.launch.with_option(self.edited.name, text)
        except UserError as error:
            about, style = error.line, "$text-error"
        hint = self.query_one("#hint", Static)
        hint.display = True
        hint.update(Content.styled(visible(about), style))
        self.update_preview()

    def _enter(self, text: str) -> bool:
        """Set the value. Returns False, and shows why, if it is invalid."""
        self._try(text)
        self.launch = self.candidate or self.launch
        return self.candidate is not None

    def _end_editing(self) -> None:
        self.set_focus(self.rows)
        self.edited = self.candidate = None
        self.query_one("#hint").display = False
        self._fit_height()
        self._check_data()

    def take_preset(self, name: str) -> None:
        """Launch this preset instead, with the same data."""
        with self.errors_told():
            self.launch = self.launch.with_preset(name)
            self._check_data()

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
        self.app.copy_to_clipboard(self.launch.command)
        self.tell(f"copied: {self.launch.command}")

    def action_scroll(self, lines: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)
