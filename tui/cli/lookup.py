"""Find the run or ladder that a command line names, and what a user is told about the runs home."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from engine.runs.home import home_warnings, runs_home, tilde
from engine.runs.ladder.ladder_dir import ComparisonDir, LadderDir, comparison_kinds
from engine.runs.run.folder import Folder, current_directory, has_file, pick
from engine.runs.run.run_dir import RunDir
from tui.cli.errors import show_notices
from tui.output.console import say

F = TypeVar("F", bound=Folder)
RUN_OR_LADDER: tuple[type[RunDir | LadderDir], ...] = (RunDir, LadderDir)


def kinds_of_folders() -> tuple[type[RunDir | ComparisonDir], ...]:
    """Runs, ladders, and what extensions make of ladders."""
    return (RunDir, *comparison_kinds())


def find_named(runs: Path | None, name: str, kinds: Sequence[type[F]]) -> F:
    """Find a directory of one of these kinds by its path, else by its name or a part of it.

    A name is looked for only in the first kind that has a match; `last` is what was started last, of all kinds
    (`pick`). Raises UserError if no name or several names match.
    """
    home = runs_home(runs)
    by_path = (kind for kind in kinds if has_file(Path(name), f"{kind.KIND}.toml"))
    by_name = (kind for kind in kinds if matches_any(kind.iterate(home), name))
    found = next(by_path, None)
    if found is None and name == "last":
        folders = (folder for kind in kinds for folder in kind.iterate(home))
        return pick(folders, name, kinds[0].KIND, home, kinds[0].HOW_TO_LIST)
    return (found or next(by_name, kinds[0])).find(home, name)


def matches_any(folders: Iterable[Folder], name: str) -> bool:
    """Whether the name of a folder contains `name`; `last` matches any folder."""
    return any(name in folder.name or name == "last" for folder in folders)


def home_for_launch(given: Path | None, json: bool) -> Path:
    """Return the runs home of a command that starts a run or ladder; print warnings about it."""
    folder = runs_home(given)
    show_notices(home_warnings(folder), json)
    return folder


def show_origin(folder: RunDir | ComparisonDir, quiet: bool = False) -> None:
    """Print the directory that a run or ladder was started from, where it is not the working directory."""
    directory = folder.started_in()
    if not quiet and directory and directory != current_directory():
        say(f"{folder.name}, started in {tilde(directory)}")
