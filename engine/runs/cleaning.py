"""Disk space that runs, checkpoints, exports and caches take, what killed processes left behind, and its removal.

Removal holds the lock of the run, ladder or sweep, so that no process starts in it meanwhile; what a process uses is
kept.
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
from typing import Literal

import platformdirs

from engine.config.errors import UserError
from engine.config.files import SCRATCH_NAME, TEMPORARY_NAMES, check_no_link_above, read_small, remove_tree, subfolders
from engine.config.home import cache_folder, config_file
from engine.runs.ladder import ladder_dir
from engine.runs.ladder.ladder_dir import SweepDir
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.exports import exports_folder, is_own_folder, unfinished_elsewhere
from engine.runs.run.folder import Folder
from engine.runs.run.run_dir import RunDir

Kind = Literal["checkpoints", "exports", "runs", "ladders", "prepared", "models", "tools"]
KINDS: dict[Kind, str] = {
    "checkpoints": "training states; a finished run does not need them",
    "exports": "exported artifacts; `ftbench export` writes them again",
    "runs": "whole runs with model, scores and log",
    "ladders": "ladders and sweeps with report and probes, without their runs",
    "prepared": "cache of prepared rows; filled again when needed",
    "models": "models downloaded by `ftbench pull`",
    "tools": "llama.cpp, downloaded by `ftbench pull gguf`",
}
"""What can be removed, and what it is."""
RUNNING, IN_USE = "it is running", "a process uses it"
"""Why an item is kept even if it is named."""
NAMED_ONLY: tuple[Kind, ...] = ("runs", "ladders")
"""Kinds of which only those are removed that are named or older than a given age: they cannot be recreated."""


@dataclass(frozen=True)
class StoredItem:
    """A folder that can be removed."""

    kind: Kind
    name: str
    path: Path
    bytes: int
    """On disk."""
    changed: float
    """Unix seconds of the latest change."""
    keep: str = ""
    """Why it is not removed: a process uses it, or a run needs it to resume; '' if it can be removed."""
    owner: Folder | None = None
    """The run, ladder or sweep that contains it."""


def list_stored_items(runs: Path) -> Iterator[StoredItem]:
    """Everything that can be removed below a runs home and in ftbench's cache. Raises UserError for unreadable runs."""
    ladder_of: dict[str, str] = {}  # run -> the ladder whose report needs it; damaged ladders are skipped
    for ladder, ladder_state in sorted(ladder_dir.states(runs), key=lambda known: known[0].name):
        ladder_of = {entry.run.split("/")[0]: ladder.name for entry in ladder_state.entries if entry.run} | ladder_of
    for run in sorted(run_dir.iterate(runs), key=lambda entry: entry.name):
        state = run.state()
        live = RUNNING if run.is_active() or state in run_dir.ACTIVE else IN_USE if locks.is_in_use(run.path) else ""
        if run.checkpoints in _folders(run.path):
            resumable = f"the run is {state}: it resumes from its checkpoint" if state != "finished" else ""
            yield _item("checkpoints", run.name, run.checkpoints, live or resumable, run)
        for path in _folders(exports_folder(run)):
            yield _item("exports", f"{run.name}/{path.name}", path, live, run)
        member = f"it belongs to the ladder {ladder_of[run.name]}" if run.name in ladder_of else ""
        yield _item("runs", run.name, run.path, live or member, run)

    ladders = sorted(ladder_dir.iterate(runs), key=lambda ladder: ladder.name)
    sweeps = sorted(ladder_dir.iterate_sweeps(runs), key=lambda sweep: sweep.name)
    sweep_of: dict[str, SweepDir] = {}  # ladder -> the sweep whose report needs it; damaged sweeps are skipped
    for sweep in sweeps:
        with contextlib.suppress(UserError):
            sweep_of |= {cell.ladder: sweep for cell in sweep.plan().cells}
    for comparison in (*ladders, *sweeps):
        keep, owner = "", sweep_of.get(comparison.name)
        if comparison.is_active():
            keep = RUNNING
        elif owner is not None:  # a live sweep works on its ladders one after the other
            keep = IN_USE if owner.is_active() else f"it belongs to the sweep {owner.name}"
        yield _item("ladders", comparison.name, comparison.path, keep, comparison)

    for kind in ("prepared", "models", "tools"):
        for path in _folders(cache_folder() / kind):
            yield _item(kind, path.name, path, IN_USE if locks.is_locked(path) else "")


