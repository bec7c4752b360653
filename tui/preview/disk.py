"""Disk space: what the checkpoints and models of runs need, and what is free."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from engine.config.model_files import find_model
from engine.config.schema import Config
from engine.memory.formula.formula import needed_space
from engine.memory.formula.memory_budget import MemoryBudget
from engine.runs.home import nearest_existing


def disk_space(configs: Sequence[Config], runs: Path, budget: MemoryBudget | None) -> tuple[int | None, int]:
    """(needed, free) bytes of the runs directory; needed by the formula, None if the estimate of a run is not known."""
    free = shutil.disk_usage(nearest_existing(runs)).free
    if budget is None:
        return None, free
    needs = [needed_space(config, find_model(config.model).table, budget.device, budget.bf16) for config in configs]
    return None if None in needs else sum(filter(None, needs)), free
