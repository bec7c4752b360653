"""Live and waiting runs, and the watched one: its events, its output, whether its worker is running."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.message import Message

from engine.runs.queue.device_queue import is_timing_probe, runs_of
from tui.screens.base import BaseScreen

if TYPE_CHECKING:  # imported where they are used: the first frame shows no run
    from engine.config.schema import Config
    from engine.runs.ladder.ladder_state import Ladder
    from engine.runs.queue.device_queue import QueuePlace
    from engine.runs.run.run_dir import RunDir
    from tui.live.machine import WatchedProcess
    from tui.live.run_state import RunState
    from tui.live.watcher import NewEvents, Watcher
    from tui.widgets.status_line import LadderProgress


NEW_SECONDS = 5.0
"""Time within which a new run takes its lock."""


class LiveRuns:
    """Live runs as of the last `refresh`."""

    def __init__(self, screen: BaseScreen[Any], runs: Path) -> None:
        self._screen, self._folder = screen, runs
        self.turns: list[QueuePlace] = []
        """Who uses each device and who waits, over all runs of this machine."""
        self.unqueued: list[RunDir] = []
        """Live runs of this folder outside the queue: started with --now."""

    def refresh(self) -> None:
        """Read the queue and the folder again."""
        self.turns = self._screen.queue()
        queued = {turn.run for turn in self.turns}
        unqueued = (run for run in self._in_folder() if run.path not in queued and run.is_active())
        self.unqueued = sorted(unqueued, key=lambda run: run.name)

    def has_changed(self) -> bool:
        """Whether a `refresh` may find something else."""
        changed = self._screen.queue() != self.turns or self._has_new_run()
        return changed or not all(run.is_active() for run in self.unqueued)

    def live(self) -> list[RunDir]:
        """Live runs of this folder: those that use a device, then those that wait, then those outside the queue."""
        if not self.turns:  # before the first frame, which must not wait for the import
            return list(self.unqueued)
        from engine.runs.run.run_dir import RunDir

        ours = (turn for turn in self.turns if turn.run.parent == self._folder)
        return [*(RunDir(turn.run) for turn in sorted(ours, key=lambda turn: turn.place)), *self.unqueued]

    def probes(self) -> list[RunDir]:
        """Live timing probes of this folder's ladders, in no particular order."""
        from engine.runs.run.run_dir import RunDir

        probes = (turn.run for turn in self.turns if is_timing_probe(turn.run))
        return [RunDir(run) for run in probes if runs_of(run) == self._folder]

    def has_device(self, run: RunDir | None) -> bool:
        """Whether this run is first in the queue of its device."""
        return run is not None and any(turn.run == run.path and not turn.place for turn in self.turns)

    def own_processes(self, watched: WatchedProcess) -> set[int]:
        """Process ids of our runs, as the driver counts them; in a container only that of the watched run is known."""
        from engine.hardware.nvml import pids_are_local

        known = {turn.pid for turn in self.turns} if pids_are_local() else set()
        return known | ({watched.gpu_pid} if watched.gpu_pid is not None else set())

    def _in_folder(self) -> list[RunDir]:
        from engine.runs.run import run_dir

        return self._screen.read_all(run_dir.iterate(self._folder))

    def _has_new_run(self) -> bool:
        """Whether a run was created a moment ago: one started with --now is in no queue."""
        with contextlib.suppress(OSError):
            return time.time() - self._folder.stat().st_mtime < NEW_SECONDS
        return False


URGENT = ("Phase", "End", "Hello", "Plan")
"""Events that change the status line: shown at once instead of with the next second."""


class RunFollower:
    """The watched run and what is known of it; `post` takes the watcher's messages and is called from its thread."""

    def __init__(self, post: Callable[[Message], object]) -> None:
        self._post = post
        self._watcher: Watcher | None = None
        self.state: RunState | None = None
        self.live: bool | None = None
        """Whether the run is active, as `RunDir.is_active`; None until known."""
        self.last_output: str | None = None
        """The last line that a worker printed before it exited without an `end` event; None for every other run."""
        self.deleted = False
        """Whether the run's directory was deleted."""
        self.config: Config | None = None
        """Its configuration, where it can be read."""
        self.ladder: Ladder | None = None
        """The ladder that it belongs to."""

    @property
    def run(self) -> RunDir | None:
        """The watched run."""
        return self._watcher.watched if self._watcher else None

    @property
    def live_run(self) -> RunDir | None:
        """The watched run while its worker is running."""
        return self.run if self.live else None

    def watch(self, run: RunDir) -> None:
        """Follow this run from its first event."""
        from tui.live.watcher import Watcher

        self.leave()
        self.state, self.live, self.last_output, self.deleted = None, None, None, False
        self.config, self.ladder = None, None
        self._watcher = Watcher(run, self._post)
        self._watcher.start()

    def leave(self) -> None:
        """Stop following; the run is not affected."""
        if self._watcher:
            self._watcher.leave()

    def ladder_progress(self) -> LadderProgress | None:
        """How far the ladder is while it is running."""
        from tui.widgets.status_line import ladder_progress

        if self.ladder is None or self.run is None or self.ladder.status != "running":
            return None
        return ladder_progress(self.ladder, self.run.name, self.state)

    @property
    def paused(self) -> bool:
        return self.run is not None and self.run.paused_file.exists()

    def process(self) -> WatchedProcess:
        """The watched run's process; called from the sampler's thread."""
        from engine.hardware.nvml import pids_are_local
        from tui.live.machine import WatchedProcess

        run, state, pid = self.run, self.state, None  # read once each: another thread may replace them
        memory = state.memory if state else None
        with contextlib.suppress(OSError):  # the watcher reports it
            pid = run.pid() if run else None
        if pid is None or memory is None:
            return WatchedProcess(pid, pid if pids_are_local() else None)
        return WatchedProcess(pid, memory.gpu_pid or (pid if pids_are_local() else None), memory.reserved)


def is_urgent(message: NewEvents) -> bool:
    """Whether the status line changes with these events."""
    return any(type(event).__name__ in URGENT for event in message.events)
