"""Find and remove leftovers of killed processes: locks, queue tickets, temporary files, incomplete directories.

Temporary files and folders are named as in TEMPORARY_NAMES. In a run's or ladder's directory they are leftovers once no
process holds that directory's lock; elsewhere, once nothing in them has changed for QUIET_SECONDS. They are never
leftovers while a process has them open or locked, as `files.temporary_folder` does.

A resumed run, a repeated export and the next run on a device remove their own leftovers. This module is for what is
never resumed: a worker that was killed while it saved an 8B model leaves up to 16 GB that no other subcommand names.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from engine.config.files import SCRATCH_NAME, TEMPORARY_NAMES, read_small, remove_tree
from engine.config.home import cache_folder, config_file
from engine.runs.ladder import ladder_dir, sweep_dir
from engine.runs.queue import locks
from engine.runs.run import exports, run_dir
from engine.runs.run.folder import Folder
from engine.runs.run.run_dir import RunDir

QUIET_SECONDS = 60.0
DEPTH = 3
"""Folders below a run's or ladder's directory that are searched."""
CACHE_DEPTH = 2
"""The same for ftbench's cache."""
DIRECTORY_NAME = re.compile(r"\d{8}-\d{6}-.+-[0-9a-f]{4}")
"""Names that `folder.make` creates."""
COPY_NAME = re.compile(rf"\.{DIRECTORY_NAME.pattern}\.tmp")
"""Names of unfinished ones. Other hidden files next to runs are the user's."""


@dataclass(frozen=True)
class Leftover:
    """One file or folder to remove."""

    kind: str
    path: Path
    why: str
    bytes: int
    owner: Folder | None = None
    """The run or ladder whose directory contains it; its lock is held during removal."""


def find(runs: Path) -> list[Leftover]:
    """All leftovers among the locks, in this runs folder, and in ftbench's cache and settings folders.

    Raises UserError if the lock folder or the runs cannot be read.
    """
    opened = open_paths()
    return [*_locks(), *_in_runs(runs, opened), *_half_made(runs, opened), *_elsewhere(opened)]


def remove(leftover: Leftover) -> bool:
    """Remove a leftover; False if a process uses it by now. Raises OSError if it cannot be removed."""
    if leftover.kind in ("lock", "ticket"):
        return locks.remove_stale(leftover.path)
    if leftover.owner is not None:
        with leftover.owner.held() as is_free:
            if is_free:
                remove_tree(leftover.path)
        return is_free
    if not _is_quiet(leftover.path) or _in_use(leftover.path, open_paths()):
        return False
    remove_tree(leftover.path)
    return True


def _locks() -> Iterator[Leftover]:
    """Locks and tickets of killed runs. The lock file of a run that ended normally stays for the next run."""
    for lock, _ in locks.device_locks():
        if locks.holder(lock) is None:
            pid, _, run = _content(lock).partition(" ")
            if run and _has_died(run):
                why = f"process {pid[:9]} ({Path(run[-80:]).name}) exited unexpectedly"
                yield Leftover("lock", lock, why, _bytes(lock))
        for ticket in _entries(lock.with_suffix(".queue")):
            if locks.holder(ticket) is None:
                why = f"process {_content(ticket).partition(' ')[0][:9]} exited unexpectedly"
                yield Leftover("ticket", ticket, why, _bytes(ticket))
    for mutex in locks.lock_folder().glob(f"{socket.gethostname()}-*.mutex"):
        if locks.holder(mutex) is None:
            yield Leftover("lock", mutex, "no process holds it", _bytes(mutex))


def _has_died(run: str) -> bool:
    """Whether the run in a lock file has no outcome, or is damaged."""
    try:
        directory = RunDir(Path(run))  # of `ftbench try` and after a deletion there is no such directory
        return directory.config_file.exists() and directory.state() in ("died", "damaged")
    except (OSError, ValueError):  # not a path
        return True


def _in_runs(runs: Path, opened: set[str]) -> Iterator[Leftover]:
    for owner in _folders(runs):
        if owner.path.is_symlink() or owner.is_active():
            continue
        for path in _temporary(owner.path, DEPTH):
            if not _in_use(path, opened):
                yield Leftover(_kind(path), path, f"{owner.name} is not running", _bytes(path), owner)


