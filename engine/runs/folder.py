"""What runs and ladders have in common: a directory, a log, a lock that says who is alive, a name to find it by."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from engine.config.errors import RunFailed, UserError
from engine.config.files import check_utf8, remove_tree, write_atomically
from engine.runs import end_record, locks


@dataclass(frozen=True)
class Folder:
    """A directory that one process at a time works in."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def log_file(self) -> Path:
        return self.path / "engine.log"

    @property
    def lock_file(self) -> Path:
        return self.path / "engine.lock"

    @property
    def end_file(self) -> Path:
        """Takes the reason of the end where the disk is too full for anything else."""
        return self.path / "end.json"

    def pid(self) -> int | None:
        """The live process's id, None where nobody holds the lock."""
        return locks.pid_of(locks.holder(self.lock_file))

    def is_live(self) -> bool:
        return locks.holder(self.lock_file) is not None


F = TypeVar("F", bound=Folder)


def make(parent: Path, stem: str, ending: str, file: str, text: str) -> Path:
    """`<parent>/<yyyymmdd-hhmmss>-<stem>-<ending>-<4 hex>/`, mode 0700, with one file; nothing stays if it fails."""
    check_utf8(str(parent))
    locks.lock_folder()  # what starts needs it: refused before anything is created
    safe = "".join(character if character.isalnum() or character in "-_" else "-" for character in stem)[:40]
    path = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{safe or 'run'}-{ending}-{os.urandom(2).hex()}"
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
    except OSError as error:
        raise UserError(
            f"cannot make a directory: {error.strerror}", str(parent), "choose another with --runs DIR"
        ) from error
    try:
        end_record.reserve(path / "end.json")
        write_atomically(path / file, text.encode())
    except OSError as error:
        remove_tree(path, ignore_errors=True)
        raise RunFailed(f"{path.name} cannot be written: {error.strerror}; free some space in {parent}") from error
    except BaseException:
        remove_tree(path, ignore_errors=True)
        raise
    return path


def holding(parent: Path, file: str) -> Iterator[Path]:
    """The directories in `parent` that hold such a file, in no order; none where there is no such folder.

    Raises UserError where it cannot be looked into.
    """
    try:
        with os.scandir(parent) as entries:
            for entry in entries:
                with contextlib.suppress(PermissionError):  # somebody else's, in a folder that several share
                    if entry.is_dir() and Path(entry.path, file).exists():
                        yield Path(entry.path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", str(parent), "choose another with --runs DIR") from error


def has_file(path: Path, file: str) -> bool:
    """Whether a directory holds such a file. Raises UserError where it belongs to somebody else."""
    try:
        return (path / file).is_file()
    except PermissionError as error:
        raise UserError("belongs to another user", str(path), "ask its owner", code="run.not_yours") from error


def pick(known: Iterable[F], name: str, kind: str, where: Path, hint: str) -> F:
    """The one by its name, an unambiguous part of it, or `last`. Raises UserError where that is none or several."""
    folders = sorted(known, key=lambda folder: folder.name)
    if name == "last" and folders:
        return folders[-1]
    partly = [one for one in folders if one.name == name] or [one for one in folders if name in one.name]
    if len(partly) == 1:
        return partly[0]
    if partly:
        raise UserError(f"{name!r} could be {len(partly)} {kind}s", str(where), f"give more of the name; {hint}")
    raise UserError(f"no {kind} {name!r}", str(where), f"{hint}, --runs DIR looks elsewhere")
