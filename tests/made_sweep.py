"""The directories of a sweep that has not started."""

from __future__ import annotations

from pathlib import Path

from made_ladder import made_ladder

from engine.runs.ladder import ladder_dir
from engine.runs.ladder.ladder_dir import SweepDir
from engine.runs.ladder.sweep import Axis


def made_sweep(runs: Path) -> SweepDir:
    """A sweep of two ladders; a third ladder, finished with its runs, is in the same folder."""
    folder, _ = made_ladder(runs, seeds=[0])
    values = [4, 8]
    cells = [({"adapter.rank": value}, folder.plan()) for value in values]
    return ladder_dir.create_sweep(runs, [Axis(key="adapter.rank", values=values)], cells)
