"""Find the run or ladder that a command line names."""

from __future__ import annotations

from pathlib import Path

from engine.runs import ladder_dir, run_dir
from engine.runs.folder import has_file
from engine.runs.ladder_dir import LadderDir
from engine.runs.run_dir import RunDir
from tui.cli.home_notes import home


def run_or_ladder(runs: Path | None, name: str, json: bool = False) -> RunDir | LadderDir:
    """Find a run by name, else a ladder by name or path; `last` is the latest run, else the latest ladder."""
    folder = home(runs, json=json)
    if has_file(Path(name), "ladder.toml"):
        return ladder_dir.find(folder, name)
    matches_run = any(name in run.name or name == "last" for run in run_dir.iterate(folder))
    matches_ladder = any(name in ladder.name or name == "last" for ladder in ladder_dir.iterate(folder))
    find = ladder_dir.find if matches_ladder and not matches_run else run_dir.find
    return find(folder, name)
