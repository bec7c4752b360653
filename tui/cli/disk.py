"""Refuses a run or a ladder whose checkpoints and model do not fit on the disk, before anything is created."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.config.errors import UserError
from engine.config.model_files import find_model
from engine.config.quantities import size
from engine.config.schema import Config
from engine.memory.formula.memory_budget import local_budget
from engine.runs.home import CHOOSE_ANOTHER, check_home
from tui.preview.disk import free_disk, needed_disk
from tui.preview.memory_forecast import forecast


def refuse_small_disk(configs: Sequence[Config], runs: Path) -> None:
    """Raise UserError where the runs home is not writable or smaller than the formula's estimate for `configs`.

    A model that is not on this machine has no estimate and is not refused.
    """
    check_home(runs)
    budget = local_budget()
    need = needed_disk([forecast(config, find_model(config.model), budget) for config in configs])
    free = free_disk(runs)
    if need is not None and need > free:
        what = f"{size(free)} of disk space free, and checkpoints and model need about {size(need)} (estimated)"
        do = f"free some space, set train.keep_checkpoints = 1, or {CHOOSE_ANOTHER}"
        raise UserError(what, str(runs), do, "disk.too_small")
