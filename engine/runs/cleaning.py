"""Disk space that runs, checkpoints, exports, caches and files of killed processes take, and its removal.

Removal holds the lock of the run or ladder, so that no process starts in it meanwhile; what a process uses is
kept.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

from engine.config.files import SCRATCH_NAME, TEMPORARY_NAMES, check_no_link_above, remove_tree, subfolders
from engine.config.home import cache_folder, config_file
from engine.runs.ladder import ladder_dir
from engine.runs.ladder.ladder_dir import LadderDir, comparison_kinds, composed_of
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.exports import is_own_folder
from engine.runs.run.folder import Folder, sort_by_start
from engine.runs.run.run_dir import RunDir

Kind = Literal["checkpoints", "exports", "runs", "ladders", "prepared", "models", "tools", "temporary"]
KINDS: dict[Kind, str] = {
    "checkpoints": "training states; a finished run does not need them",
    "exports": "exported artifacts; `ftbench export` writes them again",
    "runs": "whole runs with model, scores and log",
    "ladders": "ladders with report and probes, without their runs",
    "prepared": "cache of prepared rows; filled again when needed",
    "models": "models downloaded by `ftbench pull`",
    "tools": "programs for exports, downloaded by `ftbench pull`",
    "temporary": "files that killed processes left, such as a model that was being saved",
}
"""What can be removed, and what it is."""
RUNNING, IN_USE, RECENT = "it is running", "a process uses it", "it changed in the last hour"
"""Why an item is kept even if it is named."""
RECENT_SECONDS = 3600.0
"""Age below which temporary files are kept: the process that writes a small one does not lock it."""
NAMED_ONLY: tuple[Kind, ...] = ("runs", "ladders")
"""Kinds of which only those are removed that are named or older than a given age: they cannot be recreated."""
DEPTH, CACHE_DEPTH, SETTINGS_DEPTH = 3, 2, 2
"""Levels of folders that are searched for temporary files: of a run or ladder, of ftbench's cache, of its settings."""
RUN_NAME = r"\d{8}-\d{6}-.+-[0-9a-f]{4}"
"""Names of directories that `folder.make` creates."""


@dataclass(frozen=True)
class StoredItem:
    """A folder, or a temporary file, that can be removed."""

    kind: Kind
    name: str
    path: Path
    bytes: int
    """On disk."""
    changed: float
    """Unix seconds of the latest change."""
    keep: str = ""
    """Why it is not removed: a process uses it, it changed in the last hour, or a run or report needs it; '' if it can
    be removed."""
    owner: Folder | None = None
    """The run or ladder that contains it."""


def list_stored_items(runs: Path) -> Iterator[StoredItem]:
    """Everything that can be removed below a runs home and in ftbench's cache. Raises UserError for unreadable runs."""
    ladder_of: dict[str, str] = {}  # run -> the ladder whose report needs it; damaged ladders are skipped
    for ladder, ladder_state in ladder_dir.states(runs):
        ladder_of = {entry.run.split("/")[0]: ladder.name for entry in ladder_state.entries if entry.run} | ladder_of
    for run in sort_by_start(RunDir.iterate(runs)):
        state = run.state()
        live = RUNNING if run.is_active() or state in run_dir.ACTIVE else IN_USE if locks.is_in_use(run.path) else ""
        if run.checkpoints in _folders(run.path):
            resumable = f"the run is {state}: it resumes from its checkpoint" if state != "finished" else ""
            yield _item("checkpoints", run.name, run.checkpoints, live or resumable, run)
        for path in _folders(run.exports):
            yield _item("exports", f"{run.name}/{path.name}", path, live, run)
        member = f"it belongs to the ladder {ladder_of[run.name]}" if run.name in ladder_of else ""
        yield _item("runs", run.name, run.path, live or member, run)

    owners = composed_of(runs)
    for comparison in (folder for kind in comparison_kinds() for folder in sort_by_start(kind.iterate(runs))):
        keep, owner = "", owners.get(comparison.name)
        if comparison.is_active():
            keep = RUNNING
        elif owner is not None:  # a live one works on its ladders one after the other, and its report needs them
            keep = IN_USE if owner.is_active() else f"it belongs to the {owner.KIND} {owner.name}"
        yield _item("ladders", comparison.name, comparison.path, keep, comparison)

    for kind in ("prepared", "models", "tools"):
        for path in _folders(cache_folder() / kind):
            yield _item(kind, path.name, path, IN_USE if locks.is_locked(path) else "")
    yield from list_temporary_items(runs)


def list_temporary_items(runs: Path) -> Iterator[StoredItem]:
    """Temporary files and folders, which only killed processes leave: named as in TEMPORARY_NAMES in the directories of
    runs, ladders and timing probes, in ftbench's cache and settings, and SCRATCH_NAME in the system's folder;
    also directories of runs and ladders without a configuration.

    A resumed run and a repeated export remove their own. Raises UserError for unreadable runs.
    """
    probes = (run for ladder in LadderDir.iterate(runs) for run in RunDir.iterate(ladder.probes))
    for owner in (*ladder_dir.iterate_all(runs), *probes):
        if os.path.realpath(owner.path) == str(owner.path):  # else it is behind a link
            live = RUNNING if owner.is_active() else ""
            for path in _temporary(owner.path, DEPTH):
                yield _temporary_item(f"{owner.name}/{path.relative_to(owner.path)}", path, live, owner)

    folders = (Path(platformdirs.user_state_dir("ftbench")), config_file().parent, Path(tempfile.gettempdir()))
    state, settings, system = (Path(os.path.realpath(folder)) for folder in folders)
    paths = [path for path in _entries(runs) if _is_unfinished(path)]
    paths += [*_temporary(cache_folder(), CACHE_DEPTH), *_temporary(state, 1), *_temporary(settings, SETTINGS_DEPTH)]
    paths += [path for path in _entries(system) if SCRATCH_NAME.fullmatch(path.name) and is_own_folder(path)]
    for path in paths:
        yield _temporary_item(str(path), path)


