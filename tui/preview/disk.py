"""Disk space: bytes needed for a run's checkpoints and model, and bytes free."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from engine.config.method_specs import method_spec
from tui.preview.memory_forecast import MethodForecast


def needed_disk(forecasts: Iterable[MethodForecast]) -> int | None:
    """Bytes for the checkpoints that are kept, the one being written, and the final model, by the formula.

    A checkpoint has the trained parameters (an adapter or all weights) and their optimizer state.
    """
    total = 0
    for one in forecasts:
        if one.estimate is None or one.config is None:
            return None
        parts = one.estimate.training.parts
        saved = parts["weights"] if method_spec(one.method).trains_weights else parts.get("adapters", 0)
        state = one.estimate.static - parts["weights"] - parts.get("adapters", 0)
        total += (one.config.train.keep_checkpoints + 1) * (saved + state) + saved
    return total


def free_disk(runs: Path) -> int:
    """Free bytes on the file system of the runs directory."""
    return shutil.disk_usage(nearest_existing(runs)).free


def nearest_existing(folder: Path) -> Path:
    """The folder itself, or its nearest parent that exists."""
    return next(candidate for candidate in (folder, *folder.parents) if candidate.exists())
