"""This machine: device, bf16 arithmetic, FlashAttention, versions, why torch cannot use a GPU, whose kernels a step
uses, and which errors mean that memory is exhausted.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from transformers.utils import is_flash_attn_2_available

from engine import __version__
from engine.config import schema
from engine.config.errors import UserError
from engine.config.method_specs import uses_autocast
from engine.hardware.box import driver_problem
from engine.hardware.cpu import has_bf16
from engine.hardware.devices import CPU, select_device
from engine.hardware.nvml import Nvml
from engine.methods import method

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "tokenizers", "safetensors")


@dataclass(frozen=True)
class Machine:
    """The device of a run and its capabilities."""

    device: Literal["cuda", "cpu"]
    name: str
    bf16: bool
    """bfloat16 arithmetic in hardware: Ampere GPUs and newer, CPUs with AVX512-BF16 or AMX."""
    flash_attention: bool
    loads_to_host: bool = False
    """Whether weights are loaded into host memory, to be sharded across several GPUs."""

    @property
    def paging(self) -> bool:
        """Whether optimizer state can be paged to host memory, which needs CUDA unified memory."""
        return self.device == "cuda"


def this_machine() -> Machine:
    """Detect the machine. A process uses one device: the first in CUDA_VISIBLE_DEVICES."""
    if torch.cuda.is_available():
        # Emulated bf16 is reported for every GPU (and the check allocates memory on it), but is slow on a T4 or V100.
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        # FlashAttention 2 requires Ampere too.
        return Machine("cuda", torch.cuda.get_device_name(0), bf16, bf16 and is_flash_attn_2_available())
    return Machine("cpu", f"{os.cpu_count()} CPU cores", has_bf16(), False)


def versions() -> dict[str, str]:
    """Versions of Python, ftbench and the libraries that affect results."""
    installed = {"python": platform.python_version(), "ftbench": __version__}
    for library in LIBRARIES:
        try:
            installed[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            installed[library] = "absent"
    return installed


def machine_facts(machine: Machine) -> dict[str, Any]:
    """Device, CPU, threads, memory, operating system and CUDA version."""
    cpu = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    facts: dict[str, Any] = {
        "device": machine.name,
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "memory": psutil.virtual_memory().total,
        "system": platform.platform(),
    }
    if machine.device == "cuda":
        facts["gpu_memory"] = torch.cuda.get_device_properties(0).total_memory
        facts["cuda"] = torch.version.cuda
    return facts


def compute_dtype(config: schema.Config, machine: Machine) -> torch.dtype:
    """Data type in which layers multiply and attention reads queries and keys."""
    if uses_autocast(config.method, config.train.precision):
        return torch.bfloat16
    dtype: torch.dtype = method(config.method).weight_dtype(config, machine)
    return dtype


def refuse_unused_gpu(config: schema.Config, machine: Machine) -> None:
    """Raise UserError if the run would use the CPU although its device is a GPU."""
    if machine.device != "cpu" or config.hardware.device == CPU:
        return
    nvml = Nvml()
    device = select_device("auto", nvml)  # the worker sees only its device
    if device.gpu is None:
        return
    name, hint = device.gpu.name() or device.title, "check `nvidia-smi` and the driver"
    if problem := driver_problem(torch.__version__, torch.version.cuda, nvml):
        why, hint = problem
    else:
        try:
            torch.cuda.init()
            why = f"torch {torch.__version__} finds no CUDA device"
        except (RuntimeError, AssertionError) as error:
            why = " ".join(str(error).split())[:300]
    hint += ", or train on the CPU with --device cpu"
    raise UserError(f"torch cannot use {name}: {why}", device.title, hint, code="gpu.unusable")


NVML_ASSERTION = "NVML_SUCCESS == r"
"""torch's allocator asks NVML who uses the GPU while it composes the message of its out-of-memory error. Where NVML
refuses to answer, on MIG instances and in restricted containers, an assertion with this text is raised in its place
(CUDACachingAllocator.cpp, reportProcessMemoryInfo)."""
OUT_OF_MEMORY = (
    "out of memory",
    "DefaultCPUAllocator",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    NVML_ASSERTION,
)
"""Parts of the messages of libraries' out-of-memory errors."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is an out-of-memory error of CUDA, cuBLAS, cuDNN, the CPU allocator or Python."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign.lower() in text for sign in OUT_OF_MEMORY)


def copy_to(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """A tensor of the host on a device. The host does not wait for a copy to a GPU, because its source is pinned."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


CUBLAS_WORKSPACES = ":4096:8"
"""Buffers of 4 MiB, and their number, with which cuBLAS is deterministic: 32 MiB for each handle."""


def compute_deterministically(machine: Machine) -> None:
    """Make computation on a GPU repeatable, as far as its libraries can; call it before the first matrix product.

    cuBLAS reads its workspaces when its first handle is made, FlashAttention of transformers an environment variable.
    torch warns, in the run's log, of each operation that has no deterministic algorithm, and computes it: some are
    deterministic as they are used here, such as a scatter to different places.
    """
    if machine.device != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACES)
    os.environ["FLASH_ATTENTION_DETERMINISTIC"] = "1"
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.utils.deterministic.fill_uninitialized_memory = False  # it finds errors, and takes time


def clear_cuda_error() -> None:
    """Clear CUDA's last error, which a call that failed outside torch leaves set, such as pinning of host memory: the
    next check of a kernel would take it for its own, and where that is bitsandbytes' it would end the process.

    torch does not expose `cudaGetLastError`. A kernel launch of its own reads and clears the error, and raises it.
    """
    if torch.cuda.is_available():
        with contextlib.suppress(RuntimeError):
            torch.zeros(1, device="cuda")


_predicted: str | None = None


@contextmanager
def kernels_of(device: str) -> Iterator[None]:
    """Context in which fake tensors on the CPU take the path of this device."""
    global _predicted
    before, _predicted = _predicted, device
    try:
        yield
    finally:
        _predicted = before


def kernel_device(tensor: torch.Tensor) -> str:
    """Device type whose kernels compute with this tensor."""
    return _predicted or tensor.device.type
