"""What a user is told about the runs home: unreliable locks, and where a run was started."""

from __future__ import annotations

from pathlib import Path

from engine.runs.home import home_warnings, runs_home, tilde
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.sweep_dir import SweepDir
from engine.runs.run.folder import current_directory
from engine.runs.run.run_dir import RunDir
from tui.cli.errors import show_notices
from tui.output.console import say


def home(given: Path | None, launch: bool = False, json: bool = False) -> Path:
    """The runs home of a command; prints warnings about it before a `launch`."""
    folder = runs_home(given)
    if launch:
        show_notices(home_warnings(folder), json)
    return folder


def show_origin(found: RunDir | LadderDir | SweepDir, quiet: bool = False) -> None:
    """Print the directory that a run, ladder or sweep was started from, where it is not the working directory."""
    directory = found.started_in()
    if not quiet and directory and directory != current_directory():
        say(f"{found.name}, started in {tilde(directory)}")
