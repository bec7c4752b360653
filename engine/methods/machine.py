"""What this machine can do for a run: device, arithmetic, paging."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import torch
from transformers.utils import is_flash_attn_2_available

from engine.hardware.cpu import has_bf16


@dataclass(frozen=True)
class Machine:
    """The device a run trains on and what it is good at."""

    device: Literal["cuda", "cpu"]
    name: str
    bf16: bool
    """bfloat16 arithmetic in hardware: Ampere cards and newer, CPUs with AVX512-BF16 or AMX."""
    flash_attention: bool

    @property
    def paging(self) -> bool:
        """Optimizer state that can move to host memory under pressure needs CUDA unified memory."""
        return self.device == "cuda"


def this_machine() -> Machine:
    """Look once; one run uses one device, the first that CUDA_VISIBLE_DEVICES leaves."""
    if torch.cuda.is_available():
        # Emulation would say yes on any card (and take its memory to find out): bf16 on a T4 or V100 is only slow.
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        # FlashAttention 2 wants Ampere too.
        return Machine("cuda", torch.cuda.get_device_name(0), bf16, bf16 and is_flash_attn_2_available())
    return Machine("cpu", f"{os.cpu_count()} CPU cores", has_bf16(), False)
