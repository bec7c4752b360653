"""Earlier runs to lay behind the loss of the present one."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from engine.config.errors import UserError
from engine.runs import run_dir
from engine.runs.run_dir import RunDir
from tui.charts.series import Series
from tui.live.opening import HEAD, Opening

LOOKED_AT = 300
"""Newest runs among which those of the same data are sought."""
OFFERED = 9


@dataclass(frozen=True)
class EarlierRun:
    """A run and its loss."""

    name: str
    loss: Series
    number: int
    """Which of those on offer, from 1."""
    of: int


def candidates(runs: Path, name: str) -> list[RunDir]:
    """Past runs that made a step, those of the same data as the named run first, each group the newest first."""
    known = sorted(run_dir.iterate(runs), key=lambda run: run.name, reverse=True)[:LOOKED_AT]
    data = _data(RunDir(runs / name)) if name else None
    others = [run for run in known if run.name != name]
    alike = [run for run in others if data is not None and _data(run) == data]
    rest = (run for run in others if run not in alike)
    return list(islice((run for run in (*alike, *rest) if _has_steps(run)), OFFERED))


def read(runs: Path, name: str, after: str) -> EarlierRun | None:
    """The candidate that comes after the one called `after`, the first for ''; None behind the last."""
    offered = candidates(runs, name)
    names = [run.name for run in offered]
    number = names.index(after) + 1 if after in names else 0
    if number >= len(offered):
        return None
    run = offered[number]
    return EarlierRun(run.name, Opening(run.events_file).first().loss, number + 1, len(offered))


def _has_steps(run: RunDir) -> bool:
    try:
        with run.events_file.open("rb") as file:
            return b'{"type":"step"' in file.read(HEAD)
    except OSError:
        return False


def _data(run: RunDir) -> str | None:
    try:
        return run_dir.read_frozen(run).config.data.id
    except UserError:
        return None
