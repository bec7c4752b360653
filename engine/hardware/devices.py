"""Select the device of a run: a GPU by index, UUID or MIG UUID, or the CPU. Lock, plan and worker use the same one.

A setting can name several devices (`all`, `0,1`): the run uses the first one that is free. `cpu:2` and `0:2` divide a
device into slots for runs at the same time.

Indices are those of nvidia-smi (PCI bus order), also in CUDA_VISIBLE_DEVICES: the worker sets CUDA_DEVICE_ORDER,
because CUDA by itself counts from the fastest GPU. The worker sees only the selected GPU, by its UUID.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.config.errors import UserError
from engine.config.schema import DEVICE_FORMS, DEVICE_PATTERN, Config
from engine.hardware.cpu import pin, split_cpus
from engine.hardware.nvml import Nvml, NvmlGpu

CPU = "cpu"
ALL = "all"
KEY = "hardware.device"
ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Settings of torch's allocator, present and former name. Expandable segments: batches of other lengths fragment the
pool less (QLoRA of an 8B model reserves 16.4 GiB without and 10.8 GiB with them, torchtune pull request 1185). Not set
on MIG instances (pytorch issue 112377)."""
MIG = "MIG-"
"""How the UUID of a MIG instance begins."""
_SLOT = re.compile(r"-(?P<place>[1-9][0-9]?)of(?P<slots>[1-9][0-9]?)$")
"""The end of a slot's lock."""
DEVICE_FILES = (Path("/dev/nvidia0"), Path("/dev/nvidiactl"))


@dataclass(frozen=True)
class SelectedDevice:
    """One device."""

    lock: str
    """Name of its lock: the UUID of a GPU or MIG instance, its index if NVML does not report one, `cpu`; of a slot
    with its place, `cpu-1of2`."""
    title: str
    """`the CPU`, `GPU 0`, `MIG instance 5c1b2a3d`, `slot 1 of 2 of the CPU`."""
    visible: str | None
    """CUDA_VISIBLE_DEVICES for a process that uses it; None leaves the variable as it is."""
    gpu: NvmlGpu | None = None
    cpus: tuple[int, ...] = ()
    """Numbers of the CPUs that a process which uses it is pinned to; empty: all that it may use."""
    slots: int = 1
    """How many runs share the device at a time."""
    whole: str = ""
    """Title of the device that it is a slot of; '' for a whole device."""

    @property
    def queue(self) -> str:
        """Name of the queue in which runs wait for it: the lock of the whole device, also for its slots."""
        return queue_of(self.lock)

    def apply(self) -> None:
        """Make it the only device of this process, and set defaults of torch; call before torch is imported."""
        if self.cpus:
            pin(self.cpus)
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        if not self.lock.startswith(MIG) and not any(name in os.environ for name in ALLOCATOR_SETTINGS):
            os.environ[ALLOCATOR_SETTINGS[0]] = "expandable_segments:True"
        # torch prefers cuDNN's attention on Hopper and Blackwell, which builds a plan for every new shape of a batch
        os.environ.setdefault("TORCH_CUDNN_SDPA_DEPRIORITIZED", "1")
        if self.visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.visible


THE_CPU = SelectedDevice(CPU, "the CPU", "")


def select_devices(setting: int | str, nvml: Nvml | None = None) -> list[SelectedDevice]:
    """The devices of a setting, at least one. A run uses the first of them that is free.

    - `all`: all GPUs in CUDA_VISIBLE_DEVICES, else all GPUs, else the CPU. Of a GPU in MIG mode its instances.
    - `auto`: of `all` the GPU with the most free memory (`freest`), so that nothing fits on another one only.
    - `cpu`: the CPU.
    - GPUs separated by commas: an index, `1.0` for the first MIG instance of GPU 1, or the UUID of a GPU or MIG
      instance, or a prefix of it.

    `:2` at the end divides each device into two slots: half of the CPUs, or half of a GPU's memory.

    Raises UserError if one of them does not exist, or if CUDA_VISIBLE_DEVICES hides it.
    """
    if not re.fullmatch(DEVICE_PATTERN, str(setting)):
        raise UserError(f"no device {setting}", KEY, f"use {DEVICE_FORMS}", code="device.not_found")
    names, number, devices = str(setting).partition(":")[0], slots_of(setting), [THE_CPU]
    if names != CPU:
        nvml, visible = nvml or Nvml(), os.environ.get("CUDA_VISIBLE_DEVICES")
        if names in (ALL, "auto"):
            devices = _usable(nvml, visible)
            devices = [freest(devices)] if names == "auto" else devices
        else:
            devices = [_named(nvml, name, visible) for name in names.split(",")]
    devices = list({device.lock: device for device in devices}.values())
    if number == 1:
        return devices
    return [
        replace(
            device,
            lock=f"{device.lock}-{place}of{number}",
            title=f"slot {place} of {number} of {device.title}",
            cpus=cpus,
            slots=number,
            whole=device.title,
        )
        for device in devices
        for place, cpus in enumerate(split_cpus(number) if device.lock == CPU else [()] * number, 1)
    ]


