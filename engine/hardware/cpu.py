"""This machine's CPU, read from Linux without torch: its features, its load, and its division into slots.

Only the CPUs that this process may use count: a process that is pinned to others does not disturb this one. Values that
the system does not report are None. Slots are equal parts of them; runs side by side then share no core.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from engine.config.errors import UserError

WITHOUT_BF16 = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"})
"""Values of ONEDNN_MAX_CPU_ISA with which oneDNN, which computes torch's matrix products, uses no bf16 instructions
(oneDNN's documentation, "CPU Dispatcher Control"; AVX2_VNNI_2 only converts bf16).
"""


def has_bf16() -> bool:
    """Whether matrix products use bfloat16 instructions (AVX512-BF16 or AMX); emulated ones are slower than float32.

    False also where ONEDNN_MAX_CPU_ISA keeps oneDNN from using them.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return limit.upper() not in WITHOUT_BF16 and bool({"avx512_bf16", "amx_bf16"} & _flags())


def sums_bf16_in_float32() -> bool:
    """Whether a bf16 matrix product is added up in a float32 matrix of its size.

    oneDNN does that without bf16 instructions. torch leaves bf16 products to it on CPUs with AVX-512 or AVX-NE-CONVERT
    (aten/src/ATen/native/mkldnn/Utils.h, mkldnn_bf16_device_check); its own kernels for others need no such matrix.
    """
    return not has_bf16() and ({"avx512bw", "avx512dq", "avx512vl"} <= _flags() or "avx_ne_convert" in _flags())


@cache
def _flags() -> frozenset[str]:
    """Feature flags of the first CPU as Linux names them; empty where they cannot be read."""
    try:
        with Path("/proc/cpuinfo").open() as file:
            return frozenset(next((line for line in file if line.startswith("flags")), "").split())
    except OSError:
        return frozenset()


STAT, PRESSURE = Path("/proc/stat"), Path("/proc/pressure/cpu")


@dataclass(frozen=True)
class CpuCounters:
    """Counters at one moment; the difference of two is the load between them. All values in seconds."""

    wall: float
    """From the monotonic clock."""
    own: float
    """CPU time of this process, all threads, and of its children that have ended."""
    busy: float | None
    """Time in which the CPUs of this process were not idle, whoever used them; stolen time (steal) counts."""
    pressure: float | None
    """Time in which a task of the system waited for a CPU (`some` of pressure stall information)."""
    cpus: int
    """CPUs that this process may use."""


def read_counters() -> CpuCounters:
    times = os.times()
    cpus = usable_cpus()
    return CpuCounters(
        wall=time.monotonic(),
        own=times.user + times.system + times.children_user + times.children_system,
        busy=_busy_seconds(cpus),
        pressure=_pressure_seconds(),
        cpus=len(cpus),
    )


def usable_cpus() -> set[int]:
    """Numbers of the CPUs that this process may use; those of the machine where the system cannot say."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _busy_seconds(cpus: set[int]) -> float | None:
    """Seconds since boot in which these CPUs were not idle: proc_stat(5), without idle and iowait."""
    try:
        lines = STAT.read_text().splitlines()
    except OSError:
        return None
    ticks = 0
    counted = 0
    for line in lines:
        name, *values = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cpus:
            numbers = [int(value) for value in values[:8]]  # guest time is part of user time
            ticks += sum(numbers) - sum(numbers[3:5])
            counted += 1
    return ticks / os.sysconf("SC_CLK_TCK") if counted == len(cpus) else None


def _pressure_seconds() -> float | None:
    """The total of the line `some … total=MICROSECONDS`; None on kernels without pressure stall information."""
    try:
        for line in PRESSURE.read_text().splitlines():
            if line.startswith("some") and "total=" in line:
                return int(line.rpartition("total=")[2]) / 1e6
    except (OSError, ValueError):
        return None
    return None


TOPOLOGY = Path("/sys/devices/system/cpu")


def split_cpus(number: int) -> list[tuple[int, ...]]:
    """The CPUs of each of `number` slots, equally many in each; what remains is not used.

    Hyperthreads of one core are in the same slot where the number of cores allows it. Raises UserError if there are
    fewer CPUs than slots.
    """
    cpus = sorted(usable_cpus(), key=_place)
    size = len(cpus) // number
    if size == 0:
        problem, hint = f"too many slots ({number} on {len(cpus)} CPUs)", f"use at most cpu:{len(cpus)}"
        raise UserError(problem, "hardware.device", hint, code="device.too_many_slots")
    return [tuple(sorted(cpus[first * size : (first + 1) * size])) for first in range(number)]


def pin(cpus: tuple[int, ...]) -> None:
    """Let this process and its threads use only these CPUs; call before torch is imported, which counts them."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        value = os.environ.get(name, "")
        if value.isdecimal() and int(value) > len(cpus):  # else more threads than CPUs
            os.environ[name] = str(len(cpus))


def _place(cpu: int) -> tuple[int, int, int]:
    """(package, core, number), by which hyperthreads of one core are neighbors."""
    folder = TOPOLOGY / f"cpu{cpu}" / "topology"
    return _number(folder / "physical_package_id"), _number(folder / "core_id"), cpu


def _number(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0
