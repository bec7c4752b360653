"""Memory in which a run should fit: a GPU of the price list, this machine's GPU, or its system memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import psutil
from msgspec import Struct, field
from msgspec.structs import replace

from engine.config import gpu_prices
from engine.hardware.cpu import has_bf16
from engine.hardware.devices import CPU, SelectedDevice, select_devices
from engine.hardware.nvml import Nvml, NvmlGpu, process_name
from engine.memory.formula.estimate import CONTEXT, WORKSPACES, Device

CGROUP = Path("/sys/fs/cgroup")
PROCESS = 560 << 20
"""Resident bytes of a worker before it loads a model: 530 to 550 MiB measured (`tools/RESULTS.md`)."""


class MemoryBudget(Struct, frozen=True, kw_only=True):
    """Total and used memory of a device."""

    name: str
    """GPU or CPU."""
    recorded_name: str = ""
    """The device's name in results of runs; '' if it is `name`."""
    device: Device
    """Kind of device."""
    source: Literal["listed", "gpu", "shared", "system"]
    """`listed`: a GPU of the price list; `gpu`: this machine's GPU; `shared`: a GPU that uses system memory; `system`:
    system memory.
    """
    total: int
    """Bytes."""
    used: int = 0
    """Bytes used by others now; 0 for a listed GPU."""
    holders: list[str] = field(default_factory=list)
    """Name and pid of the processes that use the GPU now."""
    bf16: bool = True
    """Whether it supports bf16 arithmetic."""
    price_per_hour: float | None = None
    """From the price list; None if unknown."""
    currency: str = "USD"
    """ISO 4217 code."""
    note: str = ""
    """Why it is not a GPU."""

    @property
    def free(self) -> int:
        return max(0, self.total - self.used)

    @property
    def process_overhead(self) -> int:
        """Bytes of the process itself, which estimates do not include; on a GPU it is part of an estimate's `pool`."""
        return PROCESS if self.device == "cpu" or self.source == "shared" else 0

    @property
    def guessed(self) -> int:
        """Bytes that are guessed instead of predicted: process, or CUDA context and cuBLAS workspaces."""
        return self.process_overhead or CONTEXT + WORKSPACES

    def has_room_for(self, peak: int) -> bool:
        """Whether a process with this predicted peak fits in the free memory, without headroom. `peak`: bytes."""
        return peak + self.process_overhead <= self.free


def listed_budget(wanted: str) -> MemoryBudget:
    """The memory of a listed GPU, by its name or a part of it. Raises UserError unless exactly one matches."""
    gpu = gpu_prices.select_gpu(wanted, gpu_prices.list_gpus())
    return MemoryBudget(
        name=gpu.name,
        device="cuda",
        source="listed",
        total=gpu.bytes,
        price_per_hour=gpu.price_per_hour,
        currency=gpu.currency,
    )


def local_budget(nvml: Nvml | None = None, device: int | str = "auto") -> MemoryBudget:
    """The memory of this machine's GPU, or its system memory if a run would use the CPU. `device`: `hardware.device`.

    Of several GPUs the one with the least memory: a run may get any of them. A slot has its part of the memory. Raises
    UserError as `select_devices` does.
    """
    nvml = nvml or Nvml()
    selected = select_devices(device, nvml)
    gpu = smallest_gpu(selected)
    budget = device_budget(gpu)
    if gpu is not None:
        listed = gpu_prices.find_gpu(budget.name, gpu_prices.list_gpus())
        budget = replace(
            budget,
            holders=[f"{process_name(pid)} ({pid})" for pid, _ in gpu.processes()],
            price_per_hour=listed.price_per_hour if listed else None,
            currency=listed.currency if listed else "USD",
        )
    else:
        note = "the CPU was selected" if str(device).partition(":")[0] == CPU else nvml.why
        if not note:
            hidden = os.environ.get("CUDA_VISIBLE_DEVICES") is not None
            note = "CUDA_VISIBLE_DEVICES hides all GPUs" if hidden else "no GPU detected"
        budget = replace(budget, note=note)
    return slot_budget(budget, selected[0].slots)


def smallest_gpu(devices: Iterable[SelectedDevice]) -> NvmlGpu | None:
    """The GPU with the least memory, for which a run that may get any of these devices is planned; None for the CPU."""
    gpus = (device.gpu for device in devices if device.gpu is not None)
    return min(gpus, key=lambda gpu: gpu.total() or system_memory()[0], default=None)


def device_budget(gpu: NvmlGpu | None, own: int = 0, system: tuple[int, int] | None = None) -> MemoryBudget:
    """The memory of a whole GPU, or of the system without one.

    `own`: bytes that runs of ftbench use, for which a new run waits; they are not counted as used by others. `system`:
    what `system_memory` has just returned, to not read it again.
    """
    if gpu is None:
        total, used = system or system_memory()
        cores = f"{os.cpu_count()} CPU cores"
        used = max(0, used - own)
        return MemoryBudget(name=cores, device="cpu", source="system", total=total, used=used, bf16=has_bf16())
    gpu_total, gpu_used, shared = gpu.total(), gpu.used(), gpu.has_unified_memory()
    total, used = system_memory() if gpu_total is None or gpu_used is None else (gpu_total, gpu_used)
    return MemoryBudget(
        name=gpu.name() or "GPU",
        device="cuda",
        source="shared" if shared else "gpu",
        total=total,
        used=max(0, used - own),
        bf16=gpu.bf16(),
        note="GPU without dedicated memory: showing system memory" if shared else "",
    )


def slot_budget(budget: MemoryBudget, slots: int) -> MemoryBudget:
    """The memory of one of a device's slots: the others may be in use, by runs with as much."""
    if slots == 1:
        return budget
    total = budget.total // slots
    used = min(total, budget.used // slots)
    return replace(budget, name=f"1 of {slots} slots of {budget.name}", recorded_name="", total=total, used=used)


def system_memory(cgroup: Path = CGROUP) -> tuple[int, int]:
    """(total bytes, bytes used now), of the system or of the container's cgroup if its limit is lower."""
    memory = psutil.virtual_memory()
    limit = _number_in(cgroup / "memory.max")
    if limit is None or limit >= memory.total:
        return memory.total, memory.total - memory.available
    # The kernel frees the page cache on demand.
    lines = _text_of(cgroup / "memory.stat").splitlines()
    cached = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
    used = (_number_in(cgroup / "memory.current") or 0) - cached
    return limit, max(used, limit - memory.available, 0)


def _number_in(file: Path) -> int | None:
    text = _text_of(file).strip()
    return int(text) if text.isdigit() else None


def _text_of(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