def freest(devices: Sequence[SelectedDevice]) -> SelectedDevice:
    """The device with the most free memory in whole GiB; of equal ones one without processes, then the first."""
    if len(devices) == 1:
        return devices[0]

    def used_up(device: SelectedDevice) -> tuple[int, bool]:
        gpu = device.gpu
        total, used = (gpu.total(), gpu.used()) if gpu is not None else (None, None)
        return -(((total or 0) - (used or 0)) >> 30), bool(gpu and gpu.processes())

    return min(devices, key=used_up)


def select_device(setting: int | str = "auto", nvml: Nvml | None = None) -> SelectedDevice:
    """The first device of a setting. Raises as `select_devices` does."""
    return select_devices(setting, nvml)[0]


def devices_for(setting: int | str, count: int) -> list[SelectedDevice]:
    """The devices of a setting, of which a run uses `count`; with `auto` for several: of all GPUs.

    Raises UserError as `select_devices` does, and where there are too few or slots of one GPU.
    """
    devices = select_devices(ALL if count > 1 and setting == "auto" else setting)
    if count > 1 and devices[0].gpu is not None and devices[0].slots > 1:
        problem = f"train.devices={count} does not work with slots of a GPU"
        raise UserError(problem, f"{KEY}={setting}", "omit the slots (--share)", code="device.ranks_in_slots")
    if len(devices) < count:
        hint = f'use "{CPU}:{count}"' if devices[0].queue == CPU else "use fewer devices, or name more GPUs"
        problem = f"too few devices (train.devices={count}, {len(devices)} found)"
        raise UserError(problem, f"{KEY}={setting}", hint, code="device.too_few")
    return devices


def slots_of(setting: int | str) -> int:
    """The number of slots in a setting: 2 for `cpu:2` and `0,1:2`, 1 for a device that is not divided."""
    number = str(setting).partition(":")[2]
    return int(number) if number else 1


def device_settings(config: Config) -> tuple[int | str, int]:
    """(`hardware.device`, `train.devices`) of a configuration."""
    return config.hardware.device, config.train.devices


