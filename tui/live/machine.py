"""Samples of the machine: GPUs by NVML, system memory, processes, and the watched run's share."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import psutil
from msgspec import structs
from textual.message import Message

from engine.config.errors import UserError
from engine.config.text import without_credentials
from engine.hardware.devices import MIG, THE_CPU, SelectedDevice, select_devices
from engine.hardware.nvml import UNKNOWN_PROCESS, Nvml, NvmlGpu, gpu_label, pids_are_local
from engine.memory.formula.memory_budget import MemoryBudget, device_budget, slot_budget, smallest_gpu, system_memory


@dataclass(frozen=True)
class ProcessSample:
    """A process on a GPU, or a worker of ftbench; None for what is not known."""

    pid: int
    name: str
    bytes: int | None = None
    """GPU memory."""
    user: str = ""
    """Its owner, where it is visible from here."""
    load: int | None = None
    """Percent of the last sample periods in which its kernels ran on the GPU."""
    seconds: float | None = None
    """Since it started."""
    cpu: float | None = None
    """Percent of one core since the previous sample; None in the first sample of the process."""
    rss: int | None = None
    """Resident set."""
    command: str = ""
    """The run, for a worker of ftbench; else the command line of the process, or its name."""


@dataclass(frozen=True)
class GpuSample:
    """One GPU or MIG instance; None for values that it does not report."""

    index: int
    name: str
    total: int | None
    used: int | None
    mine: int | None
    """Bytes used by the watched run's process."""
    others: tuple[ProcessSample, ...] = ()
    power: float | None = None
    power_limit: float | None = None
    load: int | None = None
    temperature: int | None = None
    clock: int | None = None
    max_clock: int | None = None
    shared: bool = False
    """Whether the GPU shares the system's memory; the figures are then the system's."""
    uuid: str | None = None
    own: ProcessSample | None = None
    """The watched run's process."""
    instance: int | None = None
    """Number of a MIG instance on the GPU with this index; None for a whole GPU."""

    @property
    def label(self) -> str:
        """`1`; `1.0` for the first MIG instance of GPU 1."""
        return gpu_label(self.index, self.instance)

    @property
    def device(self) -> str | None:
        """The value of `hardware.device` that selects it: its index; for a MIG instance, its UUID."""
        return self.uuid if self.instance is not None or (self.uuid or "").startswith(MIG) else str(self.index)

    @property
    def queues(self) -> set[str]:
        """The names that its queue can have: of a run that knows its UUID, and of one that does not."""
        return {name for name in (self.uuid, self.device) if name}

    @property
    def processes(self) -> tuple[ProcessSample, ...]:
        """All processes, the watched run's first."""
        return (*([self.own] if self.own else []), *self.others)


@dataclass(frozen=True)
class MachineSample:
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
    """Index in `gpus` of the GPU that `hardware.device` auto selects; None where it selects the CPU."""
    workers: tuple[ProcessSample, ...] = ()
    """Workers of ftbench that use no GPU."""


class WatchedProcess(NamedTuple):
    """The watched run's process: its pid, its pid as NVML reports it, and bytes reserved by torch."""

    pid: int | None = None
    gpu_pid: int | None = None
    pool: int | None = None


class SampleRequest(NamedTuple):
    """What the bench wants to know of the machine."""

    watched: WatchedProcess = WatchedProcess()
    workers: Mapping[int, str] = {}
    """The run of each worker of ftbench by process id: a new run waits for them, so their memory will be free."""
    device: int | str = "auto"
    """`hardware.device` of the next run."""
    command_lines: bool = True
    """Whether to read the command lines of other processes than ftbench's workers; they may contain credentials."""


@dataclass(frozen=True)
class NextDevice:
    """The device of the next run, as `select_devices` finds it."""

    devices: Sequence[SelectedDevice]
    """Devices that the run can use, each slot as a device; it uses the first that is free."""
    budget: MemoryBudget
    """Memory of the device that has the least memory, without what runs of ftbench use."""
    label: str | None = None
    """Label of the GPU that has this memory; None for the CPU."""
    others: Sequence[ProcessSample] = ()
    """Processes on that GPU that are not of ftbench, so that a run does not wait for them."""


