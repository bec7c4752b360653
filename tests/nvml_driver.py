"""A simulated NVML library with two GPUs, and a MIG instance of one that it does not list."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from engine.hardware.nvml import Nvml

GIB = 1 << 30


class Driver:
    """The functions of NVML that ftbench needs; all others raise NVMLError."""

    class NVMLError(Exception):
        value = 3

    def __init__(self, memory: bool = True, processes: dict[int, int | None] | None = None) -> None:
        """`memory`: whether it reports memory; `processes`: bytes on the second GPU by process id, None if unknown."""
        self.memory, self.processes = memory, processes or {}

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        if number > 1:
            raise self.NVMLError
        return number

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        if uuid not in (whole := {"GPU-0123": 0, "GPU-abcd": 1, "MIG-777": 2}):
            raise self.NVMLError
        return whole[uuid]

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return ["GPU-0123", "GPU-abcd", "MIG-777"][handle]

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        return [(7, 5), (8, 0), (8, 0)][handle]

    def nvmlDeviceGetName(self, handle: int) -> str:
        return ["NVIDIA L4", "NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB MIG 1g.10gb"][handle]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        if not self.memory:
            raise self.NVMLError
        return SimpleNamespace(total=[22, 80, 10][handle] * GIB, used=[1 * GIB, self.used(), 0][handle])

    def used(self) -> int:
        """Bytes in use on the second GPU."""
        return max(30 * GIB, sum(used or 0 for used in self.processes.values()))

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle: int) -> list[Any]:
        running = self.processes.items() if handle == 1 else ()
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in running]

    def __getattr__(self, name: str) -> Any:
        def refuse(*_: object) -> None:
            raise self.NVMLError

        return refuse


def nvml(**how: Any) -> Nvml:
    """`Nvml` with a `Driver` as its library; arguments as for `Driver`."""
    library = Nvml()
    library._library, library.why = Driver(**how), ""
    return library
