"""Earlier runs whose curves can be drawn next to those of the watched run."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from engine.config.errors import UserError
from engine.config.files import open_regular
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir
from tui.live.opening import HEAD

MAX_SEARCHED = 300
"""Number of latest runs that are searched for runs on the same data."""
MAX_CANDIDATES = 9


def candidates(runs: Path, name: str) -> list[RunDir]:
    """Runs with at least one step: those on the same data as the named run first, each group latest first."""
    known = sorted(run_dir.iterate(runs), key=lambda run: run.name, reverse=True)[:MAX_SEARCHED]
    data = _data(RunDir(runs / name)) if name else None
    others = [run for run in known if run.name != name]
    same_data = [run for run in others if data is not None and _data(run) == data]
    rest = (run for run in others if run not in same_data)
    return list(islice((run for run in (*same_data, *rest) if _has_steps(run)), MAX_CANDIDATES))


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
