"""Select the device of a run: a GPU by index, UUID or MIG UUID, or the CPU. Lock, plan and worker use the same one.

Indices are those of nvidia-smi (PCI bus order), also in CUDA_VISIBLE_DEVICES: the worker sets CUDA_DEVICE_ORDER,
because CUDA by itself counts from the fastest GPU. The worker sees only the selected GPU, by its UUID.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from engine.config.errors import UserError
from engine.hardware.nvml import Nvml, NvmlGpu

CPU = "cpu"
KEY = "hardware.device"
ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Settings of torch's allocator, present and former name. Expandable segments: batches of other lengths fragment the
pool less (QLoRA of an 8B model reserves 16.4 GiB without and 10.8 GiB with them, torchtune pull request 1185).

TORCH_CUDNN_SDPA_DEPRIORITIZED: torch prefers cuDNN's attention on Hopper and Blackwell, which builds a plan for every
new shape, and every batch has another one.
"""
DEVICE_FILES = (Path("/dev/nvidia0"), Path("/dev/nvidiactl"))


@dataclass(frozen=True)
class SelectedDevice:
    """One device."""

    lock: str
    """Name of its lock: the UUID of a GPU or MIG instance, its index if NVML does not report one, or `cpu`."""
    title: str
    """`the CPU`, `GPU 0`, `MIG instance 5c1b2a3d`."""
    visible: str | None
    """CUDA_VISIBLE_DEVICES for a process that uses it; None leaves the variable as it is."""
    gpu: NvmlGpu | None = None

    def apply(self) -> None:
        """Make it the only device of this process, and set defaults of torch; call before torch is imported."""
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        if not any(name in os.environ for name in ALLOCATOR_SETTINGS):
            os.environ[ALLOCATOR_SETTINGS[0]] = "expandable_segments:True"
        os.environ.setdefault("TORCH_CUDNN_SDPA_DEPRIORITIZED", "1")
        if self.visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.visible


THE_CPU = SelectedDevice(CPU, "the CPU", "")


def select_device(setting: int | str = "auto", nvml: Nvml | None = None) -> SelectedDevice:
    """The device of a setting: `auto` (the first in CUDA_VISIBLE_DEVICES, else the first GPU, else the CPU), `cpu`, an
    index, or the UUID of a GPU or MIG instance or its beginning.

    Raises UserError if there is no such device, or if CUDA_VISIBLE_DEVICES hides it.
    """
    if setting == CPU:
        return THE_CPU
    nvml = nvml or Nvml()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting == "auto":
        return _first(nvml) if visible is None else _first_visible(nvml, visible)
    gpu = _find(nvml, str(setting))
    if gpu is None:
        raise _not_found(nvml, f"no GPU {setting}", KEY)
    device = _selected(gpu)
    if visible is not None and device.lock not in _locks(nvml, visible):
        what, do = f"CUDA_VISIBLE_DEVICES={visible} hides {device.title}", "unset it or choose a GPU that it contains"
        raise UserError(what, KEY, do, code="device.hidden")
    return device


def _first(nvml: Nvml) -> SelectedDevice:
    """The first GPU. GPUs that NVML cannot access are skipped: torch cannot use them either."""
    gpu = next((gpu for gpu in nvml.gpus() if gpu.handle is not None), None)
    if gpu is not None:
        return _selected(gpu)
    if any(file.exists() for file in DEVICE_FILES):  # a GPU without NVML, or one that does not respond
        return SelectedDevice("0", "GPU 0", None)
    return THE_CPU


def _first_visible(nvml: Nvml, visible: str) -> SelectedDevice:
    first = visible.split(",")[0].strip()
    if first in ("", "-1"):  # hides all GPUs
        return THE_CPU
    gpu = _find(nvml, first)
    if gpu is not None:
        return _selected(gpu)
    if nvml.gpus():
        raise _not_found(nvml, f"CUDA_VISIBLE_DEVICES={visible} names no GPU", "")
    return SelectedDevice(first, f"GPU {first}", None) if any(file.exists() for file in DEVICE_FILES) else THE_CPU


def _find(nvml: Nvml, name: str) -> NvmlGpu | None:
    if name.isdecimal():
        return nvml.gpu(int(name))
    return nvml.named(name) if name.startswith(("GPU-", "MIG-")) else None


def _selected(gpu: NvmlGpu) -> SelectedDevice:
    """A GPU in MIG mode runs CUDA programs only on its instances: CUDA would use the first one."""
    if gpu.mig_mode():
        instances = gpu.mig_instances()
        if not instances:
            what = f"GPU {gpu.index} is in MIG mode and has no instance"
            raise UserError(what, KEY, "create one with `nvidia-smi mig -cgi`, or choose another GPU", "device.no_mig")
        gpu = instances[0]
    uuid = gpu.uuid()
    if uuid is None:
        return SelectedDevice(str(gpu.index), f"GPU {gpu.index}", str(gpu.index), gpu)
    short = uuid.partition("-")[2][:8]
    title = f"MIG instance {short}" if uuid.startswith("MIG-") else f"GPU {gpu.index}"
    return SelectedDevice(uuid, title, uuid, gpu)


def _locks(nvml: Nvml, visible: str) -> set[str]:
    """Locks of all devices in CUDA_VISIBLE_DEVICES. CUDA ignores what follows an invalid entry."""
    found: set[str] = set()
    for name in visible.split(","):
        gpu = _find(nvml, name.strip())
        if gpu is None:
            break
        found |= {_selected(one).lock for one in (gpu.mig_instances() or [gpu])}
    return found


def _not_found(nvml: Nvml, what: str, where: str) -> UserError:
    known = [f"{gpu.index} ({gpu.name() or 'unnamed'}, {gpu.uuid() or 'no UUID'})" for gpu in nvml.gpus()]
    do = f"choose one of {', '.join(known)}" if known else f"use cpu or auto: no GPU detected ({nvml.why or 'none'})"
    return UserError(what, where, do, code="device.not_found")
