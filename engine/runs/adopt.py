"""Move runs, ladders and sweeps from another directory into the runs home.

A run is renamed within a file system. Across file systems it is copied, verified by SHA-256 and only then removed, one
run at a time: `.NAME.tmp` in the home is a copy in progress, `.NAME.tmp` in the source an original whose copy is
complete. An adoption that was interrupted continues when it is started again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.config.errors import UserError
from engine.config.files import locked_folder, remove_tree
from engine.runs import ladder_dir, locks, run_dir, sweep_dir
from engine.runs.folder import Folder
from engine.runs.home import check_home
from engine.runs.ladder_dir import LadderDir
from engine.runs.run_dir import RunDir
from engine.runs.sweep_dir import SweepDir

ADOPTABLE_NAMES = ("runs", "ftbench_runs")
"""Directories of a working directory in which runs of earlier versions are looked for."""
RUNNING = "it is running; stop it or wait until it has ended"


@dataclass(frozen=True)
class AdoptedFolder:
    """What was done with one run, ladder or sweep."""

    name: str
    kind: str
    """`Folder.KIND`: run, ladder or sweep."""
    state: Literal["moved", "refused", "failed"]
    reason: str = ""
    """Why it was not moved."""


def adoptable(directory: Path, home: Path) -> Path | None:
    """`directory/runs` or `directory/ftbench_runs` if it contains runs or ladders and is not the home."""
    for name in ADOPTABLE_NAMES:
        folder = Path(os.path.realpath(directory / name))
        try:
            if folder != home and folder.is_dir() and next(_folders(folder), None):
                return folder
        except (UserError, OSError):  # it is only for a hint
            continue
    return None


def adopt(source: Path, home: Path) -> Iterator[AdoptedFolder]:
    """Move everything that is not running from `source` to `home`, yielding what was done with each.

    A ladder and its runs stay together, and a sweep and its ladders. Raises UserError where there is nothing to adopt
    or the home cannot be used.
    """
    locks.lock_folder()  # whether something runs is known only by its locks
    source = Path(os.path.realpath(source))
    folders = _checked(source, home)
    check_home(home)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_copied(source, home)
    refused = _refused(folders)
    for folder in folders:
        reason = refused.get(folder.name, "")
        yield _result(folder, "refused", reason) if reason else _adopt_one(folder, home)
    _remove_empty(source)


def _checked(source: Path, home: Path) -> list[Folder]:
    """The runs and ladders of `source`, by name. Raises UserError for a directory that cannot be adopted."""
    if source == home or (source.is_dir() and home.is_dir() and home.samefile(source)):
        raise UserError("this is the runs home itself", str(source), "name another directory", "runs.adopt_home")
    if not source.is_dir():
        raise UserError("no such directory", str(source), "name a directory that contains runs", "runs.adopt_not_found")
    folders = sorted(_folders(source), key=lambda folder: folder.name)
    if not folders and not any(source.glob(".*.tmp")):
        below = next((name for name in ADOPTABLE_NAMES if next(_folders(source / name), None)), None)
        do = f"did you mean {source / below}?" if below else "name a directory that contains runs"
        raise UserError("contains no runs or ladders", str(source), do, "runs.adopt_nothing")
    return folders


def _folders(source: Path) -> Iterator[Folder]:
    yield from run_dir.iterate(source)
    yield from ladder_dir.iterate(source)
    yield from sweep_dir.iterate(source)


def _refused(folders: list[Folder]) -> dict[str, str]:
    """Name -> why it stays: it runs, or belongs to the same ladder or sweep as something that stays."""
    refused = {folder.name: RUNNING for folder in folders if _is_running(folder)}
    refused |= {folder.name: "it is a symbolic link" for folder in folders if folder.path.is_symlink()}
    here = {folder.name for folder in folders}
    groups = [{folder.name, *_members(folder)} & here for folder in folders]
    while more := {name: cause for group in groups for name, cause in _held_back(group, refused)}:
        refused |= more
    return refused


def _held_back(group: set[str], refused: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Members of a group that have to stay because another member stays."""
    if cause := next((name for name in sorted(group) if name in refused), None):
        yield from ((name, f"it belongs together with {cause}, which stays") for name in group - set(refused))


def _is_running(folder: Folder) -> bool:
    if isinstance(folder, LadderDir):
        return folder.is_active() or any(probe.is_active() for probe in run_dir.iterate(folder.probes))
    if isinstance(folder, RunDir):
        return folder.state() in run_dir.ACTIVE or locks.is_in_use(folder.path)
    return folder.is_active()


