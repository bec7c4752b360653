"""Refuse to train on the CPU because torch cannot use the GPU: a driver that is too old, or a build without CUDA."""

from __future__ import annotations

import torch

from engine.config import schema
from engine.config.errors import UserError
from engine.hardware.devices import CPU, select_device
from engine.hardware.nvml import Nvml
from engine.methods.machine import Machine

DRIVERS = {11: 450, 12: 525, 13: 580}
"""CUDA major version -> the oldest driver branch that supports its minor versions (NVIDIA's CUDA release notes, table
"CUDA Toolkit and Minimum Required Driver Version for CUDA Minor Version Compatibility")."""


def refuse_unused_gpu(config: schema.Config, machine: Machine, nvml: Nvml | None = None) -> None:
    """Raise UserError if the run would use the CPU although its device is a GPU."""
    if machine.device != "cpu" or config.hardware.device == CPU:
        return
    nvml = nvml or Nvml()
    device = select_device("auto", nvml)  # the worker sees only its device
    if device.gpu is None:
        return
    name = device.gpu.name() or device.title
    why, do = unused_reason(nvml)
    otherwise = "or train on the CPU with --device cpu"
    raise UserError(f"torch cannot use {name}: {why}", device.title, f"{do}, {otherwise}", code="gpu.unusable")


def unused_reason(nvml: Nvml) -> tuple[str, str]:
    """Why torch cannot use the GPU, and what to do about it."""
    torch_version, cuda = torch.__version__, torch.version.cuda
    driver, supported = nvml.driver() or "of unknown version", nvml.cuda_version()
    index = "https://pytorch.org/get-started/locally"
    if cuda is None:
        newest = f" {supported[0]}.{supported[1]} or older" if supported else ""
        return f"torch {torch_version} is built without CUDA", f"install torch for CUDA{newest} ({index})"
    major = int(cuda.split(".")[0])
    if supported and supported[0] < major:
        needed = f"{DRIVERS[major]} or newer" if major in DRIVERS else f"that supports CUDA {cuda}"
        why = f"driver {driver} supports CUDA {supported[0]}.{supported[1]}, torch {torch_version} needs CUDA {cuda}"
        return why, f"install driver {needed}, or torch for CUDA {supported[0]} ({index})"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split())[:300], "check `nvidia-smi` and the driver"
    return f"torch {torch_version} finds no CUDA device", "check `nvidia-smi` and the driver"
