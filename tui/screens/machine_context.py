"""The state of the machine for launches and predictions: the latest sample, and which processes on the GPU are ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.hardware.cpu import usable_cpus
from tui.screens.base import BaseScreen
from tui.screens.live_runs import LiveRuns, RunFollower
from tui.widgets.selection_pane import SelectionPane

if TYPE_CHECKING:  # imported where they are used: the first frame has no sample
    from engine.memory.formula.memory_budget import MemoryBudget
    from engine.runs.queue.device_queue import QueuePlace
    from tui.live.machine import MachineSample
    from tui.live.run_state import ExpectedPeak
    from tui.preview.launch_context import LaunchContext


class MachineContext:
    """Takes a sample per second and answers what fits."""

    def __init__(self, screen: BaseScreen[Any], runs: Path, follower: RunFollower, live_runs: LiveRuns) -> None:
        self._screen, self._runs, self._follower, self._live_runs = screen, runs, follower, live_runs
        self.sample: MachineSample | None = None
        self._device: int | str = "auto"
        self._predicted: tuple[object, ExpectedPeak | None] = None, None
        """The last question to the memory formula, and its answer."""

    def take(self, sample: MachineSample, selection_pane: SelectionPane) -> MemoryBudget:
        """Take a new sample; returns the memory budget of the selection, rounded so that it does not change with every
        sample.
        """
        from tui.preview.method_estimate import memory_budget

        self.sample, self._device = sample, selection_pane.device
        return memory_budget(sample, self._own_processes(), True, selection_pane.device)

    @property
    def next_gpu(self) -> str | None:
        """Label of the GPU that a run of the selection is planned for."""
        gpu = self.sample.gpu_of(self._device) if self.sample else None
        return gpu.label if gpu else None

    @property
    def devices(self) -> list[str]:
        """The values of `hardware.device` that exist here: auto, each GPU by its index, each MIG instance by
        its UUID (CUDA knows no index of it), all of several, cpu, and halves of it for the runs of a ladder.
        """
        gpus = self.sample.gpus if self.sample else ()
        names = [str(gpu.index) if gpu.instance is None else gpu.uuid for gpu in gpus]
        devices = [name for name in names if name]
        halves = ["cpu:2"] if len(usable_cpus()) > 1 else []
        return ["auto", *devices, *(["all"] if len(devices) > 1 else []), "cpu", *halves]

    def expected_peak(self, selection_pane: SelectionPane) -> ExpectedPeak | None:
        """Peak memory of the watched run while it is running, else of the selection.

        A run's own prediction, and then its memory probe, replace the formula's as soon as its log has them.
        """
        state = self._follower.state
        measured = state.expected_peak() if self._follower.live_run and state is not None else None
        predicted = self._predict(selection_pane)
        if measured is None:
            return predicted
        return measured._replace(parts=predicted.parts) if predicted else measured

    def _predict(self, selection_pane: SelectionPane) -> ExpectedPeak | None:
        """By the formula, with its parts; computed again when the question changes."""
        longest = selection_pane.longest(selection_pane.effective.config) if selection_pane.effective else None
        question = (self._follower.live_run, selection_pane.effective, selection_pane.budget, longest)
        if question != self._predicted[0]:
            from tui.preview.method_estimate import predicted_peak

            self._predicted = question, predicted_peak(*question[:3], selection_pane.longest)
        return self._predicted[1]

    def launch_context(self) -> LaunchContext:
        """The machine as of the latest sample, and the device queue."""
        from tui.preview.launch_context import LaunchContext
        from tui.preview.method_estimate import foreign_processes, memory_budget

        if self.sample is None:
            return LaunchContext(self._runs)
        turns, own = self._screen.queue(), self._own_processes()
        gpu = self.sample.gpu_of(self._device)
        budget = memory_budget(self.sample, own, device=self._device)
        turns, devices = self._of_the_selection(turns)
        return LaunchContext(self._runs, budget, foreign_processes(gpu, own) if gpu else (), turns, devices)

    def _of_the_selection(self, turns: list[QueuePlace]) -> tuple[list[QueuePlace], int]:
        """The places in the queues of the devices that a launch can use, and how many runs can use them at a time."""
        from engine.hardware.devices import CPU, queue_of, slots_of

        assert self.sample is not None
        gpus = self.sample.gpus_of(self._device)
        names = {name for gpu in gpus for name in gpu.queues} or {CPU}
        slots = slots_of(self._device)
        return [turn for turn in turns if queue_of(turn.device) in names], max(1, len(gpus)) * slots

    def _own_processes(self) -> set[int]:
        return self._live_runs.own_processes(self._follower.process())