def _folders(runs: Path) -> Iterator[Folder]:
    ladders = list(ladder_dir.iterate(runs))
    yield from ladders
    yield from run_dir.iterate(runs)
    yield from sweep_dir.iterate(runs)
    for ladder in ladders:
        yield from run_dir.iterate(ladder.probes)


def _half_made(runs: Path, opened: set[str]) -> Iterator[Leftover]:
    """Directories whose launcher was killed before it wrote their configuration, and incomplete copies of runs."""
    for path in _entries(runs):
        if COPY_NAME.fullmatch(path.name) and _is_quiet(path) and not _in_use(path, opened):
            yield Leftover(_kind(path), path, "no process uses it", _bytes(path))
            continue
        empty = DIRECTORY_NAME.fullmatch(path.name) and _is_folder(path) and all(map(_is_temporary, _entries(path)))
        if empty and _is_quiet(path) and not _in_use(path, opened):
            yield Leftover("unfinished directory", path, "its launcher exited unexpectedly", _bytes(path))


def _elsewhere(opened: set[str]) -> Iterator[Leftover]:
    """Temporary files of presets, settings, data caches and downloads."""
    cache = cache_folder()
    folders = (Path(platformdirs.user_state_dir("ftbench")), config_file().parent, Path(tempfile.gettempdir()))
    state, settings, system = (Path(os.path.realpath(folder)) for folder in folders)
    paths = [*_temporary(cache, CACHE_DEPTH), *_temporary(state, 1), *_temporary(settings, 2)]
    scratch = [path for path in _entries(system) if SCRATCH_NAME.fullmatch(path.name)]
    paths += exports.unfinished_elsewhere()
    paths += [path for path in scratch if _is_ours(path) and _is_folder(path)]
    for path in paths:
        if _is_quiet(path) and not _in_use(path, opened):
            yield Leftover(_kind(path), path, "no process uses it", _bytes(path))


def _temporary(folder: Path, depth: int) -> Iterator[Path]:
    for path in _entries(folder):
        if _is_temporary(path):
            yield path
        elif depth > 1 and _is_folder(path):
            yield from _temporary(path, depth - 1)


def _is_temporary(path: Path) -> bool:
    return any(path.match(pattern) for pattern in TEMPORARY_NAMES)


def _kind(path: Path) -> str:
    return "temporary folder" if _is_folder(path) else "temporary file"


def _entries(folder: Path) -> list[Path]:
    """Entries of a folder, sorted by name; empty if the folder does not exist or is not readable."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        return sorted(folder.iterdir())
    return []


def _is_folder(path: Path) -> bool:
    """Whether it is a directory; a symbolic link to one does not count."""
    with contextlib.suppress(OSError):
        return stat.S_ISDIR(path.lstat().st_mode)
    return False


def _is_ours(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.lstat().st_uid == os.getuid()
    return False


def _tree(path: Path) -> Iterator[os.stat_result]:
    """Status of the path and everything below it; files deleted meanwhile are skipped."""
    with contextlib.suppress(FileNotFoundError):
        yield path.lstat()
    for root, folders, files in os.walk(path):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):
                yield Path(root, name).lstat()


def _bytes(path: Path) -> int:
    return sum(status.st_size for status in _tree(path) if stat.S_ISREG(status.st_mode))


def _is_quiet(path: Path) -> bool:
    """Whether nothing in it changed for QUIET_SECONDS; times in the future, from a wrong clock, count as old."""
    now = time.time()
    return all(abs(now - status.st_mtime) > QUIET_SECONDS for status in _tree(path))


def open_paths() -> set[str]:
    """Open files and working directories of all processes of this machine that this user may inspect."""
    paths: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            links = [process / "cwd", *(process / "fd").iterdir()]
            for link in links:
                with contextlib.suppress(OSError):
                    paths.add(str(link.readlink()))
    return paths


def _in_use(path: Path, opened: set[str]) -> bool:
    real = os.path.realpath(path)
    return locks.is_locked(path) or any(used == real or used.startswith(f"{real}/") for used in opened)


def _content(lock: Path) -> str:
    """The text written by the last holder of a lock."""
    with contextlib.suppress(OSError):
        return os.fsdecode(read_small(lock))
    return ""
