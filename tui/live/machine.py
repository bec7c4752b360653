"""Samples of the machine: GPUs by NVML, system memory, and the watched run's share of both."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from textual.message import Message

from engine.config.errors import UserError

if TYPE_CHECKING:  # for annotations only: the first paint does not wait for NVML
    from engine.hardware.nvml import NvmlGpu


@dataclass(frozen=True)
class OtherProcess:
    """A process on a GPU other than the watched run's."""

    pid: int
    name: str
    bytes: int | None


@dataclass(frozen=True)
class GpuSample:
    """One GPU; None for values that it does not report."""

    index: int
    name: str
    total: int | None
    used: int | None
    mine: int | None
    """Bytes used by the watched run's process."""
    others: tuple[OtherProcess, ...] = ()
    power: float | None = None
    load: int | None = None
    temperature: int | None = None
    shared: bool = False
    """Whether the GPU shares the system's memory; the figures are then the system's."""
    bf16: bool = True
    """Whether it supports bf16 natively."""
    uuid: str | None = None


@dataclass(frozen=True)
class MachineSample:
    """One sample of the machine."""

    gpus: tuple[GpuSample, ...]
    why: str
    """Why no GPU is visible, '' where one is."""
    memory_total: int
    memory_used: int
    worker_rss: int | None = None
    """Resident set of the watched run's process."""
    worker_pool: int | None = None
    """Bytes reserved by torch on the GPU, as the run reports: less than its process uses there."""
    load: float = 0.0
    """CPU utilization in percent of all cores."""
    visible: int | None = 0
    """Index in `gpus` of the GPU that a run started now uses; None where it would use the CPU."""

    @property
    def run_gpu(self) -> GpuSample | None:
        """The GPU that a run started now uses."""
        return self.gpus[self.visible] if self.visible is not None and self.gpus else None

    def gpu_of(self, device: int | str) -> GpuSample | None:
        """The GPU that a run with this `hardware.device` is planned for: of several the one with the least memory.

        None for the CPU and for an unknown GPU.
        """
        return min(self.gpus_of(device), key=lambda gpu: gpu.total or 0, default=None)

    def gpus_of(self, device: int | str) -> list[GpuSample]:
        """The GPUs that a run with this `hardware.device` can use."""
        names = str(device).partition(":")[0].split(",")
        if names == ["auto"]:
            return [self.run_gpu] if self.run_gpu else []
        if names == ["all"]:
            return list(self.gpus) if self.run_gpu else []
        found = (next((g for g in self.gpus if name == str(g.index) or _is_named(g, name)), None) for name in names)
        return [gpu for gpu in found if gpu is not None]  # first: a MIG instance can have a GPU's index


def _is_named(gpu: GpuSample, name: str) -> bool:
    return name.startswith(("GPU-", "MIG-")) and (gpu.uuid or "").startswith(name)


class WatchedProcess(NamedTuple):
    """The watched run's process: its pid, its pid as NVML reports it, and bytes reserved by torch."""

    pid: int | None = None
    gpu_pid: int | None = None
    pool: int | None = None


@dataclass
class MachineSampled(Message):
    sample: MachineSample


class SamplerThread(threading.Thread):
    """Samples the machine once a second, also while no run is watched."""

    def __init__(
        self, post: Callable[[Message], object], worker: Callable[[], WatchedProcess], seconds: float = 1.0
    ) -> None:
        super().__init__(daemon=True, name="machine")
        self.post, self.worker, self.seconds = post, worker, seconds
        self._leave = threading.Event()

    def leave(self) -> None:
        self._leave.set()

    def run(self) -> None:
        sampler = MachineSampler()
        while not self._leave.is_set():
            self.post(MachineSampled(sampler.look(self.worker())))
            self._leave.wait(self.seconds)


class MachineSampler:
    """Takes samples; opens NVML and psutil once."""

    def __init__(self) -> None:
        import psutil  # imported in the sampler's thread, so that the first paint does not wait for it

        from engine.hardware.nvml import Nvml  # for the same reason

        self.psutil, self.nvml = psutil, Nvml()
        self.gpus = self.nvml.gpus()
        self.visible = self._visible()
        self.psutil.cpu_percent(None)  # the first call has no interval to measure and returns 0

    def look(self, worker: WatchedProcess) -> MachineSample:
        """Take a sample."""
        memory = self.psutil.virtual_memory()
        why = "" if self.gpus else self.nvml.why or "no GPU found"
        rss = None
        if worker.pid is not None:
            with contextlib.suppress(self.psutil.Error):
                rss = self.psutil.Process(worker.pid).memory_info().rss
        gpus = tuple(self._sample(gpu, worker, memory.total, memory.used) for gpu in self.gpus)
        load = self.psutil.cpu_percent(None)
        return MachineSample(gpus, why, memory.total, memory.used, rss, worker.pool, load, self.visible)

    def _visible(self) -> int | None:
        """The position of the GPU that a run uses; a MIG instance is added, because NVML does not list it."""
        from engine.hardware.devices import select_device  # in the sampler's thread, as above

        try:
            gpu = select_device(nvml=self.nvml).gpu
        except UserError:  # a launch reports it
            return None
        if gpu is None:
            return None
        uuid = gpu.uuid()
        for position, one in enumerate(self.gpus):
            if one.uuid() == uuid if uuid else one.index == gpu.index:
                return position
        gpu.index = len(self.gpus)
        self.gpus.append(gpu)
        return gpu.index

    def _sample(self, gpu: NvmlGpu, worker: WatchedProcess, system_total: int, system_used: int) -> GpuSample:
        from engine.hardware.nvml import process_name  # imported by then, in `__init__`

        total, used = gpu.total(), gpu.used()
        shared = gpu.has_unified_memory()
        running = gpu.processes()
        mine = next((used for pid, used in running if pid == worker.gpu_pid), None)
        others = tuple(OtherProcess(pid, process_name(pid), used) for pid, used in running if pid != worker.gpu_pid)
        return GpuSample(
            index=gpu.index,
            name=gpu.name() or ("unnamed GPU" if total is not None or shared else "GPU not responding"),
            total=system_total if shared else total,
            used=system_used if shared else used,
            mine=mine,
            others=others,
            power=gpu.power(),
            load=gpu.utilization(),
            temperature=gpu.temperature(),
            shared=shared,
            bf16=gpu.bf16(),
            uuid=gpu.uuid(),
        )
