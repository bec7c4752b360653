"""Move the home, which has all runs, ladders, sweeps and caches, to another disk.

Nothing of the old home changes before everything is in the new one: each entry is copied (by hard links within a file
system), compared with its original and flushed. Then `home` in config.toml is replaced atomically, which is the moment
at which later commands find the new home, and only then are the originals deleted. A move that was interrupted
continues when it is started again: `.NAME.tmp` is an entry in progress, and MOVED_FROM names what is left to delete.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import tomli
import tomli_w

from engine.config import home as config_home
from engine.config.errors import RunFailed, UserError
from engine.config.files import (
    file_sha256,
    is_no_space_error,
    locked_folder,
    open_regular,
    read_json,
    remove_tree,
    subfolders,
    sync_folder,
    write_atomically,
)
from engine.config.home import HUB, KEY, cache_folder, config_file, configured_home
from engine.runs.home import VARIABLE, check_home
from engine.runs.ladder import ladder_dir
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.folder import Folder, sort_by_start
from engine.runs.run.run_dir import RunDir

MOVED_FROM = ".moved-from.json"
"""In a new home: the runs and cache folders that it was moved from, while their originals are deleted."""
CACHES = ("models", "gguf", "prepared", "tools", HUB)
"""Folders of the cache whose entries are moved; other files in it are written again when they are needed."""
VOLATILE = "engine.lock"
"""Its content is not compared: it names who held the lock last."""


@dataclass(frozen=True)
class MovedEntry:
    """A run, ladder, sweep or cache entry that is in the new home now."""

    kind: str
    """`Folder.KIND`, or the folder of the cache."""
    name: str
    bytes: int


def move_home(target: Path) -> Iterator[MovedEntry]:
    """Move runs and caches to `target`, yielding each entry once it is there.

    Raises UserError where something runs, a run has a link, or the target cannot be used, and RunFailed where the disk
    is full. Until everything is copied the old home stays in use.
    """
    locks.lock_folder()  # whether something runs is known only by its locks
    if os.environ.get(VARIABLE):
        hint = f"unset it: it has precedence over `{KEY}` in {config_file()}"
        raise UserError(f"{VARIABLE} is set", os.environ[VARIABLE], hint, "home.variable_set")
    target = Path(os.path.realpath(target))
    runs, cache = Path(os.path.realpath(config_home.runs_folder())), cache_folder()
    if (target / MOVED_FROM).exists() and configured_home() == target:  # continue an interrupted move
        hint = "delete it; the originals that are left then stay where they are"
        recorded = read_json(target / MOVED_FROM, tuple[str, str], hint, "home.record_damaged")
        assert recorded is not None
        runs, cache = map(Path, recorded)
    elif runs == target / "runs":
        raise UserError("this is the home already", str(target), "name another directory", "home.same")
    for source in (runs, cache):
        if target.is_relative_to(source) or source.is_relative_to(target / "runs"):
            raise UserError("inside the present home", str(target), "name another directory", "home.nested")
    check_home(target)
    for name in ("", "runs", "cache"):
        path = target / name
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise UserError("not a directory", str(path), "name another directory", "home.not_a_directory")
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in _folders(runs):
        folder.check_files()
        if _is_active(folder):
            raise _active_error(folder)
    try:
        for folder in _folders(runs):
            with _held(folder):  # no worker starts in it meanwhile
                entry = _copied(folder.KIND, folder.path, target / "runs")
            yield entry
        for kind, path in _cache_entries(cache):
            yield _copied(kind, path, target / "cache" / kind)
        write_atomically(target / MOVED_FROM, msgspec.json.encode((str(runs), str(cache))))
        sync_folder(target)
        if configured_home() != target:  # make it the home of later commands
            settings = Path(os.path.realpath(config_file()))  # it may be a link to the user's collection of settings
            settings.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(settings, _with_home(settings.read_bytes() if settings.exists() else b"", target))
        _delete_originals(target, runs, cache)
    except OSError as error:
        if is_no_space_error(error):
            text = f"no space left in {target}; free some, then run `ftbench home {target}` again"
            raise RunFailed(text, "home.disk_full") from error
        problem, where = f"cannot move: {error.strerror or error}", str(error.filename or target)
        raise UserError(problem, where, "then start the move again", "home.cannot_move") from error


def _folders(runs: Path) -> list[Folder]:
    return sort_by_start(ladder_dir.iterate_all(runs))


def _cache_entries(cache: Path) -> Iterator[tuple[str, Path]]:
    return ((kind, path) for kind in CACHES for path in subfolders(cache / kind))


def _active_error(folder: Folder) -> UserError:
    problem, hint = f"the {folder.KIND} is in use", "stop it, or wait until it has ended"
    return UserError(problem, folder.name, hint, "home.active")


def _is_active(folder: Folder) -> bool:
    if isinstance(folder, LadderDir) and any(_is_active(probe) for probe in RunDir.iterate(folder.probes)):
        return True
    if isinstance(folder, RunDir):
        return folder.state() in run_dir.ACTIVE or locks.is_in_use(folder.path)
    return folder.is_active()


@contextlib.contextmanager
def _held(folder: Folder) -> Iterator[None]:
    with folder.held() as is_free:
        if not is_free:
            raise _active_error(folder)
        yield


def _copied(kind: str, source: Path, parent: Path) -> MovedEntry:
    """Copy to a temporary name, compare, flush to the disk, rename: the target is complete or missing."""
    target = parent / source.name
    if os.path.lexists(target):
        if kind not in CACHES and not _is_same(source, target):
            problem = f"another {kind} of this name is in the new home"
            hint = "delete it if an interrupted move left it there and the original has changed since, else rename one"
            raise UserError(problem, str(target), hint, "home.conflict")
        return MovedEntry(kind, source.name, _bytes(target))
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = parent / f".{source.name}.tmp"
    remove_tree(temporary)
    temporary.mkdir(mode=0o700)
    try:
        with locked_folder(temporary):
            links = _have_one_file_system(source, parent)
            if not links and (need := _bytes(source)) > (free := shutil.disk_usage(parent).free):
                text = f"{need / 2**20:,.1f} MiB needed, {free / 2**20:,.1f} MiB free"
                raise OSError(errno.ENOSPC, text, str(parent))
            copy = os.link if links else shutil.copy2
            shutil.copytree(source, temporary, symlinks=True, dirs_exist_ok=True, copy_function=copy)
            if not _is_same(source, temporary):
                raise OSError(errno.EIO, "the copy differs from the original", str(source))
            for directory, _, files in os.walk(temporary):
                for path in (Path(directory, name) for name in files):
                    if not path.is_symlink():
                        with open_regular(path, sys.maxsize) as file:
                            os.fsync(file.fileno())
                sync_folder(Path(directory))
            temporary.rename(target)
    except BaseException:
        remove_tree(temporary, ignore_errors=True)
        raise
    sync_folder(parent)
    return MovedEntry(kind, source.name, _bytes(target))


def _have_one_file_system(source: Path, parent: Path) -> bool:
    return source.stat().st_dev == parent.stat().st_dev


def _bytes(root: Path) -> int:
    return sum(path.lstat().st_size for path in root.rglob("*") if not path.is_dir())


def _is_same(source: Path, target: Path) -> bool:
    """Whether two trees have the same directories, and files with the same content."""
    names, others = _entries(source), _entries(target)
    return names.keys() == others.keys() and all(
        _is_same_file(status, others[name], source / name, target / name) for name, status in names.items()
    )


def _is_same_file(status: os.stat_result, other: os.stat_result, source: Path, target: Path) -> bool:
    if stat.S_IFMT(status.st_mode) != stat.S_IFMT(other.st_mode):
        return False
    if stat.S_ISLNK(status.st_mode):  # of the Hub's cache, to files in the same entry
        return source.readlink() == target.readlink()
    if stat.S_ISDIR(status.st_mode) or os.path.samestat(status, other):
        return True
    return status.st_size == other.st_size and file_sha256(source) == file_sha256(target)


def _entries(root: Path) -> dict[str, os.stat_result]:
    """Relative path -> status of everything below a folder, without lock files. Links are not followed."""
    return {str(path.relative_to(root)): path.lstat() for path in sorted(root.rglob("*")) if path.name != VOLATILE}


def _with_home(content: bytes, home: Path) -> bytes:
    """The content of config.toml with this home; all other lines stay. Raises UserError where that is impossible."""
    line, key = tomli_w.dumps({KEY: str(home)}), rf"(?m)\A((?:(?!^\s*\[).*\n)*?){KEY}\s*=.*(?:\n|\Z)"
    with contextlib.suppress(ValueError, RecursionError):  # not UTF-8, or not TOML
        text = content.decode()
        changed, count = re.subn(key, lambda match: match[1] + line, text)
        changed = changed if count else line + text
        if tomli.loads(changed) == tomli.loads(text) | {KEY: str(home)}:
            return changed.encode()
    hint = f"set {line.strip()} in it, before the sections"
    raise UserError("cannot edit the settings", str(config_file()), hint, "home.config")


def _delete_originals(target: Path, runs: Path, cache: Path) -> None:
    """Delete what is in the new home too. What appeared or changed meanwhile stays, for another call."""
    left = False
    for source, copies in ((runs, target / "runs"), *((cache / kind, target / "cache" / kind) for kind in CACHES)):
        for path in source.glob(".*.tmp"):  # of an interrupted call of `_delete`
            if (copies / path.name[1 : -len(".tmp")]).is_dir():
                remove_tree(path)
    for folder in _folders(runs):
        copy = target / "runs" / folder.name
        if not copy.is_dir() or not _is_same(folder.path, copy) or _is_active(folder):
            left = True
            continue
        with _held(folder):
            _delete(folder.path)
    for kind, entry in _cache_entries(cache):
        if (target / "cache" / kind / entry.name).is_dir() and not locks.is_locked(entry):
            _delete(entry)
    if not left:
        remove_tree(target / MOVED_FROM)
        with contextlib.suppress(OSError):  # something else is in it
            runs.rmdir()


def _delete(path: Path) -> None:
    """Renamed first: a partly deleted directory must not be listed as a run."""
    temporary = path.with_name(f".{path.name}.tmp")
    remove_tree(temporary)
    path.rename(temporary)
    remove_tree(temporary)