def remove(item: StoredItem) -> bool:
    """Remove an item; False if a process uses it by now. Raises OSError if it cannot be removed.

    Of an item that is a symbolic link only the link is removed.
    """
    if item.owner is None or item.owner.path.is_symlink():  # no lock is written into what the link points to
        if locks.is_locked(item.path):
            return False
        remove_tree(item.path)
        return True
    with item.owner.held() as is_free:
        in_use = locks.is_in_use(item.owner.path) or (item.kind == "exports" and locks.is_locked(item.path))
        if is_free and not in_use:
            if item.path == item.owner.path:  # first: a partly deleted directory must not be listed
                remove_tree(item.path / f"{item.owner.KIND}.toml")
            remove_tree(item.path)
    return is_free and not in_use


def _item(kind: Kind, name: str, path: Path, keep: str, owner: Folder | None = None) -> StoredItem:
    size, changed = measure_tree(path)
    return StoredItem(kind, name, path, size, changed, keep, owner)


def _folders(parent: Path) -> list[Path]:
    """Folders without those that a process is writing, by name; symbolic links are not followed."""
    with contextlib.suppress(OSError):
        check_no_link_above(parent / "any")
        return subfolders(parent)
    return []


def measure_tree(path: Path) -> tuple[int, float]:
    """Bytes on disk and the latest change of a tree; links are not followed, a file with several names counts once."""
    entries = {(status.st_dev, status.st_ino): status for status in _below(path)}.values()
    bytes_on_disk = sum(status.st_blocks * 512 for status in entries)
    return bytes_on_disk, max((status.st_mtime for status in entries), default=0.0)


def _below(path: Path) -> Iterator[os.stat_result]:
    """Status of everything below a folder; files deleted meanwhile are skipped."""
    for root, folders, files in os.walk(path):
        for name in (*folders, *files):
            with contextlib.suppress(OSError):
                yield os.lstat(os.path.join(root, name))  # noqa: PTH118 - a tree has many files


def select_items(
    items: list[StoredItem], kinds: list[Kind], names: list[str], min_age_days: float | None
) -> tuple[list[StoredItem], list[StoredItem]]:
    """(items to remove, items of these kinds that are kept); `names` are those of runs, ladders and cache entries.

    A run or ladder that is named is removed also if it belongs to a ladder or could be resumed; never while it is
    running.
    """
    chosen: list[StoredItem] = []
    kept: list[StoredItem] = []
    for item in items:
        if item.kind not in kinds or (names and (item.owner.name if item.owner else item.name) not in names):
            continue
        if min_age_days is not None and time.time() - item.changed < min_age_days * 86400:
            continue
        in_use = item.keep in (RUNNING, IN_USE)
        (kept if in_use or (item.keep and not names) else chosen).append(item)
    return chosen, kept


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
    """A file or folder of a killed process, such as a lock, a queue ticket, or the 16 GB of a half saved model.

    Temporary files and folders are named as in TEMPORARY_NAMES. In a run's or ladder's directory they are leftovers
    once no process holds that directory's lock; elsewhere, once nothing in them has changed for QUIET_SECONDS. They are
    never leftovers while a process has them open or locked, as `files.temporary_folder` does. A resumed run, a repeated
    export and the next run on a device remove their own.
    """

    kind: str
    path: Path
    why: str
    bytes: int
    owner: Folder | None = None
    """The run or ladder whose directory contains it; its lock is held during removal."""


