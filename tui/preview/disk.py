"""Disk space: bytes needed for a run's checkpoints and model, and bytes free."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from engine.memory.formula.formula import disk_bytes
from engine.runs.home import nearest_existing
from tui.preview.method_estimate import MethodEstimate


def needed_disk(estimates: Iterable[MethodEstimate]) -> int | None:
    """Bytes for checkpoints and models of all runs by the formula; None where one has no estimate."""
    total = 0
    for predicted in estimates:
        if predicted.estimate is None or predicted.config is None:
            return None
        total += disk_bytes(predicted.estimate, predicted.config)
    return total


def free_disk(runs: Path) -> int:
    """Free bytes on the file system of the runs directory."""
    return shutil.disk_usage(nearest_existing(runs)).free
