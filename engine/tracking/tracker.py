"""What an experiment tracker has to do, and which module does it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from engine.tracking.metric_rows import MetricRow


@dataclass(frozen=True)
class TrackedRun:
    """The run as a tracker names it."""

    name: str
    """Also its identifier: a later process continues the run of this name."""
    project: str
    group: str
    """The ladder that started it, '' for none."""
    config: dict[str, Any]
    """Settings by dotted key."""
    folder: Path
    """For the tracker's own files."""
    online: bool
    """Whether it may use the network."""


class Tracker(Protocol):
    """A module of this package has a function `open_run(run: TrackedRun) -> Tracker`."""

    def log(self, rows: Sequence[MetricRow], first: int) -> None:
        """Log rows; `first` is the index of the first one among all rows of the run, from 0."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Write everything to disk; `summary` are the run's results, empty for a run without any."""


def open_tracker(name: str, run: TrackedRun) -> Tracker:
    """Open the run in a tracker. Raises any error of the tracker's library."""
    module = importlib.import_module(f"engine.tracking.to_{name}")
    tracker: Tracker = module.open_run(run)
    return tracker
