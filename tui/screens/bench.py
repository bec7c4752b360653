"""The main screen without its keys (`bench_actions`): its panes show the watched run, the machine and the selection.

While a run is live, memory has the most room and the selection is folded into one strip; else the lists to select from
are open. Below 80 by 24 only memory, progress and loss are shown.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from engine.config.errors import UserError
from engine.config.text import visible
from engine.runs.run.folder import short_name
from tui.screens.base import BaseScreen
from tui.screens.live_runs import LiveRuns, MachineContext, RunFollower
from tui.settings import app_keys
from tui.widgets.data_list import DataList
from tui.widgets.log_pane import LogPane
from tui.widgets.memory_pane import MAX_ROWS_OF_SEVERAL, MemoryPane
from tui.widgets.pane import BenchState, Pane, added_panes, make_pane
from tui.widgets.run_panes import FiguresPane, LossPane, RunsPane
from tui.widgets.selection_pane import NextRun, SelectionPane
from tui.widgets.status_line import head_line, run_text, selection_line, status
from tui.widgets.text_rows import KeyLine, is_covered

if TYPE_CHECKING:  # imported where they are used: the first frame shows no run
    from engine.runs.run.run_dir import RunDir
    from tui.history.run_list import ResumableRun
    from tui.live.machine import MachineSampled
    from tui.live.watcher import RunNews
    from tui.preview.launch_context import DataCheckCache
    from tui.preview.launches import FittingRun
    from tui.screens.announcer import Announcer

UPPER_PANES: tuple[type[Widget], ...] = (LossPane, FiguresPane)
LOWER_PANES: tuple[type[Widget], ...] = (LogPane, RunsPane)
"""The panes below memory, from left to right; the panes of installed packages follow in the upper row."""

URGENT = ("Phase", "End", "Hello", "Plan")
"""Events that change the status line: shown at once instead of with the next second."""
HIGH = 54
"""Rows of a screen with room for more memory and longer lists."""


class BenchView(BaseScreen[None]):
    """Composes the panes and keeps them up to date; `BenchScreen` adds the keys."""

    ALLOW_IN_MAXIMIZED_VIEW = ".-textual-system, #status, ValueInput, KeyLine"
    SHOWN_WHILE_ZOOMED = ("stop", "pause", "resume", "previous", "clear", "zoom")
    """Commands in the key line while a pane is zoomed: so few that even a narrow terminal shows how to end the zoom."""
    AUTO_FOCUS = "#log"  # enter starts a run; tab moves to the lists
    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (80, "-narrow"), (140, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-low"), (24, "-short"), (34, "-tall"), (42, "-high")]

    def __init__(self, runs: Path) -> None:
        breakpoints = zip(
            shutil.get_terminal_size(), (self.HORIZONTAL_BREAKPOINTS, self.VERTICAL_BREAKPOINTS), strict=True
        )
        classes = [max(point for point in points if point[0] <= length)[1] for length, points in breakpoints]
        # as the breakpoints and `_fold` will set them, so that nothing is styled twice
        super().__init__(classes=" ".join([*classes, "-empty"]))
        self.runs = runs
        self.resumable: list[ResumableRun] = []
        """Runs that can be resumed, the latest first; read after the first frame."""
        self.panes: list[Pane] = []
        self.lists_open = False
        """Whether the user has opened the lists while a run is live."""
        self._fitting: tuple[str, list[FittingRun]] = ("", [])
        """The run that ran out of memory, and what fits in its place."""
        self._minute = 0
        """Of the clock, as it was drawn last."""
        self.follower = RunFollower(self.post_message)
        self.live_runs = LiveRuns(self, runs)
        self.machine = MachineContext(self, runs, self.follower, self.live_runs)
        self.announcer: Announcer | None = None
        """Created after the first frame, when live runs are looked for."""

    def compose(self) -> ComposeResult:
        memory = make_pane(MemoryPane)
        upper, lower = [make_pane(kind) for kind in UPPER_PANES], [make_pane(kind) for kind in LOWER_PANES]
        self.panes = [pane for pane in (memory, *upper, *lower) if isinstance(pane, Pane)]
        yield Static(id="head")
        yield Static(id="status")
        yield memory
        yield SelectionPane(id="selection")
        yield Static(id="about")
        with Vertical(id="work"):
            yield Horizontal(*upper, id="upper")
            yield Horizontal(*lower, id="lower")
        strip = NextRun(id="next")
        strip.border_title = "next run"
        yield strip
        yield KeyLine(always=("preset.1",))

    @property
    def selection_pane(self) -> SelectionPane:
        return self.query_one(SelectionPane)

    @property
    def log_pane(self) -> LogPane:
        return self.query_one(LogPane)

    @property
    def is_input_shown(self) -> bool:
        """Whether an input line is shown. Until the user closes it, events of runs and data do not move the focus."""
        return any(line.display for line in self.query("ValueInput"))

    @cached_property
    def checks(self) -> DataCheckCache:
        from tui.preview.launch_context import DataCheckCache

        def predict_again() -> None:  # the longest row of checked data is known
            self.selection_pane.list_methods()
            self._update_panes()

        return DataCheckCache(predict_again)

    def on_mount(self) -> None:
        self.selection_pane.longest = lambda config: self.checks.longest(config)
        self.set_interval(1.0, self._every_second)
        self._show_status()
        self.show_head()
        self.call_after_refresh(self._open)

    def _open(self) -> None:
        """After the first frame: the panes and keys of installed packages, and the runs that are live."""
        from tui.commands import add_installed
        from tui.screens.announcer import Announcer

        self.announcer = Announcer(self, self.runs, lambda: self.follower.run)
        try:
            for kind in added_panes():
                pane = make_pane(kind)
                self.query_one("#upper").mount(pane)
                self.panes += [pane] if isinstance(pane, Pane) else []
                self.call_after_refresh(self._update_panes)
            add_installed()
        except UserError as error:
            self.tell(error.line, severity="error", timeout=15)
        self.refresh_live_runs()
        self.announcer.open()
        self.find_resumable()

    def find_resumable(self) -> None:
        """Look in a thread for runs that can be resumed: their results are read."""

        def take(runs: list[ResumableRun]) -> None:
            self.resumable = runs
            self.redraw()

        def read() -> None:
            from tui.history.run_list import resumable

            try:
                runs = resumable(self.runs)
            except (UserError, OSError):  # the screen of the runs reports it
                return
            self.app.call_from_thread(take, runs)

        self.run_worker(read, thread=True, group="resumable")

    def on_resize(self) -> None:
        self.call_after_refresh(self.redraw)
        self.call_after_refresh(self.show_head)

    def on_screen_resume(self) -> None:
        if self.announcer is not None:
            self.refresh_live_runs()
            self.redraw()
            self.query_one(DataList).suggest()

    def redraw(self) -> None:
        if is_covered(self):
            return
        self._update_panes()
        self._show_status()

    def _state(self) -> BenchState:
        follower = self.follower
        names = {turn.pid: short_name(turn.run.name) for turn in self.live_runs.turns}
        memory = follower.state.memory if follower.state else None
        if memory and memory.gpu_pid and follower.run:  # in a container the watched run's process has another pid
            names[memory.gpu_pid] = short_name(follower.run.name)
        return BenchState(
            self.runs,
            follower.state,
            self.machine.sample,
            self.machine.expected_peak(self.selection_pane),
            bool(follower.live),
            names,
            self.machine.next_gpu,
            self.machine.uses_cpu(),
            self.resumable,
        )

    def _update_panes(self) -> None:
        if not self.query(MemoryPane):  # the app is ending: its widgets are removed before its last message
            return
        self._fold()
        state = self._state()
        for pane in self.panes:
            pane.show_state(state)
        self.query_one(NextRun).show_selection(self.selection_pane)

    def _fold(self) -> None:
        """Fold the lists while a run is live, and open them when nothing runs."""
        busy = bool(self.follower.live or self.live_runs.live())  # not for runs of others on this machine
        self.lists_open &= busy
        self.set_class(busy, "-busy")
        self.set_class(self.follower.run is None and not self.query("#word"), "-empty")
        self.set_class(busy and not self.lists_open, "-folded")
        gpus, height = len(self.machine.sample.gpus) if self.machine.sample else 1, self.size.height
        self.set_class(gpus > 4 and height < 34, "-crowded")
        self.set_class(height >= HIGH, "-highest")

        # memory has more rows while a run is live, and one per GPU where there are several
        history = 3 if busy or height >= 34 else 0
        history += 2 if busy and height >= 34 else 0
        history += 2 if busy and height >= 42 else 0
        history += 4 if busy and height >= HIGH else 0
        rows = 4 + history
        if gpus > 1:
            rows = min(gpus, height // 3) + 3 + (min(history, MAX_ROWS_OF_SEVERAL + 1) if height >= 34 else 0)
        if height < 24:
            rows = max(4, min(6, height // 3))
        self.query_one("#memory").styles.height = rows

    def open_lists(self) -> None:
        """Open the lists to select from, also while a run is live."""
        self.lists_open = True
        self._fold()

    def is_useful(self, command: str) -> bool:
        follower, log = self.follower, self.log_pane
        if self.maximized is not None and command not in self.SHOWN_WHILE_ZOOMED:
            return False
        match command:
            case "stop" | "pause":
                return bool(follower.live)
            case "resume":
                return self.run_to_resume() is not None and not follower.deleted
            case "watch":
                return len(self.live_runs.live()) > bool(follower.live)
            case "export" | "compare":
                return self.has_finished_run()
            case "previous":
                return bool(log.find_word)
            case "clear":
                return bool(log.find_word or log.filter_word) or self.lists_open or self.is_input_shown
            case "charts":
                return follower.state is not None
        return True

    def selected_run(self) -> RunDir | None:
        return self.follower.run

    def run_to_resume(self) -> RunDir | None:
        """The watched run if it can be resumed, else the latest one that can if none is watched."""
        follower = self.follower
        if follower.run is not None and (follower.state is None or follower.run.is_active()):
            return None
        end = follower.state.end if follower.state else None
        if end is not None and end.status == "out_of_memory":
            return None  # it would run out of memory again
        if follower.run is not None and (end is None or end.status != "finished"):
            return follower.run
        return self.resumable[0].run if self.resumable else None

    def fitting(self) -> list[FittingRun]:
        """What fits in place of the watched run, which ran out of memory; estimated once per run."""
        run, state, budget = self.follower.run, self.follower.state, self.selection_pane.budget
        if run is None or state is None or state.end is None or state.end.status != "out_of_memory":
            return []
        if self._fitting[0] != run.name and budget is not None:
            from tui.preview.launches import fitting_runs

            found: list[FittingRun] = []
            with contextlib.suppress(UserError):  # its preset is gone
                micro_batch = state.plan.micro_batch if state.plan else 1
                found = fitting_runs(run, micro_batch, budget, self.checks.longest)
            self._fitting = run.name, found
        return self._fitting[1] if self._fitting[0] == run.name else []

    def _show_status(self) -> None:
        if not self.query("#status"):
            return
        if self.is_starting:
            self.set_text("status", Content.styled(" starting …", "bold"))
            return
        follower, run, ladder = self.follower, self.follower.run, self.follower.ladder
        running = [turn.run for turn in self.live_runs.turns if not turn.place]  # the others wait for their devices
        text = status(
            follower.state,
            follower.live,
            follower.last_output,
            self.size.width - 2,
            app_keys(self),
            paused=run is not None and run.paused_file.exists(),
            deleted=follower.deleted,
            has_device=run is not None and run.path in running,
            ladder=ladder if follower.live and ladder and ladder.status == "running" else None,
            fitting=self.fitting(),
        )
        self.set_text("status", text)
        self.query_one(KeyLine).redraw()

    def show_starting(self) -> None:
        self._show_status()

    def show_head(self) -> None:
        if is_covered(self) or not self.query("#head"):
            return
        pane, keys, width = self.selection_pane, app_keys(self), self.size.width
        waiting = len({turn.pid for turn in self.live_runs.turns if turn.place})
        running = {turn.run for turn in self.live_runs.turns if not turn.place}
        running |= {run.path for run in self.live_runs.unqueued}
        run = self.follower.run
        others = len(running - ({run.path} if run else set()))
        title = f" {visible(pane.effective.config.title or pane.selection.name)}" if pane.effective else ""
        left = Content.assemble((" ftbench ", "bold reverse"), title)
        if run is not None:
            waits = any(turn.run == run.path and turn.place for turn in self.live_runs.turns)
            left = run_text(run, self.follower.config, self.follower.live, waits)
        self.set_text("head", head_line(left, waiting, others, width))
        if pane.started:
            line = selection_line(pane.effective, pane.changed, pane.previous, width, keys)
            self.set_text("about", line)
        self.query_one(NextRun).show_selection(pane)

    def watch_run(self, run: RunDir) -> None:
        """Show this run from its first event."""
        self.follower.watch(run)
        self.lists_open = False
        self.log_pane.begin(run.name)
        if not self.is_input_shown:
            self.log_pane.focus()
        self.show_head()

    def show_run(self, run: RunDir) -> None:
        self.watch_run(run)
        self.refresh_live_runs()

    def refresh_live_runs(self) -> None:
        """Read again which runs are live and in which order they wait for the GPU; watch the first one if none is
        watched.
        """
        self.live_runs.refresh()
        if self.announcer is not None:
            self.announcer.look(self.live_runs.live())
        if self.follower.run is None and (live := self.live_runs.live()):
            self.watch_run(live[0])
        self.show_head()

    def _every_second(self) -> None:
        if self.live_runs.has_changed():
            self.refresh_live_runs()
        if self.announcer is not None:
            self.announcer.look_at_ladders()
        if self.follower.live and self.follower.state is not None:
            self.redraw()
        if (minute := int(time.time() // 60)) != self._minute:
            self._minute = minute
            self.show_head()  # it has a clock

    def on_machine_sampled(self, message: MachineSampled) -> None:
        if not self.query(MemoryPane):  # as in `_update_panes`
            return
        budget = self.machine.take(message)
        if is_covered(self):
            self.query_one(MemoryPane).show_state(self._state())  # its trace has no gap
            return
        self.selection_pane.set_budget(budget)
        if self.follower.live:  # the other panes are drawn by `_every_second`: twice per second would be sent twice
            self.query_one(MemoryPane).show_state(self._state())
            return
        self._update_panes()

    def on_run_news(self, news: RunNews) -> None:
        """Take what is new of the watched run, and draw what changed."""
        follower = self.follower
        if news.run != follower.run:
            return
        if news.state is not None:
            follower.state, follower.config = news.state, news.config
        if news.ladder is not None:
            follower.ladder = news.ladder
        if follower.state is not None:
            follower.state.feed(news.events)
        if news.output is not None:
            self.log_pane.add_output(news.output)
        if news.live is not None:
            follower.live, follower.deleted = news.live, news.gone
            follower.last_output = self.log_pane.last_output_line() if news.died else None
            if news.died and len(self.log_pane.views["output"]):
                self.log_pane.show_view("output")
            self.find_resumable()
        if news.error:
            self.tell(news.error, severity="error", timeout=15)

        loaded = news.state is not None or news.live is not None
        if loaded or news.error or any(type(event).__name__ in URGENT for event in news.events):
            self.redraw()  # after an error too: the panes may still show the run watched before
            if loaded:
                self.show_head()
            return
        if news.ladder is not None:
            self._show_status()
        if news.events and not is_covered(self):
            self.log_pane.show_state(self._state())
