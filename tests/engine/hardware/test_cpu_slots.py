"""Slots of the CPU: equal parts without a common CPU, which conflict with the whole CPU and with other divisions."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from engine.config.errors import UserError
from engine.hardware.cpu import usable_cpus
from engine.hardware.devices import conflicts, runs_at_once, select_device, select_devices
from engine.memory.formula.memory_budget import local_budget

pytestmark = pytest.mark.skipif(len(usable_cpus()) < 2, reason="one CPU cannot be divided")


def test_slots_have_equally_many_cpus_and_none_in_common() -> None:
    slots = select_devices("cpu:2")
    assert [slot.lock for slot in slots] == ["cpu-1of2", "cpu-2of2"]
    first, second = (set(slot.cpus) for slot in slots)
    assert len(first) == len(second) == len(usable_cpus()) // 2
    assert not first & second and first | second <= usable_cpus()
    assert [slot.lock for slot in select_devices("cpu:1")] == [select_device("cpu").lock]
    assert select_device("cpu:2") == slots[0]


def test_more_slots_than_cpus_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        select_devices(f"cpu:{len(usable_cpus()) + 1}")
    assert (caught.value.code, caught.value.location) == ("device.too_many_slots", "hardware.device")


@pytest.mark.parametrize(
    ("lock", "other", "expected"),
    [
        ("cpu", "cpu", True),
        ("cpu", "cpu-1of2", True),
        ("cpu-2of4", "cpu", True),
        ("cpu-1of2", "cpu-2of2", False),
        ("cpu-1of2", "cpu-1of2", True),
        ("cpu-1of2", "cpu-4of4", True),
        ("GPU-a", "GPU-b", False),
        ("GPU-a", "GPU-a", True),
        ("0", "cpu", False),
        ("GPU-a-1of2", "GPU-a-2of2", False),
        ("GPU-a-1of2", "GPU-a", True),
        ("GPU-a-1of2", "GPU-b-1of2", False),
        ("cpu-1of2", "GPU-a-1of4", False),
    ],
)
def test_devices_that_conflict(lock: str, other: str, expected: bool) -> None:
    assert conflicts(lock, other) is conflicts(other, lock) is expected


def test_runs_at_once_counts_each_device_once() -> None:
    assert runs_at_once([("cpu", 1), ("cpu", 1)]) == 1
    assert runs_at_once([("cpu:2", 1), ("cpu:2", 1)]) == 2
    assert runs_at_once([("cpu:2", 2), ("cpu:2", 2)]) == 1  # each run uses both slots


def test_a_slot_has_its_share_of_the_memory() -> None:
    whole, slot = local_budget(device="cpu"), local_budget(device="cpu:2")
    assert abs(slot.total - whole.total / 2) < 2
    assert slot.name == f"1 of 2 slots of {whole.name}"


@pytest.mark.slow
def test_a_process_that_uses_a_slot_has_its_cpus_and_as_many_threads() -> None:
    code = "import os; from engine.hardware.devices import select_devices; select_devices('cpu:2')[1].apply();"
    code += "import torch; print(sorted(os.sched_getaffinity(0)), torch.get_num_threads())"
    environment = {**os.environ, "OMP_NUM_THREADS": "64"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    cpus = select_devices("cpu:2")[1].cpus
    assert done.stdout.split() == f"{list(cpus)} {len(cpus)}".split()
