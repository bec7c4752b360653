"""What runs on this machine: live and waiting runs, the watched one, and what is free for the next one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.message import Message

from engine.hardware.cpu import usable_cpus
from tui.screens.base import BaseScreen
from tui.widgets.selection_pane import SelectionPane

if TYPE_CHECKING:  # imported where they are used: the first frame shows neither a run nor a sample
    from engine.config.schema import Config
    from engine.memory.formula.memory_budget import MemoryBudget
    from engine.runs.ladder.ladder_state import Ladder
    from engine.runs.queue.device_queue import QueuePlace
    from engine.runs.run.run_dir import RunDir
    from tui.live.machine import GpuSample, MachineSample, MachineSampled, NextDevice, SampleRequest, WatchedProcess
    from tui.live.run_state import ExpectedPeak, RunState
    from tui.live.watcher import Watcher
    from tui.preview.launch_context import LaunchContext

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
        from engine.runs.run.folder import sort_by_start
        from engine.runs.run.run_dir import RunDir

        self.turns = self._screen.queue()
        queued = {turn.run for turn in self.turns}
        runs = self._screen.read_all(RunDir.iterate(self._folder))
        unqueued = (run for run in runs if run.path not in queued and run.is_active())
        self.unqueued = sort_by_start(unqueued)

    def has_changed(self) -> bool:
        """Whether a `refresh` may find something else."""
        with contextlib.suppress(OSError):  # a run started with --now is in no queue
            if time.time() - self._folder.stat().st_mtime < NEW_SECONDS:
                return True
        return self._screen.queue() != self.turns or not all(run.is_active() for run in self.unqueued)

    def live(self) -> list[RunDir]:
        """Live runs of this folder: those that use a device, then those that wait, then those outside the queue."""
        if not self.turns:  # before the first frame, which must not wait for the import
            return list(self.unqueued)
        from engine.runs.run.run_dir import RunDir

        ours = (turn for turn in self.turns if turn.run.parent == self._folder)
        return [*(RunDir(turn.run) for turn in sorted(ours, key=lambda turn: turn.place)), *self.unqueued]


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
        return self._watcher.watched if self._watcher else None

    def watch(self, run: RunDir) -> None:
        """Follow this run from its first event."""
        from tui.live.watcher import Watcher

        self.leave()
        self.state, self.live, self.last_output, self.deleted = None, None, None, False
        self.config, self.ladder = None, None
        self._watcher = Watcher(run, self._post)
        self._watcher.start()

    def leave(self) -> None:
        if self._watcher:
            self._watcher.leave()

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


class MachineContext:
    """The latest sample of the machine; memory budget, GPU and expected peak of a run of the selection."""

    def __init__(self, screen: BaseScreen[Any], runs: Path, follower: RunFollower, live_runs: LiveRuns) -> None:
        self._screen, self._runs, self._follower, self._live_runs = screen, runs, follower, live_runs
        self.sample: MachineSample | None = None
        self.next_device: NextDevice | None = None
        """What a run of the selection uses; None until there is a sample."""
        self.device: int | str = "auto"
        """`hardware.device` of the selection."""
        self._predicted: tuple[object, ExpectedPeak | None] = None, None
        """The last question to the memory formula, and its answer."""

    def request(self) -> SampleRequest:
        """What the next sample is to answer; called from the sampler's thread."""
        from tui.live.machine import SampleRequest

        workers = {turn.pid: turn.run.name for turn in self._live_runs.turns}
        return SampleRequest(self._follower.process(), workers, self.device)

    def take(self, sampled: MachineSampled) -> MemoryBudget:
        """Take a new sample; returns the memory budget, rounded so that it does not change with every sample."""
        from tui.preview.method_estimate import steady

        self.sample, self.next_device = sampled.sample, sampled.next_device
        return steady(sampled.next_device.budget)

    @property
    def next_gpu(self) -> str | None:
        """Label of the GPU that a run of the selection is planned for."""
        return self.next_device.label if self.next_device else None

    def uses_cpu(self) -> bool:
        """Whether the watched run uses the CPU, or if it is not running a run of the selection."""
        state, config = self._follower.state, self._follower.config
        if self._follower.live and state is not None:
            named = str(config.hardware.device) if config is not None else ""
            return not state.on_gpu if state.has_model else named.startswith("cpu")
        return self.next_device is not None and self.next_device.label is None

    @property
    def selected_device(self) -> str:
        """The value of `hardware.device` that selects the GPU which a run of the selection is planned for."""
        gpus = self.sample.gpus if self.sample else ()
        return next((gpu.device or "" for gpu in gpus if gpu.label == self.next_gpu), "")

    def gpu_budgets(self) -> dict[str, MemoryBudget]:
        """The memory of each GPU as it is used now, by the value of `hardware.device` that selects it."""
        from engine.memory.formula.memory_budget import MemoryBudget

        gpus = [gpu for gpu in (self.sample.gpus if self.sample else ()) if gpu.device and gpu.total and not gpu.shared]
        return {
            gpu.device or "": MemoryBudget(
                name=f"GPU {gpu.label}", device="cuda", source="gpu", total=gpu.total or 0, used=gpu.used or 0
            )
            for gpu in gpus
        }

    def fitting_devices(self, config: Config, longest: Callable[[Config], int | None]) -> list[str]:
        """The GPUs on which a run of this configuration fits now, as values of `hardware.device`."""
        from engine.config.model_files import find_model
        from tui.preview.method_estimate import fitting_budgets

        budgets = self.gpu_budgets()
        if len(budgets) < 2:
            return []
        return list(fitting_budgets(config, find_model(config.model), budgets, longest(config)))

    def devices(self) -> dict[str, GpuSample | None]:
        """The values of `hardware.device` that exist here, each with its GPU, if it is a single one: auto, each GPU and
        MIG instance, all of several, cpu, and halves of it for the runs of a ladder.
        """
        sample = self.sample
        auto = sample.gpus[sample.visible] if sample and sample.gpus and sample.visible is not None else None
        devices: dict[str, GpuSample | None] = {"auto": auto}
        devices |= {gpu.device: gpu for gpu in (sample.gpus if sample else ()) if gpu.device}
        others = ["all"] if len(devices) > 2 else []
        others += ["cpu", *(["cpu:2"] if len(usable_cpus()) > 1 else [])]
        return devices | dict.fromkeys(others)

    def expected_peak(self, selection_pane: SelectionPane) -> ExpectedPeak | None:
        """Peak memory of the watched run while it is running, else of the selection.

        A run's own prediction, and then its memory probe, replace the formula's as soon as its log has them.
        """
        run, state = self._follower.run if self._follower.live else None, self._follower.state
        measured = state.expected_peak() if run and state is not None else None
        longest = selection_pane.longest(selection_pane.effective.config) if selection_pane.effective else None
        question = (run, selection_pane.effective, selection_pane.budget, longest)
        if question != self._predicted[0]:  # by the formula, with its parts
            from tui.preview.method_estimate import predicted_peak

            self._predicted = question, predicted_peak(*question[:3], selection_pane.longest)
        predicted = self._predicted[1]
        if measured is None:
            return predicted
        return measured._replace(parts=predicted.parts) if predicted else measured

    def launch_context(self) -> LaunchContext:
        """The machine as of the latest sample, and the device queue."""
        from engine.hardware.devices import queue_of
        from tui.preview.launch_context import LaunchContext

        device = self.next_device
        if device is None:
            return LaunchContext(self._runs)
        queues = {possible.queue for possible in device.devices}
        turns = [turn for turn in self._screen.queue() if queue_of(turn.device) in queues]
        others = [budget for name, budget in self.gpu_budgets().items() if name != self.selected_device]
        return LaunchContext(self._runs, device.budget, device.others, turns, len(device.devices), others)
