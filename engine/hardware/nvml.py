"""GPUs of this machine by NVML. Every value is queried separately; a value that is not available is None.

A missing library, another driver version, MIG, missing permissions, a GPU that fell off the bus and unified memory each
affect only the values that depend on them. `pynvml` comes from the package nvidia-ml-py and imports no torch.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NOT_SUPPORTED = 3
"""NVML_ERROR_NOT_SUPPORTED."""
SM_CLOCK = 1
"""NVML_CLOCK_SM."""
THROTTLE_REASONS = ((0x4, "power cap"), (0x20 | 0x40, "temperature"), (0x8, "hardware slowdown"), (0x80, "power brake"))
"""Bits of nvmlClocksThrottleReasons (nvml.h). Bits for idle and for clocks set by an application are left out."""
BF16_MAJOR = 8
"""Major compute capability from which GPUs have bfloat16 instructions (Ampere)."""
NAMESPACE, INITIAL = Path("/proc/self/ns/pid"), "pid:[4026531836]"
"""The file that names the PID namespace of this process, and the name of the initial one (`PROC_PID_INIT_INO`)."""


def pids_are_local() -> bool:
    """Whether NVML's process ids are valid in this PID namespace.

    In a container with its own PID namespace NVML reports the host's ids (NVIDIA/nvidia-docker, issue 1483), which may
    by chance be ids of other processes here.
    """
    try:
        return str(NAMESPACE.readlink()) == INITIAL
    except OSError:  # not Linux, or no /proc: no PID namespaces
        return True


class Nvml:
    """The NVML library, initialized once. Where that fails, `why` gives the reason and there are no GPUs."""

    def __init__(self) -> None:
        self.why = ""
        self.code = 0
        """NVML's error code of the last call; 0 where it succeeded."""
        self._library: Any = None
        try:
            import pynvml  # loads a shared library: without one there are no GPUs

            pynvml.nvmlInit()
            self._library = pynvml
        except (ImportError, OSError) as error:
            self.why = str(error)
        except Exception as error:
            if type(error).__module__ != "pynvml":
                raise
            self.why = str(error)

    def driver(self) -> str:
        """The driver version; '' where it is not available."""
        return str(self._call("nvmlSystemGetDriverVersion") or "")

    def cuda_version(self) -> tuple[int, int] | None:
        """The newest CUDA version that the driver supports: (12, 8)."""
        version = self._call("nvmlSystemGetCudaDriverVersion_v2")
        return None if version is None else (version // 1000, version % 1000 // 10)

    def gpus(self) -> list[NvmlGpu]:
        """Every GPU, in NVML's order; one that does not respond is included, without values."""
        count = self._call("nvmlDeviceGetCount") or 0
        return [NvmlGpu(self, number, self._call("nvmlDeviceGetHandleByIndex", number)) for number in range(count)]

    def gpu(self, index: int = 0) -> NvmlGpu | None:
        """One GPU by NVML's index, which may differ from CUDA's."""
        handle = self._call("nvmlDeviceGetHandleByIndex", index)
        return NvmlGpu(self, index, handle) if handle is not None else None

    def devices(self) -> list[NvmlGpu]:
        """GPUs, those in MIG mode replaced by their instances: nothing can run on the whole GPU."""
        return [device for gpu in self.gpus() for device in gpu.parts()]

    def by_uuid(self, uuid: str) -> NvmlGpu | None:
        """The GPU or MIG instance with this UUID (GPU-…, MIG-…) or unique prefix of it, as in CUDA_VISIBLE_DEVICES.

        None where no GPU or several match.
        """
        known = [device for gpu in self.gpus() for device in (gpu, *gpu.mig_instances())]
        matching = [device for device in known if (device.uuid() or "").startswith(uuid)]
        if not matching and (handle := self._call("nvmlDeviceGetHandleByUUID", uuid)) is not None:
            return NvmlGpu(self, 0, handle)  # NVML has it and does not list it
        return matching[0] if len(matching) == 1 else None

    def of_torch(self, uuid: str) -> NvmlGpu | None:
        """The GPU with the UUID that torch reports, which has no prefix; the only GPU where none matches."""
        if gpu := self.by_uuid(f"GPU-{uuid}") or self.by_uuid(f"MIG-{uuid}"):
            return gpu
        return self.gpu() if len(self.gpus()) == 1 else None

    def _call(self, function: str, *arguments: Any) -> Any:
        if self._library is None:
            return None
        self.code = 0
        try:
            return getattr(self._library, function)(*arguments)
        except self._library.NVMLError as error:
            self.code = int(error.value)
            return None


def gpu_label(index: int, instance: int | None) -> str:
    """`1`; `1.0` for the first MIG instance of GPU 1."""
    return str(index) if instance is None else f"{index}.{instance}"


@dataclass
class NvmlGpu:
    """One GPU or MIG instance."""

    nvml: Nvml
    index: int
    handle: Any
    instance: int | None = None
    """Number of a MIG instance on its GPU, as in `nvidia-smi -L`; None for a whole GPU."""
    energy_at_start: int | None = field(init=False)

    def __post_init__(self) -> None:
        self.energy_at_start = self._ask("nvmlDeviceGetTotalEnergyConsumption")

    @property
    def label(self) -> str:
        return gpu_label(self.index, self.instance)

    def name(self) -> str | None:
        name = self._ask("nvmlDeviceGetName")
        return name.decode("utf-8", "replace") if isinstance(name, bytes) else name

    def uuid(self) -> str | None:
        """GPU-…"""
        uuid = self._ask("nvmlDeviceGetUUID")
        return uuid.decode("ascii", "replace") if isinstance(uuid, bytes) else uuid

    def mig_mode(self) -> bool:
        """Whether the GPU is divided into MIG instances."""
        modes = self._ask("nvmlDeviceGetMigMode")
        return bool(modes and modes[0])

    def mig_instances(self) -> list[NvmlGpu]:
        """Its MIG instances, with the index of the GPU; [] without MIG mode."""
        count = (self._ask("nvmlDeviceGetMaxMigDeviceCount") or 0) if self.mig_mode() else 0
        handles = ((number, self._ask("nvmlDeviceGetMigDeviceHandleByIndex", number)) for number in range(count))
        return [NvmlGpu(self.nvml, self.index, handle, number) for number, handle in handles if handle is not None]

    def parts(self) -> list[NvmlGpu]:
        """Its MIG instances, or the GPU itself without one."""
        return self.mig_instances() or [self]

    def bf16(self) -> bool:
        """Whether it has bfloat16 instructions: compute capability 8.0 (Ampere) or higher, or unknown."""
        capability = self._ask("nvmlDeviceGetCudaComputeCapability")
        return capability is None or capability[0] >= BF16_MAJOR

    def total(self) -> int | None:
        """Bytes of GPU memory; None also where the GPU uses system memory (`shared`)."""
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        return memory.total if memory else None

    def has_unified_memory(self) -> bool:
        """Whether the GPU has unified memory: it uses the system's."""
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        return memory is None and self.handle is not None and self.nvml.code == NOT_SUPPORTED

    def used(self) -> int | None:
        """Bytes used by all processes."""
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        return memory.used if memory else None

    def power(self) -> float | None:
        """Watts."""
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        return milliwatts / 1000 if milliwatts is not None else None

    def power_limit(self) -> float | None:
        """Watts that the driver enforces as the maximum."""
        milliwatts = self._ask("nvmlDeviceGetEnforcedPowerLimit")
        return milliwatts / 1000 if milliwatts is not None else None

    def energy(self) -> float | None:
        """Joules since this object was created."""
        now = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return (now - self.energy_at_start) / 1000 if now is not None and self.energy_at_start is not None else None

    def utilization(self) -> int | None:
        """Utilization: percent of the last sample period in which a kernel ran."""
        rates = self._ask("nvmlDeviceGetUtilizationRates")
        return rates.gpu if rates else None

    def temperature(self) -> int | None:
        """Degrees Celsius."""
        return self._ask("nvmlDeviceGetTemperature", 0)  # type: ignore[no-any-return]

    def clock(self) -> int | None:
        """Current clock of the multiprocessors in MHz."""
        return self._ask("nvmlDeviceGetClockInfo", SM_CLOCK)  # type: ignore[no-any-return]

    def max_clock(self) -> int | None:
        """The highest clock that the multiprocessors support, in MHz."""
        return self._ask("nvmlDeviceGetMaxClockInfo", SM_CLOCK)  # type: ignore[no-any-return]

    def throttled(self) -> list[str]:
        """Why the clocks are lower than requested; empty if they are not, or if the driver does not report it."""
        reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
        return [name for bits, name in THROTTLE_REASONS if reasons & bits]

    def processes(self) -> list[tuple[int, int | None]]:
        """(pid, bytes) of the compute processes on the GPU; bytes are None where the driver does not report them.

        The ids are those of the driver: see `pids_are_local`.
        """
        running = self._ask("nvmlDeviceGetComputeRunningProcesses_v3")
        if running is None:  # drivers before 510 have only v2
            running = self._ask("nvmlDeviceGetComputeRunningProcesses_v2") or []
        return [(process.pid, process.usedGpuMemory) for process in running]

    def process_loads(self) -> dict[int, int]:
        """Utilization by process in percent of the last sample periods, by the driver's ids; {} if not reported."""
        samples = self._ask("nvmlDeviceGetProcessUtilization", 0) or []
        latest = sorted(samples, key=lambda sample: int(sample.timeStamp))
        return {sample.pid: sample.smUtil for sample in latest}

    def others(self, own: int | None) -> list[tuple[int, str, int | None]]:
        """(pid, name, bytes) of the other compute processes on the GPU; `own` is the driver's id of this process."""
        return [(pid, process_name(pid), used) for pid, used in self.processes() if pid != own]

    def _ask(self, function: str, *arguments: Any) -> Any:
        return self.nvml._call(function, self.handle, *arguments) if self.handle is not None else None


UNKNOWN_PROCESS = "a process of another user or container"
"""Name of a process that is not visible from here."""


def process_name(pid: int) -> str:
    """The name of the process with this driver id, `python3 of alice` for one of another user.

    `a process of another user or container` where it is not visible from here.
    """
    import psutil  # slow to import: not before the first frame of the bench

    if pids_are_local():
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            owner = "" if process.uids().real == os.getuid() else f" of {process.username()}"
            return f"{process.name()}{owner}"
    return UNKNOWN_PROCESS


def process_user(pid: int) -> str:
    """The user of the process with this driver id, '' where it is not visible from here."""
    import psutil

    if pids_are_local():
        with contextlib.suppress(psutil.Error):
            return str(psutil.Process(pid).username())
    return ""