def runs_at_once(settings: Iterable[tuple[int | str, int]]) -> int:
    """How many runs can use their devices at the same time. `settings`: of each run `hardware.device` and
    `train.devices`. Raises as `devices_for` does.
    """
    settings = set(settings)
    locks = {device.lock for setting, count in settings for device in devices_for(setting, count)}
    return max(1, len(locks) // max((count for _, count in settings), default=1))


def queue_of(lock: str) -> str:
    """Name of the queue for a device, given by the name of its lock: that of the whole device."""
    return _SLOT.sub("", lock)


def slot_of(lock: str) -> tuple[int, int] | None:
    """(place, number of slots) of a slot, given by the name of its lock; None for a whole device."""
    slot = _SLOT.search(lock)
    return (int(slot["place"]), int(slot["slots"])) if slot else None


def conflicts(lock: str, other: str) -> bool:
    """Whether two devices, given by the names of their locks, cannot be used at the same time.

    A whole device conflicts with all of its slots; two slots of a device conflict if it is divided into another number
    of slots for each.
    """
    if lock == other:
        return True
    if queue_of(lock) != queue_of(other):
        return False
    slot, other_slot = slot_of(lock), slot_of(other)
    return slot is None or other_slot is None or slot[1] != other_slot[1]


def still_exists(device: SelectedDevice) -> bool:
    """Whether a GPU still responds and has the same lock. True for the CPU.

    It can fall off the bus while a run waits for it. One that did not report its UUID when it was selected, and does
    now, has another lock, which another run may hold.
    """
    if device.gpu is None:
        return True
    gpu = _find(Nvml(), device.queue)
    if gpu is None or gpu.handle is None:
        return False
    uuid = gpu.uuid()
    responds = (uuid or gpu.name() or gpu.total()) is not None
    return responds and uuid in (None, device.queue)


def _usable(nvml: Nvml, visible: str | None) -> list[SelectedDevice]:
    """All GPUs in CUDA_VISIBLE_DEVICES (`visible`), all GPUs if it is None; the CPU if there are none."""
    first = "0" if visible is None else visible.split(",")[0].strip()
    if first in ("", "-1"):  # hides all GPUs
        return [THE_CPU]
    # GPUs that NVML cannot access are skipped: torch cannot use them either.
    every = (gpu for gpu in nvml.gpus() if gpu.handle is not None)
    if gpus := list(every if visible is None else _visible(nvml, visible)):
        return [part for gpu in gpus for part in _parts(gpu)] or [_selected(gpus[0])]
    if visible is not None and nvml.gpus():
        raise _not_found(nvml, f"CUDA_VISIBLE_DEVICES={visible} names no GPU", "")
    # A GPU without NVML, or one that does not respond.
    has_gpu = any(file.exists() for file in DEVICE_FILES)
    return [SelectedDevice(first, f"GPU {first}", None) if has_gpu else THE_CPU]


def _named(nvml: Nvml, name: str, visible: str | None) -> SelectedDevice:
    gpu = _find(nvml, name)
    if gpu is None:
        raise _not_found(nvml, f"no GPU {name}", KEY)
    device = _selected(gpu)
    shown = [device] if visible is None else [part for gpu in _visible(nvml, visible) for part in _parts(gpu)]
    if device.lock not in (part.lock for part in shown):
        problem = f"CUDA_VISIBLE_DEVICES={visible} hides {device.title}"
        raise UserError(problem, KEY, "unset it or choose a GPU that it contains", code="device.hidden")
    return device


def _find(nvml: Nvml, name: str) -> NvmlGpu | None:
    index, point, instance = name.partition(".")
    if point:
        gpu = nvml.gpu(int(index))
        return next((part for part in gpu.mig_instances() if part.instance == int(instance)), None) if gpu else None
    if name.isdecimal():
        return nvml.gpu(int(name))
    return nvml.by_uuid(name) if name.startswith(("GPU-", MIG)) else None


def _selected(gpu: NvmlGpu) -> SelectedDevice:
    """The GPU, or its first MIG instance, which CUDA would use."""
    if parts := _parts(gpu):
        return parts[0]
    problem, hint = f"GPU {gpu.index} is in MIG mode and has no instance", "create one with `nvidia-smi mig -cgi`"
    raise UserError(problem, KEY, f"{hint}, or choose another GPU", "device.no_mig")


def _parts(gpu: NvmlGpu) -> list[SelectedDevice]:
    """The GPU, or its instances if it is in MIG mode: CUDA programs then run only on the instances."""
    devices = []
    for part in gpu.mig_instances() if gpu.mig_mode() else [gpu]:
        name = part.uuid() or str(part.index)
        title = f"MIG instance {name[4:12]}" if name.startswith(MIG) else f"GPU {part.index}"
        devices.append(SelectedDevice(name, title, name, part))
    return devices


def _visible(nvml: Nvml, visible: str) -> Iterator[NvmlGpu]:
    """The GPUs in CUDA_VISIBLE_DEVICES. CUDA ignores what follows an invalid entry."""
    for name in visible.split(","):
        gpu = _find(nvml, name.strip())
        if gpu is None:
            return
        yield gpu


def _not_found(nvml: Nvml, problem: str, where: str) -> UserError:
    known = [f"{gpu.label} ({gpu.name() or 'unnamed'}, {gpu.uuid() or 'no UUID'})" for gpu in nvml.devices()]
    hint = f"choose one of {', '.join(known)}" if known else f"use cpu or auto: no GPU detected ({nvml.why or 'none'})"
    return UserError(problem, where, hint, code="device.not_found")
