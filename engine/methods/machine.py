"""What this machine can do for a run: device, arithmetic, paging."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import Literal

import torch

from engine.contract.processor import has_bf16


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
        flash = importlib.util.find_spec("flash_attn") is not None
        # Emulation would say yes on any card (and take its memory to find out): bf16 on a T4 or V100 is only slow.
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return Machine("cuda", torch.cuda.get_device_name(0), bf16, flash)
    return Machine("cpu", f"{os.cpu_count()} CPU cores", has_bf16(), False)
