"""What the machine does right now: its cards by NVML, its memory, and what the watched run holds of them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from textual.message import Message

if TYPE_CHECKING:
    from engine.hardware.nvml import NvmlCard


@dataclass(frozen=True)
class OtherProcess:
    """Somebody else's process on a card."""

    pid: int
    name: str
    bytes: int | None


@dataclass(frozen=True)
class CardSample:
    """One card; None is what it cannot say."""

    index: int
    name: str
    total: int | None
    used: int | None
    mine: int | None
    """Bytes of the watched run's process."""
    others: tuple[OtherProcess, ...] = ()
    power: float | None = None
    load: int | None = None
    temperature: int | None = None
    shared: bool = False
    """The card has no memory of its own: the figures are the system's."""
    bf16: bool = True
    """Whether it multiplies bfloat16."""


@dataclass(frozen=True)
class MachineSample:
    """One look."""

    cards: tuple[CardSample, ...]
    why: str
    """Why there are no cards to see, '' where there are."""
    memory_total: int
    memory_used: int
    worker_rss: int | None = None
    """Resident set of the watched run's process."""
    worker_pool: int | None = None
    """Bytes of torch's pool on the card, as the run says: less than its process holds there."""
    load: float = 0.0
    """Percent of all cores."""


class WatchedProcess(NamedTuple):
    """The watched run's process: its id here and as the driver counts, and bytes of torch's pool as it last said."""

    pid: int | None = None
    gpu_pid: int | None = None
    pool: int | None = None


@dataclass
class Sampled(Message):
    sample: MachineSample


class Sampler(threading.Thread):
    """Looks once a second, with no run at all as well."""

    def __init__(
        self, post: Callable[[Message], object], worker: Callable[[], WatchedProcess], seconds: float = 1.0
    ) -> None:
        super().__init__(daemon=True, name="machine")
        self.post, self.worker, self.seconds = post, worker, seconds
        self._leave = threading.Event()

    def leave(self) -> None:
        self._leave.set()

    def run(self) -> None:
        eyes = MachineSampler()
        while not self._leave.is_set():
            self.post(Sampled(eyes.look(self.worker())))
            self._leave.wait(self.seconds)


class MachineSampler:
    """NVML and psutil, opened once."""

    def __init__(self) -> None:
        import psutil  # here, in the sampler's thread: the first picture does not wait for it

        from engine.hardware.nvml import Nvml

        self.psutil, self.nvml = psutil, Nvml()
        self.cards = self.nvml.cards()
        self.psutil.cpu_percent(None)  # the first answer compares with nothing

    def look(self, worker: WatchedProcess) -> MachineSample:
        """One look."""
        memory = self.psutil.virtual_memory()
        why = "" if self.cards else self.nvml.why or "no card found"
        rss = None
        if worker.pid is not None:
            with contextlib.suppress(self.psutil.Error):
                rss = self.psutil.Process(worker.pid).memory_info().rss
        cards = tuple(self._card(card, worker, memory.total, memory.used) for card in self.cards)
        return MachineSample(cards, why, memory.total, memory.used, rss, worker.pool, self.psutil.cpu_percent(None))

    def _card(self, card: NvmlCard, worker: WatchedProcess, system_total: int, system_used: int) -> CardSample:
        from engine.hardware.nvml import process_name

        total, used = card.total(), card.used()
        shared = card.shared()
        running = card.processes()
        mine = next((held for pid, held in running if pid == worker.gpu_pid), None)
        others = tuple(OtherProcess(pid, process_name(pid), held) for pid, held in running if pid != worker.gpu_pid)
        return CardSample(
            index=card.index,
            name=card.name() or ("a card" if total is not None or shared else "a card that does not answer"),
            total=system_total if shared else total,
            used=system_used if shared else used,
            mine=mine,
            others=others,
            power=card.power(),
            load=card.load(),
            temperature=card.temperature(),
            shared=shared,
            bf16=card.bf16(),
        )
