"""The state of the machine for launches and predictions: the latest sample, and which processes on the GPU are ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tui.screens.base import BaseScreen
from tui.screens.live_runs import LiveRuns
from tui.screens.run_follower import RunFollower
from tui.widgets.choosing import ChoosingPane

if TYPE_CHECKING:  # imported where they are used: the first frame has no sample
    from engine.memory.formula.memory_budget import MemoryBudget
    from tui.live.machine import MachineSample
    from tui.preview.launch_context import LaunchContext


class MachineContext:
    """Takes a sample per second and answers what fits."""

    def __init__(self, screen: BaseScreen[Any], runs: Path, follower: RunFollower, live_runs: LiveRuns) -> None:
        self._screen, self._runs, self._follower, self._live_runs = screen, runs, follower, live_runs
        self.sample: MachineSample | None = None
        self._device: int | str = "auto"
        self._predicted: tuple[object, int | None] = None, None
        """The last question to the memory formula, and its answer."""

    def take(self, sample: MachineSample, choosing: ChoosingPane) -> MemoryBudget:
        """Take a new sample; returns the memory budget of the selection, rounded so that it does not change with every
        sample.
        """
        from tui.preview.memory_forecast import memory_budget

        self.sample, self._device = sample, choosing.device
        return memory_budget(sample, self._own_processes(), True, choosing.device)

    @property
    def devices(self) -> list[str]:
        """The values of `hardware.device` that exist here: auto, each GPU by its index or UUID if it has no index in
        nvidia-smi (a MIG instance), cpu.
        """
        gpus = self.sample.gpus if self.sample else ()
        names = [gpu.uuid if (gpu.uuid or "").startswith("MIG-") else str(gpu.index) for gpu in gpus]
        return ["auto", *(name for name in names if name), "cpu"]

    def planned(self, choosing: ChoosingPane) -> int | None:
        """Predicted peak memory in bytes: of the watched run while it is running, else of the selection.

        A run's own prediction replaces the formula's as soon as its log has one.
        """
        state = self._follower.state
        if self._follower.live_run and state is not None and (peak := state.predicted_peak()):
            return peak
        longest = choosing.longest(choosing.effective.config) if choosing.effective else None
        question = (self._follower.live_run, choosing.effective, choosing.budget, longest)
        if question != self._predicted[0]:
            from tui.preview.memory_forecast import predicted_peak

            self._predicted = question, predicted_peak(*question[:3], choosing.longest)
        return self._predicted[1]

    def launch_context(self) -> LaunchContext:
        """The machine as of the latest sample, and the device queue."""
        from tui.preview.launch_context import LaunchContext
        from tui.preview.memory_forecast import foreign_processes, memory_budget

        if self.sample is None:
            return LaunchContext(self._runs)
        turns, own = self._screen.queue(), self._own_processes()
        gpu = self.sample.gpu_of(self._device)
        budget = memory_budget(self.sample, own, device=self._device)
        return LaunchContext(self._runs, budget, foreign_processes(gpu, own) if gpu else (), turns)

    def _own_processes(self) -> set[int]:
        return self._live_runs.own_processes(self._follower.process())
