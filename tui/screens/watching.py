"""A screen that watches one run: what the watcher's thread finds becomes curves, log and status."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from textual.screen import ScreenResultType
from textual.widgets import Static

from engine.config.text import visible
from tui.screens.starting import StartingScreen
from tui.widgets.log_pane import LogPane
from tui.widgets.loss_pane import LossPane
from tui.widgets.status_line import status

if TYPE_CHECKING:  # imported where they are needed: the first picture does not wait for what a run takes
    from engine.runs.device_queue import Turn
    from engine.runs.run_dir import RunDir
    from tui.app import Workbench
    from tui.live.machine import WatchedProcess
    from tui.live.run_state import RunState
    from tui.live.watcher import Liveness, NewEvents, NewOutput, Opened, Unreadable, Watcher

TELLING = ("Phase", "End", "Hello", "Plan")
"""Events after which the status is another at once, and not only with the next second."""


class WatchingScreen(StartingScreen[ScreenResultType]):
    """Holds what is known of the run that it shows in `#loss`, `#log` and `#status`."""

    app: Workbench
    ascii_only: bool

    def __init__(self, classes: str | None = None) -> None:
        super().__init__(classes=classes)
        self.watcher: Watcher | None = None
        self.state: RunState | None = None
        self.live: bool | None = None
        self.died: str | None = None
        """How the output of a worker ends that went without an end."""
        self.gone = False
        """Whether its directory has been deleted."""
        self.places: list[Turn] = []
        """Who has a card and who waits, of all runs of this machine."""

    @property
    def watched(self) -> RunDir | None:
        return self.watcher.watched if self.watcher else None

    def worker(self) -> WatchedProcess:
        """The watched run's process, for the sampler's thread."""
        from engine.hardware.nvml import ids_are_ours
        from tui.live.machine import WatchedProcess

        run, state, pid = self.watched, self.state, None  # once each: another thread may change them
        memory = state.memory if state else None
        with contextlib.suppress(OSError):  # the watcher tells
            pid = run.pid() if run else None
        if pid is None or memory is None:
            return WatchedProcess(pid, pid if ids_are_ours() else None)
        return WatchedProcess(pid, memory.card_pid or (pid if ids_are_ours() else None), memory.reserved)

    def on_the_card(self) -> set[int]:
        """Our own runs, as the driver counts processes: of others than the watched one a container tells no id."""
        from engine.hardware.nvml import ids_are_ours

        known = {turn.pid for turn in self.places} if ids_are_ours() else set()
        process = self.worker()
        return known | ({process.card_pid} if process.card_pid is not None else set())

    def watch_run(self, run: RunDir) -> None:
        """Show this run from its first event on."""
        from tui.live.watcher import Watcher

        if self.watcher:
            self.watcher.leave()
        self.state, self.live, self.died, self.gone = None, None, None, False
        self.watcher = Watcher(run, self.post_message)
        self.watcher.start()
        self.query_one("#loss").border_subtitle = visible(self._origin(run), 120)
        self.query_one(LogPane).begin(run.name)

    def _origin(self, run: RunDir) -> str:
        """The name of a run, and the directory it was started from where that is not the working directory."""
        from engine.runs.folder import working_directory
        from engine.runs.home import tilde

        directory = run.started_in()
        return f"{run.name} · {tilde(directory)}" if directory not in ("", working_directory()) else run.name

    def on_opened(self, message: Opened) -> None:
        if message.run == self.watched:
            self.state = message.state
            self.redraw()

    def on_fresh(self, message: NewEvents) -> None:
        if message.run == self.watched and self.state is not None:
            self.state.feed(message.events)
            self._log()
            if any(type(event).__name__ in TELLING for event in message.events):
                self.redraw()

    def on_liveness(self, message: Liveness) -> None:
        if message.run != self.watched:
            return
        self.live, self.gone = message.live, message.gone
        log = self.query_one(LogPane)
        self.died = log.last_words() if message.died else None
        if message.died and len(log.views["output"]):
            log.see("output")
        self.redraw()
        self.head()

    def on_printed(self, message: NewOutput) -> None:
        if message.run == self.watched:
            self.query_one(LogPane).printed(message.piece)
            self._log()

    def on_unreadable(self, message: Unreadable) -> None:
        if message.run == self.watched:
            self.tell(message.text, severity="error", timeout=15)
            self.redraw()  # of another run nothing stays

    def redraw(self) -> None:
        """Curves, log and status."""
        loss = self.query_one(LossPane)
        loss.state, loss.keys = self.state, self.app.settings.keys
        loss.redraw()
        self._log()
        self.say_status()

    def say_status(self) -> None:
        keys, room = self.app.settings.keys, self.size.width - 2
        paused = self.watched is not None and self.watched.paused_file.exists()
        first = any(turn.run == self.watched.path and not turn.place for turn in self.places) if self.watched else False
        line = status(self.state, self.live, self.died, room, keys, self.ascii_only, paused, self.gone, first)
        self.query_one("#status", Static).update(line)

    def head(self) -> None:
        """Say anew which runs live."""
        raise NotImplementedError

    def _log(self) -> None:
        log = self.query_one(LogPane)
        if self.state is not None:
            log.views["events"] = self.state.log
        log.redraw()
