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
