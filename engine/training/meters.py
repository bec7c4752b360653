"""Memory, power and energy of this worker, sampled once a second from a thread; every field degrades by itself."""

from __future__ import annotations

import contextlib
import resource
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from engine.contract.events import Memory
from engine.contract.result import Peak


class Card:
    """NVML's figures of one card. Every question is asked by itself: what a card cannot say is None."""

    def __init__(self, index: int = 0) -> None:
        self.nvml: Any = None
        self.handle: Any = None
        try:
            import pynvml

            pynvml.nvmlInit()
            self.nvml = pynvml
            self.handle = self._handle(index)
        except (ImportError, OSError) as error:
            self.why = str(error)
        except Exception as error:
            if type(error).__module__ != "pynvml":
                raise
            self.why = str(error)
        self.energy_at_start = self._ask("nvmlDeviceGetTotalEnergyConsumption")

    def _handle(self, index: int) -> Any:
        """By UUID where torch gives one: CUDA's numbering need not be NVML's."""
        uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None) if torch.cuda.is_available() else None
        if uuid:
            return self.nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        return self.nvml.nvmlDeviceGetHandleByIndex(index)

    def _ask(self, question: str, *arguments: Any) -> Any:
        if self.handle is None:
            return None
        try:
            return getattr(self.nvml, question)(self.handle, *arguments)
        except self.nvml.NVMLError:
            return None

    def used(self) -> int | None:
        """Bytes used on the card by everybody."""
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        return memory.used if memory else None

    def power(self) -> float | None:
        """Watts."""
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        return milliwatts / 1000 if milliwatts is not None else None

    def energy(self) -> float | None:
        """Joules since this object was made."""
        now = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return (now - self.energy_at_start) / 1000 if now is not None and self.energy_at_start is not None else None

    def load(self) -> int | None:
        """Percent."""
        rates = self._ask("nvmlDeviceGetUtilizationRates")
        return rates.gpu if rates else None

    def temperature(self) -> int | None:
        """Degrees Celsius."""
        return self._ask("nvmlDeviceGetTemperature", 0)

    def others(self, own: int) -> list[tuple[int, str, int | None]]:
        """(pid, name, bytes) of other processes computing on the card."""
        found = []
        for process in self._ask("nvmlDeviceGetComputeRunningProcesses") or []:
            if process.pid != own:
                name = "a process of another user or container"
                with contextlib.suppress(psutil.Error):
                    name = psutil.Process(process.pid).name()
                found.append((process.pid, name, process.usedGpuMemory))
        return found


@dataclass
class Meters:
    """Samples into events and remembers peaks."""

    write: Callable[[Memory], object]
    card: Card | None
    seconds: float = 1.0
    peak: Peak = field(default_factory=Peak)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _training: bool = False

    def start(self) -> None:
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()

    def training_begins(self) -> None:
        """From here peaks are training's: the resident peak is reset where the kernel allows it."""
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self.peak.rss = max(self.peak.rss or 0, resident_peak())
        self.peak.rss_training = 0
        self._training = True
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def training_ends(self) -> None:
        self.sample()
        self._training = False

    def sample(self) -> Memory:
        """One measurement, written as an event and folded into the peaks."""
        cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        card = self.card
        memory = Memory(
            rss=psutil.Process().memory_info().rss,
            rss_peak=resident_peak(),
            allocated=torch.cuda.memory_allocated() if cuda else None,
            reserved=torch.cuda.memory_reserved() if cuda else None,
            nvml_used=card.used() if card else None,
            power=card.power() if card else None,
            energy=card.energy() if card else None,
            load=card.load() if card else None,
            temperature=card.temperature() if card else None,
        )
        peak = self.peak
        peak.rss = max(peak.rss or 0, memory.rss_peak)
        if self._training:
            peak.rss_training = max(peak.rss_training or 0, memory.rss_peak)
        if cuda and self._training:
            peak.allocated_training = max(peak.allocated_training or 0, torch.cuda.max_memory_allocated())
            peak.reserved_training = max(peak.reserved_training or 0, torch.cuda.max_memory_reserved())
        if cuda:
            peak.allocated = max(peak.allocated or 0, torch.cuda.max_memory_allocated())
            peak.reserved = max(peak.reserved or 0, torch.cuda.max_memory_reserved())
        if memory.nvml_used is not None:
            peak.nvml_used = max(peak.nvml_used or 0, memory.nvml_used)
        self.write(memory)
        return memory

    def _loop(self) -> None:
        while not self._stop.wait(self.seconds):
            try:
                self.sample()
            except OSError:
                return  # the disk is full: the main thread will meet it too, and says so


def resident_peak() -> int:
    """Highest resident set since the start or the last reset, bytes."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
