"""What processes that died left behind: locks, queue tickets, temporary files and folders, half-made directories.

A temporary file or folder is named `.NAME.tmp`, or as in PATTERNS. One in a run's or ladder's directory is left behind
once no process holds that directory's lock. One elsewhere is once nothing in it has changed for QUIET_SECONDS. Neither
is while a process has it open or holds its lock, as `files.temporary_folder` does.
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

from engine.config import preset_library
from engine.config.files import PULL_PREFIX, read_small, remove_tree
from engine.runs import ladder_dir, locks, run_dir
from engine.runs.folder import Folder
from engine.runs.run_dir import RunDir

QUIET_SECONDS = 60.0
PATTERNS = (".*.tmp", ".writing-*")
"""Of names in a run's or ladder's directory, at most DEPTH folders deep."""
DEPTH = 3
MADE = re.compile(r"\d{8}-\d{6}-.+-[0-9a-f]{4}")
"""Names that `folder.make` gives."""


@dataclass(frozen=True)
class Leftover:
    """One file or folder to remove."""

    kind: str
    path: Path
    why: str
    bytes: int
    owner: Folder | None = None
    """The run or ladder in whose directory it is; its lock is held while it is removed."""


def find(runs: Path) -> list[Leftover]:
    """Everything left behind: with the locks, in this folder of runs, and in ftbench's own folders.

    Raises UserError where the lock folder or the runs cannot be looked at.
    """
    opened = open_paths()
    return [*_locks(), *_in_runs(runs, opened), *_half_made(runs, opened), *_elsewhere(opened)]


def remove(leftover: Leftover) -> bool:
    """Remove it; False where a process has come to use it since. Raises OSError where it cannot be removed."""
    if leftover.kind in ("lock", "ticket"):
        return locks.remove_stale(leftover.path)
    if leftover.owner is not None:
        return _remove_alone(leftover.owner, leftover.path)
    if not _is_quiet(leftover.path) or _in_use(leftover.path, open_paths()):
        return False
    _delete(leftover.path)
    return True


def _locks() -> Iterator[Leftover]:
    """Of runs that died; the lock of a run that has ended well stays, and tells nothing but the device's name."""
    for lock, _ in locks.card_locks():
        if locks.holder(lock) is None:
            pid, _, run = _words(lock).partition(" ")
            if run and _has_died(run):
                yield Leftover("lock", lock, f"process {pid[:9]} ({Path(run[-80:]).name}) died", _bytes(lock))
        for ticket in _entries(lock.with_suffix(".queue")):
            if locks.holder(ticket) is None:
                yield Leftover("ticket", ticket, f"process {_words(ticket).partition(' ')[0][:9]} died", _bytes(ticket))
    for moment in locks.lock_folder().glob(f"{socket.gethostname()}-*.moment"):
        if locks.holder(moment) is None:
            yield Leftover("lock", moment, "no process holds it", _bytes(moment))


def _has_died(run: str) -> bool:
    """Whether the run that a lock names went without an outcome, or is no run: its directory is gone, or damaged."""
    try:
        return RunDir(Path(run)).state() in ("died", "damaged")
    except (OSError, ValueError):  # no path at all
        return True


def _in_runs(runs: Path, opened: set[str]) -> Iterator[Leftover]:
    for owner in _folders(runs):
        if owner.is_live():
            continue
        for path in _temporary(owner.path, DEPTH):
            if not _in_use(path, opened):
                yield Leftover(_kind(path), path, f"no process works on {owner.name}", _bytes(path), owner)


def _folders(runs: Path) -> Iterator[Folder]:
    ladders = list(ladder_dir.iterate(runs))
    yield from ladders
    yield from run_dir.iterate(runs)
    for ladder in ladders:
        yield from run_dir.iterate(ladder.probes)