def _members(folder: Folder) -> set[str]:
    """Names of the runs of a ladder, or of the ladders of a sweep; none where its files are damaged."""
    try:
        if isinstance(folder, SweepDir):
            return {cell.ladder for cell in folder.plan().cells}
        state = folder.state() if isinstance(folder, LadderDir) else None
    except UserError:
        return set()
    return {Path(entry.run).parts[0] for entry in state.entries if entry.run} if state else set()


def _adopt_one(folder: Folder, home: Path) -> AdoptedFolder:
    """Move one run, ladder or sweep, holding its lock so that no worker starts meanwhile."""
    had_lock = folder.lock_file.exists()
    at = folder.path
    try:
        lock = locks.acquire(folder.lock_file, str(os.getpid()))
        if lock is None:
            return _result(folder, "refused", RUNNING)
        try:
            _move(folder.path, home / folder.name)
            at = home / folder.name
        finally:
            os.close(lock)
            if not had_lock:
                locks.remove_stale(at / folder.lock_file.name)
    except UserError as error:
        return _result(folder, "failed", error.line)
    except (OSError, shutil.Error) as error:
        return _result(folder, "failed", f"cannot move: {getattr(error, 'strerror', None) or error}")
    return _result(folder, "moved")


def _result(folder: Folder, state: Literal["moved", "refused", "failed"], reason: str = "") -> AdoptedFolder:
    return AdoptedFolder(folder.name, folder.KIND, state, reason)


def _move(source: Path, target: Path) -> None:
    """Rename, or copy to another file system. Raises UserError and OSError where the original stays as it was."""
    if target.exists():
        if target.samefile(source):
            do = "nothing has to be moved: both paths are the same directory"
            raise UserError("already in the runs home", str(target), do, "runs.adopt_same")
        if _digests(source) != _digests(target):
            what = "another run of this name is in the runs home"
            raise UserError(what, str(target), "rename one of them", "runs.adopt_conflict")
        _remove_original(source)
        return
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(source, target)
        _remove_original(source)


def _copy(source: Path, target: Path) -> None:
    """Copy to a temporary name, verify, flush to the disk, rename: the target is complete or missing."""
    temporary = target.with_name(f".{target.name}.tmp")
    remove_tree(temporary)
    _check_space(source, target.parent)
    try:
        temporary.mkdir(mode=0o700)
        with locked_folder(temporary):
            shutil.copytree(source, temporary, symlinks=True, dirs_exist_ok=True)
            if _digests(source) != _digests(temporary):
                raise OSError(errno.EIO, "the copy differs from the original")
            _flush(temporary)
            temporary.rename(target)
    except BaseException:
        remove_tree(temporary, ignore_errors=True)
        raise
    _flush_directory(target.parent)


def _check_space(source: Path, home: Path) -> None:
    need = sum(path.lstat().st_size for path in source.rglob("*") if path.is_file() and not path.is_symlink())
    free = shutil.disk_usage(home).free
    if need > free:
        what = f"{need / 2**20:,.1f} MiB needed, {free / 2**20:,.1f} MiB of disk space free"
        raise UserError(what, str(home), "free some space, then adopt again", "runs.disk_full")


def _digests(root: Path) -> dict[str, str]:
    """Relative path -> SHA-256, the target of a symbolic link, or '' for a directory; without the lock file."""
    digests: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            digests[name] = f"-> {path.readlink()}"
        elif path.is_file() and name != "engine.lock":
            with path.open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        elif path.is_dir():
            digests[name] = ""
    return digests


def _flush(root: Path) -> None:
    for directory, _, files in os.walk(root):
        for name in files:
            if not (path := Path(directory, name)).is_symlink():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        _flush_directory(Path(directory))


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_original(source: Path) -> None:
    """Renamed first: a partly deleted directory must not be listed as a run."""
    temporary = source.with_name(f".{source.name}.tmp")
    remove_tree(temporary)
    source.rename(temporary)
    remove_tree(temporary)


def _remove_copied(source: Path, home: Path) -> None:
    """Originals that an interrupted adoption had copied completely and not removed yet."""
    for path in source.glob(".*.tmp"):
        if (home / path.name[1 : -len(".tmp")]).is_dir():
            remove_tree(path)


def _remove_empty(source: Path) -> None:
    try:
        source.rmdir()
    except OSError:  # something else is in it
        return
