"""Capabilities of this machine: device, bf16 arithmetic, FlashAttention, paged optimizer state."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import torch
from transformers.utils import is_flash_attn_2_available

from engine.hardware.cpu import has_bf16


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
