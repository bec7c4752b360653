"""The processes that log a run to experiment trackers, and their files in the run's directory.

A tracker's process, `python -m engine.extensions.trackers RUN TRACKER`, one per run and tracker, reads `events.jsonl`
like every watcher: a tracker that hangs or fails affects neither the run nor other trackers.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine.config.errors import RunFailed, UserError
from engine.config.files import read_regular, write_atomically
from engine.config.schema import Config, section_of
from engine.executors import local
from engine.extensions.trackers.settings import Track, TrackerName
from engine.runs.queue import locks
from engine.runs.run.run_dir import RunDir, read_frozen

TRACKERS = {
    "trackio": "trackio show --project {project}",
    "tensorboard": "tensorboard --logdir {home}",
    "wandb": "wandb sync --append {folder}/wandb/offline-run-*",
}
"""Tracker, as in `track.to` and as the optional dependency `ftbench[NAME]` -> the command that shows what was logged;
{project}, {home} (of runs) and {folder} (of the run's tracker files) are replaced."""
WITH_PROJECTS = ("trackio", "wandb")
"""Trackers that keep the runs of each `track.project` apart."""


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def check_trackers(names: Sequence[str], where: str = "track.to") -> None:
    """Raise UserError for an unknown tracker, or one whose package is not installed."""
    for name in names:
        if name not in TRACKERS:
            hint = f"use {', '.join(TRACKERS)}"
            raise UserError(f"unknown tracker {name!r}", where, hint, code="track.unknown")
        if not is_installed(name):
            hint = f"`pip install 'ftbench[{name}]'`, or remove it"
            raise UserError(f"{name} is not installed", where, hint, code="track.not_installed")


class TrackerState(msgspec.Struct, kw_only=True):
    """The content of `tracking/TRACKER.json`: what the tracker has received."""

    rows: int = 0
    """Rows logged so far to `project`; a later process continues after them."""
    error: str = ""
    """Why its latest process failed."""
    project: str = ""
    """The project of the latest process; '' before the first one."""
    rows_elsewhere: dict[str, int] = {}
    """Rows logged so far to other projects, by their name."""


@dataclass(frozen=True)
class TrackerFiles:
    """The files of one tracker in a run's directory."""

    run: RunDir
    tracker: str

    @property
    def folder(self) -> Path:
        return self.run.path / "tracking"

    @property
    def lock_file(self) -> Path:
        return self.folder / f"{self.tracker}.lock"

    @property
    def state_file(self) -> Path:
        return self.folder / f"{self.tracker}.json"

    @property
    def log_file(self) -> Path:
        """What the tracker's library printed."""
        return self.folder / f"{self.tracker}.log"

    def state(self) -> TrackerState:
        """What the tracker has received; nothing where the file is missing or damaged."""
        with contextlib.suppress(OSError, ValueError, RecursionError):
            return msgspec.json.decode(read_regular(self.state_file), type=TrackerState)
        return TrackerState()

    def state_for(self, project: str) -> TrackerState:
        """The state with which a process starts to log to `project`: the rows logged there, and no error."""
        state = self.state()
        if self.tracker not in WITH_PROJECTS:
            return TrackerState(rows=state.rows, project=project)
        logged = {**state.rows_elsewhere, state.project: state.rows} if state.rows else dict(state.rows_elsewhere)
        return TrackerState(rows=logged.pop(project, 0), project=project, rows_elsewhere=logged)

    def write(self, state: TrackerState) -> None:
        write_atomically(self.state_file, msgspec.json.encode(state))

    def view_command(self, project: str) -> str:
        home, folder = shlex.quote(str(self.run.path.parent)), shlex.quote(str(self.folder))
        return TRACKERS[self.tracker].format(project=shlex.quote(project), home=home, folder=folder)


def check(config: Config) -> None:
    """Raise UserError if a tracker of `track.to` cannot be used."""
    check_trackers(section_of(config, Track).to)


def started(run: RunDir) -> None:
    """Start a process for each tracker of `track.to`. Call it once the run's worker holds its lock.

    What prevents one is recorded for `problems`: the run continues without it.
    """
    for name in section_of(read_frozen(run).config, Track).to:
        try:
            start_tracker(run, name)
        except (OSError, RunFailed) as error:
            files = TrackerFiles(run, name)
            state = files.state()
            state.error = f"cannot start its process: {error}"
            with contextlib.suppress(OSError):  # the disk is full, which the run itself reports
                files.write(state)


def start_tracker(
    run: RunDir, name: TrackerName, project: str | None = None, online: bool | None = None
) -> local.StartedProcess:
    """Start the process of one tracker in a new session; project and mode are the run's unless given."""
    files = TrackerFiles(run, name)
    run.check_files()
    locks.lock_folder()  # refused before a folder is created
    files.folder.mkdir(mode=0o700, exist_ok=True)
    options = [] if project is None else [f"--project={project}"]
    options += [] if online is None else ["--online" if online else "--offline"]
    return local.start("engine.extensions.trackers", run.path, files.log_file, name, *options)


def problems(run: RunDir) -> list[str]:
    """Errors of the run's trackers: `wandb: API key missing; see …/wandb.log`."""
    texts = []
    for name in TRACKERS:
        files = TrackerFiles(run, name)
        if files.state_file.exists() and (error := files.state().error):
            texts.append(f"{name}: {error}; see {os.fspath(files.log_file)}")
    return texts
