"""Slots of the CPU: equal parts of the CPUs that this process may use; runs side by side then share no core."""

from __future__ import annotations

import os
from pathlib import Path

from engine.config.errors import UserError
from engine.hardware.cpu_load import usable_cpus

TOPOLOGY = Path("/sys/devices/system/cpu")


def split_cpus(number: int) -> list[tuple[int, ...]]:
    """The CPUs of each of `number` slots, equally many in each; what remains is not used.

    Hyperthreads of one core are in the same slot where the number of cores allows it. Raises UserError if there are
    fewer CPUs than slots.
    """
    cpus = sorted(usable_cpus(), key=_place)
    size = len(cpus) // number
    if size == 0:
        what, do = f"too many slots ({number} on {len(cpus)} CPUs)", f"use at most cpu:{len(cpus)}"
        raise UserError(what, "hardware.device", do, code="device.too_many_slots")
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
