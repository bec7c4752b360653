"""GPUs of the price list by size, for tests that plan for them."""

from __future__ import annotations

import re

from engine.config import gpu_prices
from engine.memory.formula.memory_budget import MemoryBudget, listed_budget


def sizes() -> list[int]:
    """The sizes of the listed GPUs in GB, as in their names."""
    return sorted({_size(gpu) for gpu in gpu_prices.list_gpus()})


def smallest_of(size: int) -> MemoryBudget:
    """The listed GPU of this size whose driver reports the least memory."""
    return listed_budget(min((gpu.memory, gpu.name) for gpu in gpu_prices.list_gpus() if _size(gpu) == size)[1])


def _size(gpu: gpu_prices.Gpu) -> int:
    return int(re.findall(r"(\d+)GB", gpu.name)[0])


FITS_BY_DRY_RUN = [
    ("smollm3-3b", "full", 16),
    ("llama-3.2-3b", "full", 16),
    ("granite-4.0-micro", "full", 16),
]
"""(catalog model, method, GPU size) that the formula, with its larger margin, calls tight and that fit."""
TIGHT_BY_DRY_RUN = [
    ("ministral-3-3b", "full", 16),
    ("phi-4-mini", "full", 16),
    ("qwen3-14b", "full", 48),
    ("gemma-4-12b", "full", 48),
    ("olmo-3-7b", "lora", 16),
    ("qwen3-32b", "qlora", 24),
]
"""The same, which are tight by the dry run too."""
