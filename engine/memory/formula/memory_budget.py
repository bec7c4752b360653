"""Where a run is to fit: a card from the list, this machine's card, or without one its memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import psutil
from msgspec import Struct, field

from engine.config import gpu_prices
from engine.hardware.cpu import has_bf16
from engine.hardware.nvml import Nvml, NvmlCard, process_name
from engine.memory.formula.allocator import CONTEXT
from engine.memory.formula.estimate import Device

CGROUP = Path("/sys/fs/cgroup")
PROCESS = 560 << 20
"""Bytes that a worker has resident before it loads a model: 530 to 550 MiB measured (`tests/bench/RESULTS.md`)."""


class MemoryBudget(Struct, frozen=True, kw_only=True):
    """A device's memory, and what is left of it."""

    name: str
    device: Device
    source: Literal["listed", "card", "shared", "system"]
    """From the list of cards; this machine's card; a card whose memory is the system's; the system's memory."""
    total: int
    """Bytes."""
    used: int = 0
    """Bytes that others hold now; 0 for a card that is not here."""
    holders: list[str] = field(default_factory=list)
    """Who computes on the card now: name and pid."""
    bf16: bool = True
    """Whether it multiplies bfloat16."""
    price_per_hour: float | None = None
    currency: str = "USD"
    note: str = ""

    @property
    def free(self) -> int:
        return max(0, self.total - self.used)

    @property
    def beside(self) -> int:
        """Bytes a run takes here that no estimate holds: the process itself. On a card an estimate's `pool` has it."""
        return PROCESS if self.device == "cpu" or self.source == "shared" else 0

    @property
    def guessed(self) -> int:
        """Bytes of what a run takes here that are a guess and were not predicted."""
        return self.beside or CONTEXT


def listed_budget(wanted: str) -> MemoryBudget:
    """A card that need not be here, by its name or a part of it. Raises UserError where none or several match."""
    card = gpu_prices.pick(wanted, gpu_prices.list_cards())
    return MemoryBudget(
        name=card.name,
        device="cuda",
        source="listed",
        total=card.bytes,
        price_per_hour=card.price_per_hour,
        currency=card.currency,
    )


def local_budget(nvml: Nvml | None = None) -> MemoryBudget:
    """This machine's card (the first that CUDA_VISIBLE_DEVICES leaves), else its memory."""
    nvml = nvml or Nvml()
    card = first_visible(nvml)
    return _card_room(card) if card else _system_room(nvml.why)


def first_visible(nvml: Nvml) -> NvmlCard | None:
    """The first card that CUDA_VISIBLE_DEVICES leaves. One that does not answer is passed over: torch could not use it
    either.
    """
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return next((card for card in nvml.cards() if card.handle is not None), None)
    first = wanted.split(",")[0].strip()
    if first.startswith(("GPU-", "MIG-")):
        return nvml.named(first)
    return nvml.card(int(first)) if first.isdigit() else None  # empty or -1 hides every card


def _card_room(card: NvmlCard) -> MemoryBudget:
    name = card.name() or "a card"
    total, used = card.total(), card.used()
    shared = card.shared()
    if total is None or used is None:
        total, used = system_memory()
    known = gpu_prices.named(name, gpu_prices.list_cards())
    return MemoryBudget(
        name=name,
        device="cuda",
        source="shared" if shared else "card",
        total=total,
        used=used,
        holders=[f"{process_name(pid)} ({pid})" for pid, _ in card.processes()],
        bf16=card.bf16(),
        price_per_hour=known.price_per_hour if known else None,
        currency=known.currency if known else "USD",
        note="the card has no memory of its own: the system's" if shared else "",
    )


def _system_room(why: str) -> MemoryBudget:
    total, used = system_memory()
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") is not None and not why
    return MemoryBudget(
        name=f"{os.cpu_count()} CPU cores",
        device="cpu",
        source="system",
        total=total,
        used=used,
        bf16=has_bf16(),
        note="CUDA_VISIBLE_DEVICES hides every card" if hidden else why or "no card found",
    )


def system_memory(cgroup: Path = CGROUP) -> tuple[int, int]:
    """(bytes there are, bytes that others use now). A container's limit counts where it is the lower one."""
    memory = psutil.virtual_memory()
    limit = _whole(cgroup / "memory.max")
    if limit is None or limit >= memory.total:
        return memory.total, memory.total - memory.available
    used = (_whole(cgroup / "memory.current") or 0) - _reclaimable(cgroup / "memory.stat")
    return limit, max(used, limit - memory.available, 0)


def _whole(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _reclaimable(file: Path) -> int:
    """Bytes of cached files, which give way."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