def _half_made(runs: Path, opened: set[str]) -> Iterator[Leftover]:
    """Directories whose launcher died before their configuration was in place."""
    for path in _entries(runs):
        made = MADE.fullmatch(path.name) and _is_folder(path) and all(map(_is_temporary, _entries(path)))
        if made and _is_quiet(path) and not _in_use(path, opened):
            yield Leftover("unfinished directory", path, "its launcher died", _bytes(path))


def _elsewhere(opened: set[str]) -> Iterator[Leftover]:
    """Presets, settings, what is known of data, downloads."""
    cache = Path(platformdirs.user_cache_dir("ftbench"))
    own = (Path(platformdirs.user_state_dir("ftbench")), cache, preset_library.user_folder())
    found = [path for place in own for path in _temporary(place, 1)]
    for place in ("models", "gguf"):
        found += [path for path in _entries(cache / place) if path.name.startswith(".")]
    pulls = [path for path in _entries(Path(tempfile.gettempdir())) if path.name.startswith(PULL_PREFIX)]
    found += filter(_is_ours, pulls)
    for path in found:
        if _is_quiet(path) and not _in_use(path, opened):
            yield Leftover(_kind(path), path, "no process uses it", _bytes(path))


def _temporary(place: Path, depth: int) -> Iterator[Path]:
    for path in _entries(place):
        if _is_temporary(path):
            yield path
        elif depth > 1 and _is_folder(path):
            yield from _temporary(path, depth - 1)


def _is_temporary(path: Path) -> bool:
    return any(path.match(pattern) for pattern in PATTERNS)


def _kind(path: Path) -> str:
    return "temporary folder" if _is_folder(path) else "temporary file"


def _entries(place: Path) -> list[Path]:
    """What is in a folder, by name; nothing where there is no such folder, or it is not ours to read."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        return sorted(place.iterdir())
    return []


def _is_folder(path: Path) -> bool:
    """A link to one is none."""
    with contextlib.suppress(OSError):
        return stat.S_ISDIR(path.lstat().st_mode)
    return False


def _is_ours(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.lstat().st_uid == os.getuid()
    return False


def _tree(path: Path) -> Iterator[os.stat_result]:
    """The path and all below it; what goes meanwhile is left out."""
    with contextlib.suppress(FileNotFoundError):
        yield path.lstat()
    for root, folders, files in os.walk(path):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):
                yield Path(root, name).lstat()


def _bytes(path: Path) -> int:
    return sum(status.st_size for status in _tree(path) if stat.S_ISREG(status.st_mode))


def _is_quiet(path: Path) -> bool:
    """Whether nothing in it has changed for a while; a time in the future, from a clock that was wrong, is long ago."""
    now = time.time()
    return all(abs(now - status.st_mtime) > QUIET_SECONDS for status in _tree(path))


def open_paths() -> set[str]:
    """Files that processes of this machine have open and folders they work in, as far as we may see them."""
    found: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            links = [process / "cwd", *(process / "fd").iterdir()]
            for link in links:
                with contextlib.suppress(OSError):
                    found.add(str(link.readlink()))
    return found


def _in_use(path: Path, opened: set[str]) -> bool:
    real = os.path.realpath(path)
    return locks.is_locked(path) or any(one == real or one.startswith(f"{real}/") for one in opened)


def _words(lock: Path) -> str:
    """What its last holder wrote into it."""
    with contextlib.suppress(OSError):
        return os.fsdecode(read_small(lock))
    return ""


def _remove_alone(owner: Folder, path: Path) -> bool:
    """Under the lock of its run or ladder, so that no worker begins meanwhile."""
    was_there = owner.lock_file.exists()
    held = locks.hold(owner.lock_file, str(os.getpid()))
    if held is None:
        return False
    try:
        _delete(path)
    finally:
        os.close(held)
        if not was_there:
            locks.remove_stale(owner.lock_file)
    return True


def _delete(path: Path) -> None:
    if _is_folder(path):
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)
