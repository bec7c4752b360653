"""Bytes of disk: what a run's checkpoints and model need, and what is free for them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from engine.config.method_specs import method_spec
from tui.preview.memory_forecast import MethodForecast


def needed_disk(found: Iterable[MethodForecast]) -> int | None:
    """Bytes: the checkpoints that are kept and the one in the making, and the model; by the formula.

    Of an adapter the adapter and its optimizer state, of full fine-tuning the weights and theirs.
    """
    total = 0
    for one in found:
        if one.estimate is None or one.config is None:
            return None
        parts = one.estimate.training.parts
        saved = parts["weights"] if method_spec(one.method).trains_weights else parts.get("adapters", 0)
        state = one.estimate.static - parts["weights"] - parts.get("adapters", 0)
        total += (one.config.train.keep_checkpoints + 1) * (saved + state) + saved
    return total


def free_disk(runs: Path) -> int:
    """Bytes free where the runs will lie."""
    there = next(folder for folder in (runs, *runs.parents) if folder.exists())
    return shutil.disk_usage(there).free
