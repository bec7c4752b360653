"""Memory, power and energy of this worker, sampled once a second from a thread; every field degrades by itself."""

from __future__ import annotations

import contextlib
import resource
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from engine.contract.events import Memory
from engine.contract.nvml import Nvml, NvmlCard
from engine.contract.result import Peak


def training_card() -> NvmlCard | None:
    """NVML's view of the card that torch trains on, None where NVML cannot be asked."""
    uuid = getattr(torch.cuda.get_device_properties(0), "uuid", None) if torch.cuda.is_available() else None
    return Nvml().card(0, str(uuid) if uuid else "")


@dataclass
class Meters:
    """Samples into events and remembers peaks."""

    write: Callable[[Memory], object]
    card: NvmlCard | None
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
