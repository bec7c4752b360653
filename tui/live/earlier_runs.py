"""Earlier runs whose loss can be overlaid on the chart of the watched run."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from engine.config.errors import UserError
from engine.config.files import open_regular
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir
from tui.charts.series import Series
from tui.live.opening import HEAD, EventLoader

MAX_SEARCHED = 300
"""Number of latest runs that are searched for runs on the same data."""
MAX_CANDIDATES = 9


@dataclass(frozen=True)
class EarlierRun:
    """An earlier run and its training loss."""

    name: str
    loss: Series
    number: int
    """Position among the candidates, from 1."""
    of: int


def candidates(runs: Path, name: str) -> list[RunDir]:
    """Runs with at least one step: those on the same data as the named run first, each group latest first."""
    known = sorted(run_dir.iterate(runs), key=lambda run: run.name, reverse=True)[:MAX_SEARCHED]
    data = _data(RunDir(runs / name)) if name else None
    others = [run for run in known if run.name != name]
    same_data = [run for run in others if data is not None and _data(run) == data]
    rest = (run for run in others if run not in same_data)
    return list(islice((run for run in (*same_data, *rest) if _has_steps(run)), MAX_CANDIDATES))


def read(runs: Path, name: str, after: str) -> EarlierRun | None:
    """The candidate that follows the one named `after`; the first for '', None after the last."""
    earlier = candidates(runs, name)
    names = [run.name for run in earlier]
    number = names.index(after) + 1 if after in names else 0
    if number >= len(earlier):
        return None
    run = earlier[number]
    return EarlierRun(run.name, EventLoader(run.events_file).first().loss, number + 1, len(earlier))


def _has_steps(run: RunDir) -> bool:
    try:
        with open_regular(run.events_file) as file:
            return b'{"type":"step"' in file.read(HEAD)
    except OSError:
        return False


def _data(run: RunDir) -> str | None:
    try:
        return run_dir.read_frozen(run).config.data.id
    except UserError:
        return None
