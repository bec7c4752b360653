"""What a user is told about the runs home: a directory of runs to adopt, unreliable locks, where a run was started."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import platformdirs

from engine.config.errors import Notice, UserError
from engine.config.files import working_directory, write_atomically
from engine.runs.adopt import adoptable
from engine.runs.folder import current_directory
from engine.runs.home import home_warnings, runs_home, tilde
from engine.runs.ladder_dir import LadderDir
from engine.runs.run_dir import RunDir
from engine.runs.sweep_dir import SweepDir
from tui.cli.errors import show_notices
from tui.output import streams
from tui.output.console import say

MAX_HINTED = 200
"""Maximum number of directories for which it is remembered that the hint was shown."""


def home(given: Path | None, launch: bool = False, json: bool = False) -> Path:
    """The runs home of a command; prints warnings before a `launch`, and on a terminal the hint to adopt runs."""
    folder = runs_home(given)
    shown = home_warnings(folder) if launch else []
    shown += adoption_hints(folder) if given is None and streams.is_terminal() else []
    show_notices(shown, json)
    return folder


def notices(folder: Path, hints: bool) -> list[Notice]:
    """What the bench shows: warnings about the home and, with `hints`, the hint to adopt runs."""
    return [*home_warnings(folder), *(adoption_hints(folder) if hints else [])]


def adoption_hints(folder: Path) -> list[Notice]:
    """The hint to adopt `./runs` or `./ftbench_runs`: once for each directory."""
    with contextlib.suppress(UserError):
        directory = adoptable(working_directory(), folder)
        if directory and _is_first_time(directory):
            here = tilde(directory)
            text = (
                f"{here} contains runs that are not in the runs home {tilde(folder)}: "
                f"`ftbench runs --adopt {here}` moves them there, `--runs {here}` uses them where they are"
            )
            return [Notice("runs.adoptable", text)]
    return []


def _is_first_time(folder: Path) -> bool:
    """Whether the hint for a directory was not shown before; remembers that it is shown now."""
    file = Path(platformdirs.user_state_dir("ftbench")) / "adoption-hints"
    name = os.fsencode(folder)
    with contextlib.suppress(OSError):
        shown = file.read_bytes().split(b"\0") if file.exists() else []
        if name in shown:
            return False
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(file, b"\0".join([*shown, name][-MAX_HINTED:]))
    return True


def show_origin(found: RunDir | LadderDir | SweepDir, quiet: bool = False) -> None:
    """Print the directory that a run, ladder or sweep was started from, where it is not the working directory."""
    directory = found.started_in()
    if not quiet and directory and directory != current_directory():
        say(f"{found.name}, started in {tilde(directory)}")
