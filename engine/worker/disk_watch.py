"""Warn while a run trains if the disk gets too full for its next checkpoint."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from engine.config.quantities import size

CHECK_SECONDS = 30.0
LOG_BYTES = 64 << 20
"""Reserved for events, predictions and result."""


@dataclass
class DiskWatch:
    """Compares free space with the size of checkpoints, at most every CHECK_SECONDS; warns once per worker."""

    folder: Path
    warn: Callable[[str, str], None]
    checkpoint: int = 0
    """Bytes of the latest checkpoint; 0 before the first, whose space was checked before training."""
    warned: bool = False
    checked: float = field(default_factory=time.monotonic)

    def saved(self, bytes_: int) -> None:
        """Take note of a checkpoint, and check at once."""
        self.checkpoint = bytes_
        self._check()

    def step(self) -> None:
        """Check if it is time to."""
        if time.monotonic() - self.checked >= CHECK_SECONDS:
            self._check()

    def _check(self) -> None:
        self.checked = time.monotonic()
        if self.warned:
            return
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError:  # deleted or unmounted: writing the next event reports it
            return
        needed = 2 * self.checkpoint + LOG_BYTES  # the next checkpoint and the model
        if free < needed:
            self.warned = True
            self.warn(
                "disk.low",
                f"low disk space: {size(free)} left, and the next checkpoint and the model need about {size(needed)}; "
                "free some (`ftbench clean` shows what can be removed), or the run stops when the disk is full",
            )