def remove(item: StoredItem) -> bool:
    """Remove an item; False if a process uses it by now. Raises OSError if it cannot be removed.

    Of an item that is a symbolic link only the link is removed.
    """
    if item.owner is None or item.owner.path.is_symlink():  # no lock is written into what the link points to
        if _is_in_use(item):
            return False
        remove_tree(item.path)
        return True
    with item.owner.held() as is_free:
        in_use = locks.is_in_use(item.owner.path) or _is_in_use(item)
        if is_free and not in_use:
            if item.path == item.owner.path:  # first: a partly deleted directory must not be listed
                remove_tree(item.path / f"{item.owner.KIND}.toml")
            remove_tree(item.path)
    return is_free and not in_use


def _is_in_use(item: StoredItem) -> bool:
    """Whether a process has locked it, or changed a temporary file, since it was listed."""
    if item.kind == "temporary":
        return bool(_temporary_item(item.name, item.path).keep)
    return locks.is_locked(item.path)


def _item(kind: Kind, name: str, path: Path, keep: str, owner: Folder | None = None) -> StoredItem:
    size, changed = measure_tree(path)
    return StoredItem(kind, name, path, size, changed, keep, owner)


def _temporary_item(name: str, path: Path, live: str = "", owner: Folder | None = None) -> StoredItem:
    now, statuses = time.time(), list(_tree(path))
    # Times in the future, from a wrong clock, are not recent: else nothing could remove the item.
    recent = RECENT if any(abs(now - status.st_mtime) < RECENT_SECONDS for status in statuses) else ""
    keep = live or (IN_USE if locks.is_locked(path) else recent)
    return StoredItem("temporary", name, path, *_measure(statuses), keep, owner)


def _is_unfinished(path: Path) -> bool:
    """Whether it is a directory of a `folder.make` that was killed before it wrote the configuration."""
    if not re.fullmatch(RUN_NAME, path.name) or not is_own_folder(path):
        return False
    return all(entry.name == "end.json" or any(map(entry.match, TEMPORARY_NAMES)) for entry in _entries(path))


def _temporary(folder: Path, depth: int) -> Iterator[Path]:
    """Paths named as in TEMPORARY_NAMES on so many levels below a folder, without those in directories of runs."""
    for path in _entries(folder):
        if any(path.match(pattern) for pattern in TEMPORARY_NAMES):
            yield path
        elif depth > 1 and not path.is_symlink() and not os.path.lexists(RunDir(path).config_file):
            yield from _temporary(path, depth - 1)


def _entries(folder: Path) -> list[Path]:
    """Entries of a folder, sorted by name; empty if it is no folder or not readable."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        return sorted(folder.iterdir(), key=lambda path: path.name)
    return []


def _folders(parent: Path) -> list[Path]:
    """Folders without those that a process is writing, by name; symbolic links are not followed."""
    with contextlib.suppress(OSError):
        check_no_link_above(parent / "any")
        return subfolders(parent)
    return []


def measure_tree(path: Path) -> tuple[int, float]:
    """Bytes on disk and the latest change of everything below a folder; links are not followed."""
    return _measure(_below(path))


def _measure(statuses: Iterable[os.stat_result]) -> tuple[int, float]:
    """Bytes on disk and the latest change; a file with several names counts once."""
    entries = {(status.st_dev, status.st_ino): status for status in statuses}.values()
    bytes_on_disk = sum(status.st_blocks * 512 for status in entries)
    return bytes_on_disk, max((status.st_mtime for status in entries), default=0.0)


def _tree(path: Path) -> Iterator[os.stat_result]:
    """Status of the path and everything below it."""
    with contextlib.suppress(FileNotFoundError):
        yield path.lstat()
    yield from _below(path)


def _below(path: Path) -> Iterator[os.stat_result]:
    """Status of everything below a folder; files deleted meanwhile are skipped."""
    for root, folders, files in os.walk(path):
        for name in (*folders, *files):
            with contextlib.suppress(OSError):
                yield os.lstat(os.path.join(root, name))  # noqa: PTH118 - a tree has many files


def select_items(
    items: list[StoredItem], kinds: list[Kind], names: list[str], min_age_days: float | None
) -> tuple[list[StoredItem], list[StoredItem]]:
    """(items to remove, items of these kinds that are kept).

    `names` are those of runs, ladders and cache entries, and paths of temporary files that belong to none.

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
        in_use = item.keep in (RUNNING, IN_USE, RECENT)
        (kept if in_use or (item.keep and not names) else chosen).append(item)
    return chosen, kept
