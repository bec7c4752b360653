"""Sample memory, power, energy and load of the machine once a second in a thread; each field may be unavailable."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from engine.hardware.cpu import CpuCounters, read_counters
from engine.hardware.nvml import Nvml, NvmlGpu, pids_are_local, process_name
from engine.runs.run.events import Load, Memory
from engine.runs.run.result import TrainingLoad


@dataclass
class LoadRecorder:
    """`begin`, then `sample` about once a second, then `end`."""

    gpu: NvmlGpu | None
    _start: CpuCounters | None = None
    _processes: dict[int, str] = field(default_factory=dict)
    _throttled: dict[str, None] = field(default_factory=dict)
    _clocks: list[int] = field(default_factory=list)

    def begin(self) -> None:
        self._start = read_counters()

    def sample(self, own_pid: int | None) -> None:
        """Look at the GPU; `own_pid`: the driver's id of this process; None if unknown, and then other
        processes are not recorded."""
        if self.gpu is None or self._start is None:
            return
        if own_pid is not None:
            for pid, _ in self.gpu.processes():
                if pid != own_pid and pid not in self._processes:
                    self._processes[pid] = process_name(pid)
        if (clock := self.gpu.clock()) is not None:
            self._clocks.append(clock)
        self._throttled.update(dict.fromkeys(self.gpu.throttled()))

    def end(self) -> TrainingLoad | None:
        """The load since `begin`; None without it."""
        start, self._start = self._start, None
        if start is None:
            return None
        now = read_counters()
        own, busy = now.own - start.own, _difference(start.busy, now.busy)
        return TrainingLoad(
            seconds=round(now.wall - start.wall, 3),
            cpus=now.cpus,
            cpu_seconds=round(own, 3),
            # At least 0: the counters tick in hundredths of a second, each at another moment.
            other_cpu_seconds=None if busy is None else round(max(0.0, busy - own), 3),
            pressure_seconds=_difference(start.pressure, now.pressure),
            gpu_processes=list(self._processes.values()),
            clock=round(sum(self._clocks) / len(self._clocks), 1) if self._clocks else None,
            max_clock=self.gpu.max_clock() if self.gpu else None,
            throttled=list(self._throttled),
        )


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else round(after - before, 3)


def training_gpu() -> NvmlGpu | None:
    """The NVML handle of the GPU that torch trains on, None if NVML is unavailable."""
    uuid = getattr(torch.cuda.get_device_properties(0), "uuid", None) if torch.cuda.is_available() else None
    return Nvml().of_torch(str(uuid)) if uuid else Nvml().gpu()


@dataclass
class Meters:
    """Writes memory samples as events, from which `engine.runs.run.result_builder` computes the peaks of a run."""

    write: Callable[[Memory | Load], object]
    gpu: NvmlGpu | None
    others: Sequence[NvmlGpu] = ()
    """The GPUs of the run's other ranks, whose power and energy are added."""
    seconds: float = 1.0
    slots: int = 1
    """How many runs share the device: each has this part of its memory."""
    before_model: int = 0
    """Resident set in bytes before the model was loaded."""
    gpu_pid: int | None = None
    """Process id of this worker as the GPU driver reports it. In a container: the id that appears on first use."""
    _earlier: set[int] = field(default_factory=set)
    """Processes that used the GPU before this one."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _training: bool = False
    _load: LoadRecorder = field(init=False)

    def __post_init__(self) -> None:
        self._load = LoadRecorder(self.gpu)
        if pids_are_local():
            self.gpu_pid = os.getpid()
        elif self.gpu:
            self._earlier = {pid for pid, _ in self.gpu.processes()}

    def start(self) -> None:
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()

    def model_begins(self) -> None:
        self.before_model = resident()

    def memory_in_use(self) -> int:
        """Current memory use, as the planner predicts it: reserved memory on a GPU; on a CPU the resident set minus its
        size before the model was loaded.
        """
        return torch.cuda.memory_reserved() if uses_gpu() else resident() - self.before_model

    def peak_of(self, work: Callable[[], Any]) -> int:
        """Peak memory use while `work` runs, defined like `memory_in_use`."""
        self._restart()
        work()
        return torch.cuda.max_memory_reserved() if uses_gpu() else resident_peak() - self.before_model

    def training_begins(self) -> None:
        """Reset the peaks at the start of training; the resident peak only if the kernel allows it."""
        self._restart()
        self._training = True
        self._load.begin()

    def _restart(self) -> None:
        """Reset the peak counters after writing a sample with their values."""
        self.sample()
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        if uses_gpu():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def training_ends(self, paged: int | None = None) -> None:
        """End training; `paged`: bytes of paged optimizer state."""
        if self._training:
            self.sample(paged)
        self._training = False
        if load := self._load.end():
            self.write(Load(training=load))

    def sample(self, paged: int | None = None) -> Memory:
        """Take one measurement and write it as an event."""
        cuda, gpu = uses_gpu(), self.gpu
        if self.gpu_pid is None and gpu and cuda and torch.cuda.memory_reserved():
            self._find_gpu_pid(gpu)
        memory = Memory(
            rss=resident(),
            rss_peak=resident_peak(),
            allocated=torch.cuda.memory_allocated() if cuda else None,
            reserved=torch.cuda.memory_reserved() if cuda else None,
            nvml_used=gpu.used() if gpu else None,
            power=self._total(lambda meter: meter.power()),
            energy=self._total(lambda meter: meter.energy()),
            load=gpu.utilization() if gpu else None,
            temperature=gpu.temperature() if gpu else None,
            gpu_pid=self.gpu_pid if gpu else None,
            allocated_peak=torch.cuda.max_memory_allocated() if cuda else None,
            reserved_peak=torch.cuda.max_memory_reserved() if cuda else None,
            paged=paged,
            training=self._training,
        )
        if self._training:
            self._load.sample(self.gpu_pid)
        self.write(memory)
        return memory

    def _total(self, of: Callable[[NvmlGpu], float | None]) -> float | None:
        """The sum over the GPUs of the run; None unless all report it."""
        values = [of(gpu) for gpu in ((self.gpu, *self.others) if self.gpu else ())]
        known = [value for value in values if value is not None]
        return sum(known) if values and len(known) == len(values) else None

    def _find_gpu_pid(self, gpu: NvmlGpu) -> None:
        """Use the process that newly appeared on the GPU; unknown if several did."""
        new = {pid for pid, _ in gpu.processes()} - self._earlier
        if len(new) == 1:
            self.gpu_pid = new.pop()

    def _loop(self) -> None:
        while not self._stop.wait(self.seconds):
            try:
                self.sample()
            except OSError:
                return  # the disk is full: the main thread fails as well and reports it


def uses_gpu() -> bool:
    """Whether torch uses a GPU in this process."""
    return torch.cuda.is_available() and torch.cuda.is_initialized()


def resident() -> int:
    """Resident set in bytes."""
    rss: int = psutil.Process().memory_info().rss
    return rss


def resident_peak() -> int:
    """Peak resident set in bytes since the start or the last reset."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
