"""Find the run, ladder or sweep that a command line names, and what a user is told about the runs home."""

from __future__ import annotations

from pathlib import Path

from engine.runs.home import home_warnings, runs_home, tilde
from engine.runs.ladder import ladder_dir
from engine.runs.ladder.ladder_dir import LadderDir, SweepDir
from engine.runs.run import run_dir
from engine.runs.run.folder import current_directory, has_file
from engine.runs.run.run_dir import RunDir
from tui.cli.errors import show_notices
from tui.output.console import say


def run_ladder_or_sweep(runs: Path | None, name: str, json: bool = False) -> RunDir | LadderDir | SweepDir:
    """As `run_or_ladder`; also a sweep, by its path or a part of its name that no run or ladder has."""
    folder = home(runs, json=json)
    if has_file(Path(name), "sweep.toml") or (name != "last" and _only_a_sweep(folder, name)):
        return ladder_dir.find_sweep(folder, name)
    return run_or_ladder(runs, name, json)


def _only_a_sweep(folder: Path, name: str) -> bool:
    others = (*run_dir.iterate(folder), *ladder_dir.iterate(folder))
    has_other = any(name in sweep.name for sweep in others)
    return not has_other and any(name in sweep.name for sweep in ladder_dir.iterate_sweeps(folder))


def ladder_or_sweep(runs: Path | None, name: str, json: bool = False) -> LadderDir | SweepDir:
    """Find a ladder, else a sweep by its path or a part of its name that no ladder has."""
    folder = home(runs, json=json)
    has_ladder = any(name in ladder.name for ladder in ladder_dir.iterate(folder))
    sweeps = [] if has_ladder or name == "last" else ladder_dir.iterate_sweeps(folder)
    is_sweep = any(name in sweep.name for sweep in sweeps)
    find = ladder_dir.find_sweep if has_file(Path(name), "sweep.toml") or is_sweep else ladder_dir.find
    return find(folder, name)


def run_or_ladder(runs: Path | None, name: str, json: bool = False) -> RunDir | LadderDir:
    """Find a run by name, else a ladder by name or path; `last` is the latest run, else the latest ladder."""
    folder = home(runs, json=json)
    if has_file(Path(name), "ladder.toml"):
        return ladder_dir.find(folder, name)
    matches_run = any(name in run.name or name == "last" for run in run_dir.iterate(folder))
    matches_ladder = any(name in ladder.name or name == "last" for ladder in ladder_dir.iterate(folder))
    find = ladder_dir.find if matches_ladder and not matches_run else run_dir.find
    return find(folder, name)


def home(given: Path | None, launch: bool = False, json: bool = False) -> Path:
    """The runs home of a command; prints warnings about it before a `launch`."""
    folder = runs_home(given)
    if launch:
        show_notices(home_warnings(folder), json)
    return folder


def show_origin(folder: RunDir | LadderDir | SweepDir, quiet: bool = False) -> None:
    """Print the directory that a run, ladder or sweep was started from, where it is not the working directory."""
    directory = folder.started_in()
    if not quiet and directory and directory != current_directory():
        say(f"{folder.name}, started in {tilde(directory)}")
