"""CPU time of this process and of others on the CPUs that this process may use, from /proc. Imports no torch.

Only these CPUs count: a process that is pinned to other CPUs does not disturb this one. Values that the system does not
report are None.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

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
    """The counters of this moment."""
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
    found = 0
    for line in lines:
        name, *values = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cpus:
            numbers = [int(value) for value in values[:8]]  # guest time is part of user time
            ticks += sum(numbers) - sum(numbers[3:5])
            found += 1
    return ticks / os.sysconf("SC_CLK_TCK") if found == len(cpus) else None


def _pressure_seconds() -> float | None:
    """The total of the line `some … total=MICROSECONDS`; None on kernels without pressure stall information."""
    try:
        for line in PRESSURE.read_text().splitlines():
            if line.startswith("some") and "total=" in line:
                return int(line.rpartition("total=")[2]) / 1e6
    except (OSError, ValueError):
        return None
    return None