@dataclass
class MachineSampled(Message):
    sample: MachineSample
    next_device: NextDevice


class SamplerThread(threading.Thread):
    """Samples the machine once a second, also while no run is watched."""

    def __init__(self, post: Callable[[Message], object], request: Callable[[], SampleRequest]) -> None:
        super().__init__(daemon=True, name="machine")
        self.post, self.request = post, request
        self._leave = threading.Event()

    def leave(self) -> None:
        self._leave.set()

    def run(self) -> None:
        sampler = MachineSampler()
        while not self._leave.is_set():
            self.post(sampler.sample(self.request()))
            self._leave.wait(1.0)


class MachineSampler:
    """Takes samples; opens NVML once, and looks once for the devices of each `hardware.device`."""

    def __init__(self) -> None:
        self.nvml = Nvml()
        self.gpus = self.nvml.devices()
        self._processes: dict[int, psutil.Process] = {}
        self._selected: dict[int | str, tuple[list[SelectedDevice], int | None]] = {}
        self.visible: int | None = None
        """Position in `gpus` of the GPU that `auto` selects, which changes with the free memory."""
        psutil.cpu_percent(None)  # the first call has no interval to measure and returns 0

    def sample(self, request: SampleRequest) -> MachineSampled:
        """A sample, and the device of the next run with its memory."""
        _, self.visible = self._find("auto")
        devices, position = self._find(request.device)  # first: its GPU is then in the sample
        sample = self.look(request)
        return MachineSampled(sample, self._next_device(devices, position, sample, request))

    def look(self, request: SampleRequest) -> MachineSample:
        total, used = system_memory()
        why = "" if self.gpus else self.nvml.why or "no GPU found"
        watched, rss = request.watched, None
        if watched.pid is not None:
            with contextlib.suppress(psutil.Error):
                rss = psutil.Process(watched.pid).memory_info().rss
        gpus = tuple(self._sample(gpu, request, total, used) for gpu in self.gpus)
        on_gpus = {process.pid for gpu in gpus for process in gpu.processes}
        workers = [self._process(pid, request) for pid in request.workers if pid not in on_gpus]
        self._processes = {
            pid: process for pid, process in self._processes.items() if pid in on_gpus or pid in request.workers
        }
        return MachineSample(
            gpus=gpus,
            why=why,
            memory_total=total,
            memory_used=used,
            worker_rss=rss,
            worker_pool=watched.pool,
            load=psutil.cpu_percent(None),
            visible=self.visible,
            workers=tuple(worker for worker in workers if worker is not None),
        )

    def _next_device(
        self, devices: Sequence[SelectedDevice], position: int | None, sample: MachineSample, request: SampleRequest
    ) -> NextDevice:
        """The next run's device, with its memory less that of ftbench's runs, for which a new run waits.

        `position`: index of the GPU in `gpus`. Without a GPU, or if it no longer responds, the budget is the system's
        memory. Only the watched run's memory is excluded in a container, where the process ids of other runs are not
        those that the driver reports, and from system memory on a machine with a GPU, where other runs may wait for it.
        """
        if position is None or not sample.gpus[position].total:
            own = sample.worker_rss or 0
            if not sample.gpus:
                own = max(own, sum(worker.rss or 0 for worker in sample.workers))
            budget = device_budget(None, own, (sample.memory_total, sample.memory_used))
            name, label, others = "system memory", None, list[ProcessSample]()
        else:
            gpu = sample.gpus[position]
            ours = {request.watched.gpu_pid, *(request.workers if pids_are_local() else ())}
            own = sum(process.bytes or 0 for process in gpu.processes if process.pid in ours)
            if gpu.own or len(sample.gpus) == 1:  # else it is not known which one the watched run uses
                own = max(own, sample.worker_pool or 0)
            budget = device_budget(self.gpus[position], own)
            why = f" (auto: {'most free memory' if gpu.processes else 'free'})" if len(sample.gpus) > 1 else ""
            name, label = f"GPU {gpu.label}{why if request.device == 'auto' else ''}, {gpu.name}", gpu.label
            others = [process for process in gpu.processes if process.pid not in ours]
        named = structs.replace(budget, name=name, recorded_name=budget.name)
        return NextDevice(devices, slot_budget(named, devices[0].slots), label, others)

    def _find(self, device: int | str) -> tuple[list[SelectedDevice], int | None]:
        """The devices of `hardware.device`, and the position in `gpus` of the one that the next run is planned for.

        The CPU where there is no such device, which a launch reports.
        """
        if device not in self._selected or (device == "auto" and len(self.gpus) > 1):
            try:
                devices = select_devices(device, self.nvml)
            except UserError:
                devices = [THE_CPU]
            gpu = smallest_gpu(devices)
            self._selected[device] = devices, None if gpu is None else self._position(gpu)
        return self._selected[device]

    def _position(self, gpu: NvmlGpu) -> int:
        """Position of a GPU in `gpus`. A MIG instance of a GPU that NVML does not list is added."""
        uuid = gpu.uuid()
        for position, listed in enumerate(self.gpus):
            if listed.uuid() == uuid if uuid else (listed.index, listed.instance) == (gpu.index, gpu.instance):
                return position
        self.gpus.append(gpu)
        return len(self.gpus) - 1

    def _sample(self, gpu: NvmlGpu, request: SampleRequest, system_total: int, system_used: int) -> GpuSample:
        total, used = gpu.total(), gpu.used()
        shared = gpu.has_unified_memory()
        running = gpu.processes()
        loads = gpu.process_loads() if running else {}
        if gpu.instance is None and gpu.mig_mode():  # it has no instance, else these were listed: nothing can run on it
            return GpuSample(gpu.index, f"{gpu.name() or 'GPU'} in MIG mode without an instance", None, None, None)
        processes = [self._gpu_process(pid, used, loads.get(pid), request) for pid, used in running]
        own = next((process for process in processes if process.pid == request.watched.gpu_pid), None)
        return GpuSample(
            index=gpu.index,
            name=gpu.name() or ("unnamed GPU" if total is not None or shared else "GPU not responding"),
            total=system_total if shared else total,
            used=system_used if shared else used,
            mine=own.bytes if own else None,
            others=tuple(process for process in processes if process is not own),
            own=own,
            power=gpu.power(),
            power_limit=gpu.power_limit(),
            load=gpu.utilization(),
            temperature=gpu.temperature(),
            clock=gpu.clock(),
            max_clock=gpu.max_clock(),
            shared=shared,
            uuid=gpu.uuid(),
            instance=gpu.instance,
        )

    def _gpu_process(self, pid: int, used: int | None, load: int | None, request: SampleRequest) -> ProcessSample:
        """A process on a GPU, by the process id that the driver reports."""
        process = self._process(pid, request) if pids_are_local() else None
        return replace(process or ProcessSample(pid, UNKNOWN_PROCESS), bytes=used, load=load)

    def _process(self, pid: int, request: SampleRequest) -> ProcessSample | None:
        """A process with what the system knows of it; None where it is not visible from here."""
        try:
            process, is_new = self._processes.get(pid), False
            if process is None or not process.is_running():  # or another process has its id now
                process, is_new = psutil.Process(pid), True
                self._processes[pid] = process
            with process.oneshot():
                cpu = process.cpu_percent(None)  # the first call has no interval to measure and returns 0
                command = request.workers.get(pid, "")
                if request.command_lines and not command:
                    with contextlib.suppress(psutil.Error):  # a zombie has none
                        command = without_credentials(" ".join(process.cmdline()))
                return ProcessSample(
                    pid,
                    process.name(),
                    user=process.username(),
                    seconds=max(0.0, time.time() - process.create_time()),
                    cpu=None if is_new else cpu,
                    rss=process.memory_info().rss,
                    command=command or process.name(),
                )
        except psutil.Error:
            return None
