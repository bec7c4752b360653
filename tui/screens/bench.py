"""The main screen: lays out the panes and forwards messages and keys to the controllers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content

from engine.runs.home import tilde
from engine.runs.run.folder import current_directory
from tui.header import head_line, live_runs, selection_lines
from tui.keymap import CommandKeys
from tui.screens.live_runs import LiveRuns, RunFollower
from tui.settings import Settings
from tui.widgets.selection_pane import SelectionPane
from tui.widgets.status_line import status

if TYPE_CHECKING:  # imported where it is used: the first frame shows no run
    from engine.runs.run.run_dir import RunDir


import shutil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.widget import Widget
from textual.widgets import Static

from engine.config.errors import UserError
from engine.config.text import visible
from tui.commands import bindings
from tui.screens.announcer import Announcer
from tui.screens.bench_actions import BenchActions
from tui.screens.live_runs import is_urgent
from tui.screens.machine_context import MachineContext
from tui.screens.run_actions import RunActions, RunLauncher
from tui.screens.selection_actions import DataActions, SelectionScreens
from tui.settings import app_keys, app_settings
from tui.widgets.data_list import AddRequested, InspectRequested
from tui.widgets.log_pane import LogPane, WordEntered
from tui.widgets.loss_pane import LossPane
from tui.widgets.machine_pane import MachinePane
from tui.widgets.pane import BenchState, Pane, added_panes, make_pane
from tui.widgets.rows import KeyLine, is_covered
from tui.widgets.selection_pane import ItemPicked, SelectionChanged, SelectionRefused

if TYPE_CHECKING:  # imported where they are used: the first frame shows no run
    from engine.runs.run.run_dir import RunDir
    from tui.live.machine import MachineSampled
    from tui.live.watcher import Liveness, NewEvents, NewOutput, RunReadError, RunStateLoaded
    from tui.selection import Selection


def head_texts(
    selection_pane: SelectionPane, follower: RunFollower, live: LiveRuns, keys: CommandKeys, width: int
) -> tuple[Content, Content]:
    """Host, selection and live runs; below them what the preset is about and what the selection changed."""
    watched = follower.run.path if follower.run else None
    right = live_runs(live.turns, len(live.unqueued), watched, width - 24)
    name = selection_pane.selection.name if selection_pane.effective else ""
    head = head_line(selection_pane.effective, name, right, width)
    if not selection_pane.started:
        return head, Content()
    lines = selection_lines(selection_pane.effective, selection_pane.changed, selection_pane.previous, width, keys)
    return head, Content("\n").join(lines)


def run_title(run: RunDir) -> str:
    """The name of a run, and the directory it was started from where that is not the working directory."""
    directory = run.started_in()
    return f"{run.name} · {tilde(directory)}" if directory not in ("", current_directory()) else run.name


def status_text(follower: RunFollower, live: LiveRuns, settings: Settings, width: int) -> Content:
    """What the watched run is doing, or how it ended and what to do next."""
    return status(
        follower.state,
        follower.live,
        follower.last_output,
        width,
        CommandKeys(settings.keys),
        settings.ascii,
        follower.paused,
        follower.deleted,
        live.has_device(follower.run),
    )


MIDDLE_PANES: tuple[type[Widget], ...] = (LossPane, LogPane)
RIGHT_PANES: tuple[type[Widget], ...] = (MachinePane,)
"""The panes, from top to bottom; the panes of installed packages follow below the right ones."""


class BenchScreen(BenchActions):
    """The main screen: composes panes, and controllers that follow, start and act on runs."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("bench")
    AUTO_FOCUS = "#log"  # enter starts a run; tab moves to the lists
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (34, "-tall")]

    def __init__(self, runs: Path) -> None:
        super().__init__(classes=self._classes_of(shutil.get_terminal_size()))  # so that nothing is styled twice
        self.runs = runs
        self.opened = False
        """Whether live runs have been looked for."""
        self.panes: list[Pane] = []
        self.follower = RunFollower(self.post_message)
        self.live_runs = LiveRuns(self, runs)
        self.actions = RunActions(self, self.show_run, "bench.resume")
        self.machine = MachineContext(self, runs, self.follower, self.live_runs)
        self.launcher = RunLauncher(
            self, runs, self.machine.launch_context, self.show_run, self.action_ladder, self.select, self.predict
        )
        self.announcer = Announcer(self, runs)
        self.data_actions = DataActions(self, self.get_selection_pane)
        self.selection_screens = SelectionScreens(
            self, runs, self.get_selection_pane, self.machine.launch_context, lambda: self.launcher.checks, self.select
        )

    @classmethod
    def _classes_of(cls, size: tuple[int, int]) -> str:
        """The classes that the breakpoints will set on a terminal of this size."""
        pairs = zip(size, (cls.HORIZONTAL_BREAKPOINTS, cls.VERTICAL_BREAKPOINTS), strict=True)
        return " ".join(max(point for point in points if point[0] <= length)[1] for length, points in pairs)

    def compose(self) -> ComposeResult:
        middle, right = [make_pane(kind) for kind in MIDDLE_PANES], [make_pane(kind) for kind in RIGHT_PANES]
        self.panes = [pane for pane in (*middle, *right) if isinstance(pane, Pane)]
        yield Static(id="head")
        yield Static(id="about")
        with Horizontal(id="body"):
            yield SelectionPane(id="left")
            yield Vertical(*middle, id="middle")
            yield Vertical(*right, id="right")
        yield Static(id="status")
        yield KeyLine()

    def select(self, selection: Selection) -> None:
        """Take a selection that was changed on another screen."""
        if selection != self.selection_pane.selection:
            self.selection_pane.select(selection)

    def predict(self) -> None:
        """Predict memory again: the longest row of checked data is known."""
        self.selection_pane.list_methods()
        self._update_panes()

    def on_mount(self) -> None:
        self.selection_pane.longest = lambda config: self.launcher.checks.longest(config)
        self.set_interval(1.0, self._every_second)
        self._show_status()
        self._show_head()
        self.call_after_refresh(self._open)

    def _open(self) -> None:
        """After the first frame: the panes of installed packages, and the runs that are live."""
        self.opened = True
        try:
            for kind in added_panes():
                self._add_pane(make_pane(kind))
        except UserError as error:
            self.tell(error.line, severity="error", timeout=15)
        self.refresh_live_runs()
        self.announcer.open()

    def _add_pane(self, pane: Widget) -> None:
        self.query_one("#right").mount(pane)
        self.panes += [pane] if isinstance(pane, Pane) else []
        self.call_after_refresh(self._update_panes)

    def on_resize(self) -> None:
        self.call_after_refresh(self.redraw)
        self.call_after_refresh(self._show_head)

    def on_screen_resume(self) -> None:
        if self.opened:
            self.refresh_live_runs()
            self.redraw()

    def redraw(self) -> None:
        """Show the present state in all panes and the status line."""
        if is_covered(self):
            return
        self._update_panes()
        self._show_status()

    def _state(self) -> BenchState:
        return BenchState(
            self.runs, self.follower.state, self.machine.sample, self.machine.expected_peak(self.selection_pane)
        )

    def _update_panes(self) -> None:
        state = self._state()
        for pane in self.panes:
            pane.show_state(state)

    def _show_status(self) -> None:
        text = status_text(self.follower, self.live_runs, app_settings(self), self.size.width - 2)
        self.query_one("#status", Static).update(text)

    def _show_head(self) -> None:
        if is_covered(self):
            return
        head, about = head_texts(self.selection_pane, self.follower, self.live_runs, app_keys(self), self.size.width)
        self.query_one("#head", Static).update(head)
        self.query_one("#about", Static).update(about)

    def watch_run(self, run: RunDir) -> None:
        """Show this run from its first event."""
        self.follower.watch(run)
        self.query_one("#loss").border_subtitle = visible(run_title(run), 120)
        self.log_pane.begin(run.name)

    def show_run(self, run: RunDir) -> None:
        self.watch_run(run)
        self.refresh_live_runs()

    def refresh_live_runs(self) -> None:
        """Read again which runs are live and in which order they wait for the GPU; watch the first one if none is
        watched.
        """
        self.live_runs.refresh()
        self.announcer.look(self.live_runs.live())
        if self.follower.run is None and (live := self.live_runs.in_order()):
            self.watch_run(live[0])
        self._show_head()

    def _every_second(self) -> None:
        if self.live_runs.has_changed():
            self.refresh_live_runs()
        self.announcer.look_at_ladders()
        if self.follower.live and self.follower.state is not None:
            self.redraw()

    def on_machine_sampled(self, message: MachineSampled) -> None:
        budget = self.machine.take(message.sample, self.selection_pane)
        if is_covered(self):
            self.query_one(MachinePane).show_state(self._state())  # its trace has no gap
            return
        self.selection_pane.set_budget(budget)
        self._update_panes()

    def on_run_state_loaded(self, message: RunStateLoaded) -> None:
        if self.follower.opened(message):
            self.redraw()

    def on_new_events(self, message: NewEvents) -> None:
        if self.follower.feed(message):
            if is_urgent(message):
                self.redraw()
            elif not is_covered(self):
                self.log_pane.show_state(self._state())

    def on_new_output(self, message: NewOutput) -> None:
        if message.run == self.follower.run:
            self.log_pane.add_output(message.piece)

    def on_liveness(self, message: Liveness) -> None:
        if self.follower.set_liveness(message, self.log_pane.last_output_line()):
            if message.died and len(self.log_pane.views["output"]):
                self.log_pane.show_view("output")
            self.redraw()
            self._show_head()

    def on_run_read_error(self, message: RunReadError) -> None:
        if message.run == self.follower.run:
            self.tell(message.text, severity="error", timeout=15)
            self.redraw()  # what was shown of another run is removed

    @on(SelectionChanged)
    def _selection_changed(self) -> None:
        self._show_head()

    @on(SelectionRefused)
    def _selection_refused(self, message: SelectionRefused) -> None:
        self.tell(message.reason, severity="error")
        self._show_head()

    @on(ItemPicked)
    def _item_picked(self) -> None:
        self.log_pane.focus()  # so that the next enter starts a run

    @on(InspectRequested)
    def _inspect_requested(self, message: InspectRequested) -> None:
        self.data_actions.inspect(message.data)

    @on(AddRequested)
    def _add_requested(self) -> None:
        self.data_actions.add()

    @on(WordEntered)
    def _word_entered(self, message: WordEntered) -> None:
        {"filter": self.log_pane.filter, "find": self.log_pane.find}[message.purpose](message.word)
        if message.done:
            self.log_pane.focus()
