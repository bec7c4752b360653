"""The runs that are live or waiting: their order in the device queue, and those outside the queue."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.runs.folder import is_timing_probe, running_elsewhere, runs_of
from tui.screens.base import BaseScreen

if TYPE_CHECKING:  # imported where they are used: the first frame shows no run
    from engine.runs.device_queue import QueuePlace
    from engine.runs.run_dir import RunDir
    from tui.live.machine import WatchedProcess

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
        self.unqueued = [run for run in self._in_folder() if run.path not in queued and run.is_active()]

    def has_changed(self) -> bool:
        """Whether a `refresh` may find something else."""
        changed = self._screen.queue() != self.turns or self._has_new_run()
        return changed or not all(run.is_active() for run in self.unqueued)

    def in_order(self) -> list[RunDir]:
        """Live runs of this folder: those that use a device, then those that wait, then those outside the queue."""
        from engine.runs.run_dir import RunDir

        ours = sorted((turn for turn in self.turns if turn.run.parent == self._folder), key=lambda turn: turn.place)
        queued = [RunDir(turn.run) for turn in ours]
        rest = [run for run in self._in_folder() if run not in queued and run.is_active()]
        return queued + sorted(rest, key=lambda run: run.name)

    def live(self) -> list[RunDir]:
        """The live and waiting runs of this folder as of the last refresh."""
        from engine.runs.run_dir import RunDir

        queued = [RunDir(turn.run) for turn in self.turns if turn.run.parent == self._folder]
        return [*queued, *self.unqueued]

    def probes(self) -> list[RunDir]:
        """Live timing probes of this folder's ladders, in no particular order."""
        from engine.runs.run_dir import RunDir

        probes = (turn.run for turn in self.turns if is_timing_probe(turn.run))
        return [RunDir(run) for run in probes if runs_of(run) == self._folder]

    def elsewhere(self) -> str:
        """`full-3d4d is running in ~/other/runs.`, or nothing."""
        return running_elsewhere(self._folder)

    def has_device(self, run: RunDir | None) -> bool:
        """Whether this run is first in the queue of its device."""
        return run is not None and any(turn.run == run.path and not turn.place for turn in self.turns)

    def own_processes(self, watched: WatchedProcess) -> set[int]:
        """Process ids of our runs, as the driver counts them; in a container only that of the watched run is known."""
        from engine.hardware.nvml import pids_are_local

        known = {turn.pid for turn in self.turns} if pids_are_local() else set()
        return known | ({watched.gpu_pid} if watched.gpu_pid is not None else set())

    def _in_folder(self) -> list[RunDir]:
        from engine.runs import run_dir

        return self._screen.read_all(run_dir.iterate(self._folder))

    def _has_new_run(self) -> bool:
        """Whether a run was created a moment ago: one started with --now is in no queue."""
        with contextlib.suppress(OSError):
            return time.time() - self._folder.stat().st_mtime < NEW_SECONDS
        return False
