"""Follow one run: turn the messages of the watcher thread into the state that the bench shows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from textual.message import Message

if TYPE_CHECKING:  # imported where they are used: the first frame shows no run
    from engine.runs.run_dir import RunDir
    from tui.live.machine import WatchedProcess
    from tui.live.run_state import RunState
    from tui.live.watcher import Liveness, NewEvents, RunStateLoaded, Watcher

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
        self._watcher = Watcher(run, self._post)
        self._watcher.start()

    def leave(self) -> None:
        """Stop following; the run is not affected."""
        if self._watcher:
            self._watcher.leave()

    def opened(self, message: RunStateLoaded) -> bool:
        """Take the state up to now. False for a message about another run."""
        if message.run != self.run:
            return False
        self.state = message.state
        return True

    def feed(self, message: NewEvents) -> bool:
        """Add new events. False for a message about another run."""
        if message.run != self.run or self.state is None:
            return False
        self.state.feed(message.events)
        return True

    def set_liveness(self, message: Liveness, last_output: str) -> bool:
        """Take whether the worker is running. False for a message about another run."""
        if message.run != self.run:
            return False
        self.live, self.deleted = message.live, message.gone
        self.last_output = last_output if message.died else None
        return True

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