def find_leftovers(runs: Path) -> list[Leftover]:
    """All leftovers among the locks, in this runs folder, and in ftbench's cache and settings folders.

    Raises UserError if the lock folder or the runs cannot be read.
    """
    leftovers: list[Leftover] = []
    # Locks and tickets of killed runs. The lock file of a run that ended normally stays for the next run.
    for lock, _ in locks.device_locks():
        if locks.holder(lock) is None:
            pid, _, run = _content(lock).partition(" ")
            if run and _has_died(run):
                why = f"process {pid[:9]} ({Path(run[-80:]).name}) exited unexpectedly"
                leftovers.append(_leftover(lock, why, "lock"))
        for ticket in _entries(lock.with_suffix(".queue")):
            if locks.holder(ticket) is None:
                why = f"process {_content(ticket).partition(' ')[0][:9]} exited unexpectedly"
                leftovers.append(_leftover(ticket, why, "ticket"))
    for mutex in locks.lock_folder().glob(f"{socket.gethostname()}-*.mutex"):
        if locks.holder(mutex) is None:
            leftovers.append(_leftover(mutex, "no process holds it", "lock"))

    opened = open_paths()
    unlocked: list[Leftover] = []
    probes = (run for ladder in ladder_dir.iterate(runs) for run in run_dir.iterate(ladder.probes))
    for owner in (*ladder_dir.iterate_all(runs), *probes):
        if os.path.realpath(owner.path) == str(owner.path) and not owner.is_active():  # else it is behind a link
            why = f"{owner.name} is not running"
            unlocked += (_leftover(path, why, owner=owner) for path in _temporary(owner.path, DEPTH))

    # Directories whose launcher was killed before it wrote their configuration, and incomplete copies of runs.
    for path in _entries(runs):
        empty = DIRECTORY_NAME.fullmatch(path.name) and _is_folder(path) and all(map(_is_temporary, _entries(path)))
        if empty and _is_quiet(path):
            unlocked.append(_leftover(path, "its launcher exited unexpectedly", "unfinished directory"))
        elif COPY_NAME.fullmatch(path.name) and _is_quiet(path):
            unlocked.append(_leftover(path, "no process uses it"))

    # Temporary files of presets, settings, data caches and downloads.
    folders = (Path(platformdirs.user_state_dir("ftbench")), config_file().parent, Path(tempfile.gettempdir()))
    state, settings, system = (Path(os.path.realpath(folder)) for folder in folders)
    paths = [*_temporary(cache_folder(), CACHE_DEPTH), *_temporary(state, 1), *_temporary(settings, 2)]
    paths += unfinished_elsewhere()
    paths += (path for path in _entries(system) if SCRATCH_NAME.fullmatch(path.name) and is_own_folder(path))
    unlocked += (_leftover(path, "no process uses it") for path in paths if _is_quiet(path))
    return [*leftovers, *(leftover for leftover in unlocked if not _in_use(leftover.path, opened))]


def remove_leftover(leftover: Leftover) -> bool:
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


def _has_died(run: str) -> bool:
    """Whether the run in a lock file has no outcome, or is damaged."""
    try:
        directory = RunDir(Path(run))  # of `ftbench try` and after a deletion there is no such directory
        return directory.config_file.exists() and directory.state() in ("died", "damaged")
    except (OSError, ValueError):  # not a path
        return True


def _temporary(folder: Path, depth: int) -> Iterator[Path]:
    for path in _entries(folder):
        if _is_temporary(path):
            yield path
        elif depth > 1 and _is_folder(path):
            yield from _temporary(path, depth - 1)


def _is_temporary(path: Path) -> bool:
    return any(path.match(pattern) for pattern in TEMPORARY_NAMES)


def _leftover(path: Path, why: str, kind: str = "", owner: Folder | None = None) -> Leftover:
    kind = kind or ("temporary folder" if _is_folder(path) else "temporary file")
    size = sum(status.st_size for status in _tree(path) if stat.S_ISREG(status.st_mode))
    return Leftover(kind, path, why, size, owner)


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


def _tree(path: Path) -> Iterator[os.stat_result]:
    """Status of the path and everything below it."""
    with contextlib.suppress(FileNotFoundError):
        yield path.lstat()
    yield from _below(path)


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
