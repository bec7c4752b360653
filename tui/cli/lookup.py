"""Find the run, ladder or sweep that a command line names, and what a user is told about the runs home."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from engine.runs.home import home_warnings, runs_home, tilde
from engine.runs.ladder.ladder_dir import LadderDir, SweepDir
from engine.runs.run.folder import Folder, current_directory, has_file
from engine.runs.run.run_dir import RunDir
from tui.cli.errors import show_notices
from tui.output.console import say


def run_ladder_or_sweep(runs: Path | None, name: str) -> RunDir | LadderDir | SweepDir:
    """As `run_or_ladder`; also a sweep, by its path or a part of its name that no run or ladder has."""
    folder = runs_home(runs)
    others = (*RunDir.iterate(folder), *LadderDir.iterate(folder))
    return SweepDir.find(folder, name) if _is_sweep(folder, name, others) else run_or_ladder(runs, name)


def ladder_or_sweep(runs: Path | None, name: str) -> LadderDir | SweepDir:
    """Find a ladder, else a sweep by its path or a part of its name that no ladder has."""
    folder = runs_home(runs)
    find = SweepDir.find if _is_sweep(folder, name, LadderDir.iterate(folder)) else LadderDir.find
    return find(folder, name)


def _is_sweep(folder: Path, name: str, others: Iterable[Folder]) -> bool:
    """Whether a sweep is meant: by its path, or by a name that none of `others` has; `last` is none."""
    sweeps = SweepDir.iterate(folder)
    by_name = name != "last" and not matches_any(others, name) and matches_any(sweeps, name)
    return by_name or has_file(Path(name), "sweep.toml")


def run_or_ladder(runs: Path | None, name: str) -> RunDir | LadderDir:
    """Find a run by name, else a ladder by name or path; `last` is the latest run, else the latest ladder."""
    folder = runs_home(runs)
    by_name = not matches_any(RunDir.iterate(folder), name) and matches_any(LadderDir.iterate(folder), name)
    find = LadderDir.find if by_name or has_file(Path(name), "ladder.toml") else RunDir.find
    return find(folder, name)


def matches_any(folders: Iterable[Folder], name: str) -> bool:
    """Whether the name of a folder contains `name`; `last` matches any folder."""
    return any(name in folder.name or name == "last" for folder in folders)


def home_for_launch(given: Path | None, json: bool) -> Path:
    """Return the runs home of a command that starts a run, ladder or sweep; print warnings about it."""
    folder = runs_home(given)
    show_notices(home_warnings(folder), json)
    return folder


def show_origin(folder: RunDir | LadderDir | SweepDir, quiet: bool = False) -> None:
    """Print the directory that a run, ladder or sweep was started from, where it is not the working directory."""
    directory = folder.started_in()
    if not quiet and directory and directory != current_directory():
        say(f"{folder.name}, started in {tilde(directory)}")
