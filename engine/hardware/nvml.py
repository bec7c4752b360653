"""NVML's figures of the cards in this machine. Every question is asked by itself: what a card cannot say is None.

No library, another driver version, MIG, missing permissions, a card that fell off the bus, unified memory: each costs
the fields it concerns and nothing else. `pynvml` comes from the package nvidia-ml-py and brings no torch.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

NOT_SUPPORTED = 3
"""NVML_ERROR_NOT_SUPPORTED."""
BF16_MAJOR = 8
NAMESPACE, INITIAL = Path("/proc/self/ns/pid"), "pid:[4026531836]"
"""Where Linux says in which namespace our process ids are counted, and the first one's name (`PROC_PID_INIT_INO`)."""


def ids_are_ours() -> bool:
    """Whether NVML's process ids mean the same here.

    Drivers know no namespaces: in a container with process ids of its own NVML gives the host's (NVIDIA/nvidia-docker,
    issue 1483), which may by chance be those of other processes here.
    """
    try:
        return str(NAMESPACE.readlink()) == INITIAL
    except OSError:  # no Linux, or no /proc: then no container of this kind
        return True


class Nvml:
    """The library, initialised once; where it cannot be, `why` says so and there are no cards."""

    def __init__(self) -> None:
        self.why = ""
        self.code = 0
        """NVML's code for why the last question had no answer, 0 where it had one."""
        self._library: Any = None
        try:
            import pynvml

            pynvml.nvmlInit()
            self._library = pynvml
        except (ImportError, OSError) as error:
            self.why = str(error)
        except Exception as error:
            if type(error).__module__ != "pynvml":
                raise
            self.why = str(error)

    def driver(self) -> str:
        """The driver's version, '' where it cannot be asked."""
        return str(self._call("nvmlSystemGetDriverVersion") or "")

    def cards(self) -> list[NvmlCard]:
        """Every card, in NVML's order; one that does not answer is among them and says nothing."""
        count = self._call("nvmlDeviceGetCount") or 0
        return [NvmlCard(self, number, self._call("nvmlDeviceGetHandleByIndex", number)) for number in range(count)]

    def card(self, index: int = 0) -> NvmlCard | None:
        """One card by NVML's numbering, which need not be CUDA's."""
        handle = self._call("nvmlDeviceGetHandleByIndex", index)
        return NvmlCard(self, index, handle) if handle is not None else None

    def named(self, uuid: str) -> NvmlCard | None:
        """The card called GPU-… or MIG-…, by the whole of it or as few of its first characters as tell it apart, like
        CUDA_VISIBLE_DEVICES. None where none or several are called so: never another one.
        """
        handle = self._call("nvmlDeviceGetHandleByUUID", uuid)
        if handle is not None:
            return NvmlCard(self, 0, handle)
        found = [card for card in self.cards() if (card.uuid() or "").startswith(uuid)]
        return found[0] if len(found) == 1 else None

    def of_torch(self, uuid: str) -> NvmlCard | None:
        """The card with the UUID that torch gives, which lacks its beginning; the only card where none is called so."""
        if found := self.named(f"GPU-{uuid}") or self.named(f"MIG-{uuid}"):
            return found
        return self.card() if len(self.cards()) == 1 else None

    def _call(self, question: str, *arguments: Any) -> Any:
        if self._library is None:
            return None
        self.code = 0
        try:
            return getattr(self._library, question)(*arguments)
        except self._library.NVMLError as error:
            self.code = int(error.value)
            return None


@dataclass
class NvmlCard:
    """One card."""

    nvml: Nvml
    index: int
    handle: Any
    energy_at_start: int | None = field(init=False)

    def __post_init__(self) -> None:
        self.energy_at_start = self._ask("nvmlDeviceGetTotalEnergyConsumption")

    def name(self) -> str | None:
        name = self._ask("nvmlDeviceGetName")
        return name.decode("utf-8", "replace") if isinstance(name, bytes) else name

    def uuid(self) -> str | None:
        """GPU-…"""
        uuid = self._ask("nvmlDeviceGetUUID")
        return uuid.decode("ascii", "replace") if isinstance(uuid, bytes) else uuid

    def bf16(self) -> bool:
        """Whether it multiplies bfloat16: compute capability 8.0 (Ampere) and higher; yes where it does not say."""
        capability = self._ask("nvmlDeviceGetCudaComputeCapability")
        return capability is None or capability[0] >= BF16_MAJOR

    def total(self) -> int | None:
        """Bytes on the card; None also where its memory is the system's (`shared`)."""
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        return memory.total if memory else None

    def shared(self) -> bool:
        """Whether the card says that it has no memory of its own: that it uses the system's."""
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        return memory is None and self.handle is not None and self.nvml.code == NOT_SUPPORTED

    def used(self) -> int | None:
        """Bytes used by everybody."""
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
        """Percent of the last sample period in which a kernel ran."""
        rates = self._ask("nvmlDeviceGetUtilizationRates")
        return rates.gpu if rates else None

    def temperature(self) -> int | None:
        """Degrees Celsius."""
        return self._ask("nvmlDeviceGetTemperature", 0)  # type: ignore[no-any-return]

    def processes(self) -> list[tuple[int, int | None]]:
        """(pid, bytes) of the processes computing on the card; None bytes where the driver keeps them to itself.

        The ids are the driver's: see `ids_are_ours`.
        """
        found = self._ask("nvmlDeviceGetComputeRunningProcesses_v3")
        if found is None:  # drivers before 510 have the second form only
            found = self._ask("nvmlDeviceGetComputeRunningProcesses_v2") or []
        return [(process.pid, process.usedGpuMemory) for process in found]

    def others(self, own: int | None) -> list[tuple[int, str, int | None]]:
        """(pid, name, bytes) of other processes computing on the card; `own` is what the driver calls this one."""
        return [(pid, process_name(pid), used) for pid, used in self.processes() if pid != own]

    def _ask(self, question: str, *arguments: Any) -> Any:
        return self.nvml._call(question, self.handle, *arguments) if self.handle is not None else None


def process_name(pid: int) -> str:
    """What the process with this id of the driver's is called, or that it cannot be seen from here."""
    if ids_are_ours():
        with contextlib.suppress(psutil.Error):
            return str(psutil.Process(pid).name())
    return "a process of another user or container"
