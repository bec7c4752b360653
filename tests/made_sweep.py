"""The directories of a sweep that has not started."""

from __future__ import annotations

from pathlib import Path

from made_ladder import made_ladder

from engine.runs.ladder import sweep_dir
from engine.runs.ladder.sweep import Axis
from engine.runs.ladder.sweep_dir import SweepDir


def made_sweep(runs: Path) -> SweepDir:
    """A sweep of two ladders; a third ladder, finished with its runs, is in the same folder."""
    folder, _ = made_ladder(runs, seeds=[0])
    values = [4, 8]
    cells = [({"adapter.rank": value}, folder.plan()) for value in values]
    return sweep_dir.create(runs, [Axis(key="adapter.rank", values=values)], cells)
