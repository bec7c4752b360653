"""Memory, power and energy of this worker, sampled once a second from a thread; every field degrades by itself."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from engine.hardware.nvml import Nvml, NvmlCard, ids_are_ours
from engine.runs.events import Memory


def training_card() -> NvmlCard | None:
    """NVML's view of the card that torch trains on, None where NVML cannot be asked."""
    uuid = getattr(torch.cuda.get_device_properties(0), "uuid", None) if torch.cuda.is_available() else None
    return Nvml().of_torch(str(uuid)) if uuid else Nvml().card()


@dataclass
class Meters:
    """Writes samples as events; the peaks of a run are found from them (`contract.memory_peaks`)."""

    write: Callable[[Memory], object]
    card: NvmlCard | None
    seconds: float = 1.0
    before_model: int = 0
    """Resident bytes before the model was loaded."""
    gpu_pid: int | None = None
    """This process as the card's driver counts. In a container it is told by what is new once torch has the card."""
    _earlier: set[int] = field(default_factory=set)
    """Who was on the card before us."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _training: bool = False

    def __post_init__(self) -> None:
        if ids_are_ours():
            self.gpu_pid = os.getpid()
        elif self.card:
            self._earlier = {pid for pid, _ in self.card.processes()}

    def start(self) -> None:
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()

    def model_begins(self) -> None:
        """The model is loaded next."""
        self.before_model = resident()

    def held(self) -> int:
        """What this run holds now, in the planner's meaning: torch's pool on a card, without one the resident set less
        what it was before the model.
        """
        return torch.cuda.memory_reserved() if on_card() else resident() - self.before_model

    def peak_of(self, work: Callable[[], Any]) -> int:
        """The most that was held, in the same meaning, while `work` ran."""
        self._restart()
        work()
        return torch.cuda.max_memory_reserved() if on_card() else resident_peak() - self.before_model

    def training_begins(self) -> None:
        """From here peaks are training's: the resident peak is reset where the kernel allows it."""
        self._restart()
        self._training = True

    def _restart(self) -> None:
        """Reset the peak counters; a sample keeps what they held."""
        self.sample()
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        if on_card():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def training_ends(self, paged: int | None = None) -> None:
        """`paged`: bytes of optimizer state that GPU and host share."""
        if self._training:
            self.sample(paged)
        self._training = False

    def sample(self, paged: int | None = None) -> Memory:
        """Take one measurement and write it as an event."""
        cuda, card = on_card(), self.card
        if self.gpu_pid is None and card and cuda and torch.cuda.memory_reserved():
            self._find_gpu_pid(card)
        memory = Memory(
            rss=resident(),
            rss_peak=resident_peak(),
            allocated=torch.cuda.memory_allocated() if cuda else None,
            reserved=torch.cuda.memory_reserved() if cuda else None,
            nvml_used=card.used() if card else None,
            power=card.power() if card else None,
            energy=card.energy() if card else None,
            load=card.load() if card else None,
            temperature=card.temperature() if card else None,
            gpu_pid=self.gpu_pid if card else None,
            allocated_peak=torch.cuda.max_memory_allocated() if cuda else None,
            reserved_peak=torch.cuda.max_memory_reserved() if cuda else None,
            paged=paged,
            training=self._training,
        )
        self.write(memory)
        return memory

    def _find_gpu_pid(self, card: NvmlCard) -> None:
        """The one that has come; of several nobody can say which is this process."""
        come = {pid for pid, _ in card.processes()} - self._earlier
        if len(come) == 1:
            self.gpu_pid = come.pop()

    def _loop(self) -> None:
        while not self._stop.wait(self.seconds):
            try:
                self.sample()
            except OSError:
                return  # the disk is full: the main thread will meet it too, and says so


def on_card() -> bool:
    """Whether torch's pool is in use."""
    return torch.cuda.is_available() and torch.cuda.is_initialized()


def resident() -> int:
    """The resident set, bytes."""
    found: int = psutil.Process().memory_info().rss
    return found


def resident_peak() -> int:
    """Highest resident set since the start or the last reset, bytes."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
