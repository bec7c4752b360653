"""Disk space that runs, checkpoints, exports and caches take, and its removal.

Removal holds the lock of the run, ladder or sweep, so that no process starts in it meanwhile; what a process uses is
kept.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.config.errors import UserError
from engine.config.files import check_no_link_above, remove_tree
from engine.config.home import cache_folder
from engine.runs.ladder import ladder_dir, sweep_dir
from engine.runs.ladder.ladder_dir import ComparisonDir, LadderDir
from engine.runs.ladder.sweep_dir import SweepDir
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.exports import exports_folder
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

    def age_days(self, now: float) -> float:
        return (now - self.changed) / 86400


def list_stored_items(runs: Path) -> Iterator[StoredItem]:
    """Everything that can be removed below a runs home and in ftbench's cache. Raises UserError for unreadable runs."""
    ladders = sorted(ladder_dir.iterate(runs), key=lambda ladder: ladder.name)
    members = _members(ladders)
    for run in sorted(run_dir.iterate(runs), key=lambda entry: entry.name):
        yield from _of_run(run, members.get(run.name, ""))
    sweeps = sorted(sweep_dir.iterate(runs), key=lambda sweep: sweep.name)
    cells = _cells(sweeps)
    for comparison in (*ladders, *sweeps):
        yield _item(
            "ladders", comparison.name, comparison.path, _kept(comparison, cells.get(comparison.name)), comparison
        )
    cache = cache_folder()
    for kind in ("prepared", "models", "tools"):
        for path in _folders(cache / kind):
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
            _delete(item)
    return is_free and not in_use


def _of_run(run: RunDir, ladder: str) -> Iterator[StoredItem]:
    state = run.state()
    live = RUNNING if run.is_active() or state in run_dir.ACTIVE else IN_USE if locks.is_in_use(run.path) else ""
    resumable = f"the run is {state}: it resumes from its checkpoint" if state != "finished" else ""
    if run.checkpoints in _folders(run.path):
        yield _item("checkpoints", run.name, run.checkpoints, live or resumable, run)
    for path in _folders(exports_folder(run)):
        yield _item("exports", f"{run.name}/{path.name}", path, live, run)
    yield _item("runs", run.name, run.path, live or (f"it belongs to the ladder {ladder}" if ladder else ""), run)


def _members(ladders: list[LadderDir]) -> dict[str, str]:
    """Run -> the ladder whose report needs it."""
    ladder_names: dict[str, str] = {}
    for ladder in ladders:
        with contextlib.suppress(UserError):  # a damaged ladder needs nothing
            state = ladder.state()
            for entry in state.entries if state else []:
                if entry.run:
                    ladder_names.setdefault(entry.run.split("/")[0], ladder.name)
    return ladder_names


def _cells(sweeps: list[SweepDir]) -> dict[str, SweepDir]:
    """Ladder -> the sweep whose report needs it."""
    sweeps_by_ladder: dict[str, SweepDir] = {}
    for sweep in sweeps:
        with contextlib.suppress(UserError):  # a damaged sweep needs nothing
            sweeps_by_ladder |= {cell.ladder: sweep for cell in sweep.plan().cells}
    return sweeps_by_ladder


def _kept(comparison: ComparisonDir, sweep: SweepDir | None) -> str:
    """Why a ladder or sweep is not removed. A live sweep works on its ladders one after the other."""
    if comparison.is_active():
        return RUNNING
    if sweep is None:
        return ""
    return IN_USE if sweep.is_active() else f"it belongs to the sweep {sweep.name}"


def _delete(item: StoredItem) -> None:
    if isinstance(item.owner, RunDir) and item.kind == "runs":
        run_dir.delete(item.owner)
    elif isinstance(item.owner, ComparisonDir) and item.kind == "ladders":
        remove_tree(item.owner.plan_file)  # first: a partly deleted directory must not be listed
        remove_tree(item.path)
    else:
        remove_tree(item.path)


def _item(kind: Kind, name: str, path: Path, keep: str, owner: Folder | None = None) -> StoredItem:
    size, changed = measure_tree(path)
    return StoredItem(kind, name, path, size, changed, keep, owner)


def _folders(parent: Path) -> list[Path]:
    """Folders without those that a process is writing, by name; symbolic links are not followed."""
    with contextlib.suppress(OSError):
        check_no_link_above(parent / "any")
        with os.scandir(parent) as entries:
            folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        return sorted(Path(entry.path) for entry in folders if not entry.name.startswith("."))
    return []


def measure_tree(path: Path) -> tuple[int, float]:
    """Bytes on disk and the latest change of a tree; links are not followed, a file with several names counts once."""
    total, latest, seen = 0, 0.0, set[tuple[int, int]]()
    for root, folders, files in os.walk(path):
        for name in (*folders, *files):
            with contextlib.suppress(OSError):
                status = os.lstat(os.path.join(root, name))  # noqa: PTH118 - a tree has many files
                if (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    total += status.st_blocks * 512
                    latest = max(latest, status.st_mtime)
    return total, latest


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
        if min_age_days is not None and item.age_days(time.time()) < min_age_days:
            continue
        in_use = item.keep in (RUNNING, IN_USE)
        (kept if in_use or (item.keep and not names) else chosen).append(item)
    return chosen, kept
