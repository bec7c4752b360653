"""Disk space that the checkpoints and the saved model of a run need, and the refusal of a disk that has less.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.config import schema
from engine.config.errors import Notice, UserError
from engine.config.preset import with_settings
from engine.config.quantities import size
from engine.memory.formula.checkpoint_size import checkpoint_bytes, saved_bytes
from engine.memory.formula.estimate import Device, MemoryEstimate, StepShape
from engine.memory.formula.formula import formula
from engine.runs.home import CHOOSE_ANOTHER, tilde

LOW_BYTES = 2 << 30
"""Free disk space below which a launch warns: exports, caches and logs need some."""


def disk_bytes(estimate: MemoryEstimate, config: schema.Config) -> int:
    """Bytes of `train.keep_checkpoints` checkpoints, the best one, the one being written, and the saved model."""
    count = config.train.keep_checkpoints + (config.train.select == "best") + 1
    return count * checkpoint_bytes(estimate, config) + saved_bytes(estimate, config)


def needed_space(
    config: schema.Config, model_config: Mapping[str, Any] | None, device: Device, bf16: bool
) -> int | None:
    """`disk_bytes` by the formula; None for a model whose `config.json` (`model_config`) is unknown or unsupported."""
    if model_config is None:
        return None
    config = with_settings(config, {"train.parallelism": "ddp"})  # all parts of a checkpoint are on this disk
    rows = StepShape(count=config.train.batch, length=config.train.max_length, answer=1)  # does not matter here
    try:
        return disk_bytes(formula(config, model_config, device, rows, bf16), config)
    except UserError:
        return None


def low_disk_notice(needed: int | None, free: int, runs: Path) -> Notice | None:
    """The warning for a disk that checkpoints and models leave little of, None if enough is left."""
    left = free - (needed or 0)
    if left >= LOW_BYTES:
        return None
    after = f" after checkpoints and models ({size(needed)}, estimated)" if needed else ""
    text = (
        f"low disk space: {size(max(0, left))} left{after} in {tilde(runs)}; `ftbench clean` shows what can be removed"
    )
    return Notice("disk.low", text)


def small_disk_error(needed: int | None, free: int, runs: Path) -> UserError | None:
    """The error for a disk with less free space than needed, None if it has enough or the need is unknown."""
    if needed is None or needed <= free:
        return None
    what = f"{size(free)} of disk space free, and checkpoints and model need about {size(needed)} (estimated)"
    do = f"free some space, set train.keep_checkpoints = 1, or {CHOOSE_ANOTHER}"
    return UserError(what, str(runs), do, "disk.too_small")
