"""What runs and ladders share: a directory, a log, a lock that tells whether a process works on it, and a name."""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

import msgspec

from engine.config.errors import RunFailed, UserError
from engine.config.files import (
    MAX_LOG_BYTES,
    MAX_RECORD_BYTES,
    check_utf8,
    is_no_space_error,
    read_json,
    read_regular,
    remove_tree,
    write_atomically,
)
from engine.config.hooks import hooks
from engine.config.text import visible
from engine.runs.home import CHOOSE_ANOTHER, check_home, tilde
from engine.runs.origin import NUMBER, Origin, read_origin
from engine.runs.queue import device_queue, locks
from engine.runs.run.result import Status

RECORD_SUFFIXES, LOG_SUFFIXES = (".toml", ".json", ".html", ".md"), (".jsonl", ".log", ".lock")
"""Of files in the directory of a run or ladder; directories have none of these."""

END_BYTES = 4096
"""Size of `end.json`; one block of common file systems."""
MAX_REASON = 600
"""Characters of the reason in `end.json`; longer reasons are truncated. A character takes up to six bytes in JSON."""


class EndRecord(msgspec.Struct, kw_only=True, frozen=True):
    """The content of `end.json`: an outcome that could not be written to the log."""

    status: Status
    reason: str
    t: float
    """Unix seconds."""


class FolderEntry:
    """An attribute of a Folder: the path of the file or folder with this name in its directory."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: Folder, kind: type | None = None) -> Path:
        return folder.path / self.name


@dataclass(frozen=True)
class Folder:
    """A directory that one process at a time works in."""

    KIND: ClassVar[str]
    """run or ladder: in messages, error codes and file names."""
    HOW_TO_LIST: ClassVar[str] = ""
    """The hint of `find` if no directory has the name."""
    path: Path
    log_file = FolderEntry("engine.log")
    lock_file = FolderEntry("engine.lock")
    end_file = FolderEntry("end.json")
    """The final status and its reason, in a file whose disk blocks are reserved at the start.

    On a full disk neither the log nor a result or state can be written. Overwriting reserved blocks needs no free
    space. Without a record the file contains only spaces.
    """

    @classmethod
    def iterate(cls, runs: Path) -> Iterator[Self]:
        """The directories of this kind in `runs`, in no order. Raises UserError where `runs` cannot be read."""
        return map(cls, directories_with_file(runs, f"{cls.KIND}.toml"))

    @classmethod
    def find(cls, runs: Path, name: str) -> Self:
        """Find a directory of this kind by its path, its name, an unambiguous part of the name, or `last`."""
        if has_file(Path(name), f"{cls.KIND}.toml"):
            return cls(real_path(Path(name)))
        return pick(cls.iterate(runs), name, cls.KIND, runs, cls.HOW_TO_LIST)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def argument(self) -> str:
        """Its name as a word of a command that is printed: quoted where a shell needs it."""
        return shlex.quote(self.path.name)

    def reserve_end(self) -> None:
        """Create `end.json` with its disk blocks, or clear it. Raises OSError if the disk is already full."""
        try:
            self._fill_end(b"")
        except OSError as error:
            if is_no_space_error(error):
                with contextlib.suppress(OSError):
                    self.end_file.unlink()
            raise

    def record_end(self, status: Status, reason: str) -> bool:
        """Write how the process ends into the reserved blocks; False if even that failed."""
        record = EndRecord(status=status, reason=reason[:MAX_REASON], t=time.time())
        try:
            self._fill_end(msgspec.json.encode(record))
        except OSError:
            return False
        return True

    def read_end(self) -> EndRecord | None:
        """The record in `end.json`; None if the file is missing, has no record or cannot be read."""
        try:
            text = read_regular(self.end_file)[:END_BYTES].strip()
            return msgspec.json.decode(text, type=EndRecord) if text else None
        except (OSError, ValueError, RecursionError):
            return None

    def _fill_end(self, text: bytes) -> None:
        block, written = text.ljust(END_BYTES - 1) + b"\n", 0
        descriptor = os.open(self.end_file, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            while written < len(block):
                written += os.pwrite(descriptor, block[written:], written)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @property
    def origin(self) -> Origin:
        return read_origin(self.path / f"{self.KIND}.toml")

    def started_in(self) -> str:
        """The directory that a run or ladder was started from; '' where it was not recorded."""
        return self.origin.started_in

    def acquire(self, text: str = "") -> int | None:
        """Acquire the lock to work in the directory (`locks.acquire`); None if another process holds it.

        Raises UserError as `check_files` does.
        """
        self.check_files()
        return locks.acquire(self.lock_file, text)

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """Hold the lock, so that no process starts in the directory meanwhile. Yields False if one works in it.

        For code that does no work in the directory: a lock file that did not exist is removed afterwards.
        """
        existed = self.lock_file.exists()
        lock = locks.acquire(self.lock_file, str(os.getpid()))
        try:
            yield lock is not None
        finally:
            if lock is not None:
                os.close(lock)
                if not existed:
                    locks.remove_stale(self.lock_file)

    def check_files(self) -> None:
        """Raise UserError where the directory is or contains a symbolic link, or where `irregular_file` finds a file.

        For every process that writes to the directory, before it does: nothing is written through a link. `remove_tree`
        checks by itself.
        """
        irregular = self.irregular_file() or _find_link(self.path)
        if irregular is None:
            return
        where = visible(str(irregular))
        if irregular.is_symlink():
            hint = "delete the link, or replace it by a copy of what it points to"
            raise UserError(f"symbolic link in the directory of a {self.KIND}", where, hint, "run.link")
        raise UserError("not a regular file of acceptable size", where, "delete it", "run.irregular_file")

    def irregular_file(self) -> Path | None:
        """An entry of the directory that is a link, not a regular file or huge, or a directory named like a file.

        None where all is well: then nothing that a list reads of it blocks or fills the memory.
        """
        if self.path.is_symlink():
            return self.path
        with contextlib.suppress(OSError), os.scandir(self.path) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if _is_irregular(Path(entry.name), entry.stat(follow_symlinks=False)):
                        return Path(entry.path)
        return None

    def pid(self) -> int | None:
        """The id of the process that holds the lock, None where none does."""
        return locks.pid_of(locks.holder(self.lock_file))

    def is_locked(self) -> bool:
        return locks.holder(self.lock_file) is not None

    def is_active(self) -> bool:
        """Whether a process works in it."""
        return self.is_locked()

    def wait_for_exit(self, seconds: float = 10.0) -> bool:
        """Wait at most `seconds` until no process works in it; whether none does: its files are then complete."""
        deadline = time.monotonic() + seconds
        while self.is_active():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


F = TypeVar("F", bound=Folder)


class State(Protocol):
    """The content of a state file."""

    updated: float
    status: Any
    reason: str
    reason_code: str


S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class StateFolder(Folder):
    """A directory whose process writes its state, `KIND.json`."""

    @property
    def state_file(self) -> Path:
        return self.path / f"{self.KIND}.json"

    def read_state(self, kind: type[S], hint: str) -> S | None:
        """The stored state; None before the first start. Raises UserError if the file is damaged or cannot be read.

        If the disk was too full to record how it ended, that is read from the reserved `end.json`.
        """
        state = read_json(self.state_file, kind, hint, f"{self.KIND}.damaged")
        if state is not None and state.status == "running" and (record := self.read_end()):
            state.status, state.reason = ("stopped" if record.status == "stopped" else "failed"), record.reason
        return state

    def write_state(self, state: State) -> None:
        state.updated = time.time()
        write_atomically(self.state_file, msgspec.json.format(msgspec.json.encode(state), indent=1))


def _find_link(folder: Path) -> Path | None:
    """A symbolic link anywhere below a directory, None where there is none."""
    trees = ((parent, name) for parent, folders, files in os.walk(folder) for name in (*folders, *files))
    paths = (os.path.join(parent, name) for parent, name in trees)  # noqa: PTH118 - a tree has many files
    return next((Path(path) for path in paths if os.path.islink(path)), None)  # noqa: PTH114


def _is_irregular(name: Path, status: os.stat_result) -> bool:
    if stat.S_ISDIR(status.st_mode):
        return name.suffix in RECORD_SUFFIXES or name.suffix in LOG_SUFFIXES
    limit = MAX_RECORD_BYTES if name.suffix in RECORD_SUFFIXES else MAX_LOG_BYTES
    return not stat.S_ISREG(status.st_mode) or status.st_size > limit


def make(parent: Path, stem: str, ending: str, file: str, text: Callable[[int], str]) -> Path:
    """Create `<parent>/<yyyymmdd-hhmmss>-<stem>-<ending>-<4 hex>/`, mode 0700, with one file in it, or nothing.

    `text`: what the file contains, from the directory's number (`Origin`), which is one more than any in the parent:
    there is no counter that could be lost, copied or damaged.

    Raises UserError where the parent or the lock folder cannot be used, and RunFailed where the file cannot be written.
    """
    check_utf8(str(parent))
    locks.lock_folder()  # needed to start a worker: refused before anything is created
    check_home(parent)
    safe = "".join(character if character.isalnum() or character in "-_" else "-" for character in stem)[:40]
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:  # two directories of the same second may get the same digits
            path = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{safe or 'run'}-{ending}-{os.urandom(2).hex()}"
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
                break
    except OSError as error:
        problem = f"cannot create a directory: {error.strerror}"
        raise UserError(problem, str(parent), CHOOSE_ANOTHER, "runs.not_writable") from error
    try:
        Folder(path).reserve_end()
        with locks.exclusive(parent / NUMBER):
            records = [f"{kind}.toml" for kind in ("run", "ladder", *hooks("ftbench.comparisons"))]
            directories = (path / record for record in records for path in directories_with_file(parent, record))
            number = 1 + max((read_origin(record).number for record in directories), default=0)
            write_atomically(path / file, text(number).encode())
    except OSError as error:
        remove_tree(path, ignore_errors=True)
        problem = f"cannot write {path.name}: {error.strerror}; free some space in {parent}"
        raise RunFailed(problem, "run.cannot_write") from error
    except BaseException:
        remove_tree(path, ignore_errors=True)
        raise
    return path


def current_directory() -> str:
    """The directory to record as `started_in`: with escapes where it is not UTF-8, '' where it has been deleted."""
    with contextlib.suppress(FileNotFoundError):
        directory = str(Path.cwd())
        return directory if directory.isprintable() else visible(directory)
    return ""


def directories_with_file(parent: Path, file: str) -> Iterator[Path]:
    """The directories in `parent` that contain such a file, in no order; none where `parent` does not exist.

    Names that start with a dot are copies in progress. Raises UserError where `parent` cannot be read.
    """
    try:
        with os.scandir(parent) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # another user's, or a link that cannot be resolved
                    if not entry.name.startswith(".") and entry.is_dir() and os.path.lexists(Path(entry.path, file)):
                        yield Path(entry.path)
    except FileNotFoundError:
        return
    except OSError as error:
        problem = f"cannot read the runs: {error.strerror}"
        raise UserError(problem, str(parent), CHOOSE_ANOTHER, "runs.unreadable") from error


def real_path(path: Path) -> Path:
    """The path of a run with the links above it resolved, as in a runs home. A link in place of the run remains one."""
    return Path(os.path.realpath(path.parent)) / path.name if path.name else Path(os.path.realpath(path))


def has_file(path: Path, file: str) -> bool:
    """Whether a directory contains such a file. Raises UserError where it belongs to another user."""
    try:
        return (path / file).is_file()
    except PermissionError as error:
        raise UserError("belongs to another user", str(path), "ask its owner", code="run.not_yours") from error


def sort_by_start(folders: Iterable[F], *, latest_first: bool = False) -> list[F]:
    """Sort directories of one home in the order in which they were made, independent of clocks and time zones."""
    return sorted(folders, key=lambda folder: (folder.origin.order, folder.name), reverse=latest_first)


def pick(known: Iterable[F], name: str, kind: str, where: Path, how_to_list: str) -> F:
    """Find one by its name, an unambiguous part of it, or `last`. Raises UserError where none or several match.

    `last` is what was started last; a ladder's run is part of the ladder, where that is among the `known`.
    """
    folders = sort_by_start(known, latest_first=True)
    if name == "last" and folders:
        names = {folder.name for folder in folders}
        return next((folder for folder in folders if folder.origin.ladder not in names), folders[0])
    exact = [folder for folder in folders if folder.name == name]
    matches = exact or [folder for folder in folders if name in folder.name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        hint = f"give more of the name; {how_to_list}"
        raise UserError(f"{name!r} matches {len(matches)} {kind}s", str(where), hint, f"{kind}.ambiguous_name")
    elsewhere = running_elsewhere(where)
    hint = f"{how_to_list}, --runs DIR looks in another directory" + (f". {elsewhere}" if elsewhere else "")
    raise UserError(f"no {kind} {name!r}", str(where), hint, f"{kind}.not_found")


def running_elsewhere(home: Path) -> str:
    """`full-3d4d is running in ~/other/runs.` for a run on this machine outside of `home`; '' without one."""
    with contextlib.suppress(UserError, OSError):
        for turn in device_queue.queue_places():
            if turn.run.name and turn.home != home:
                return f"{short_name(turn.name)} is running in {tilde(turn.home)}."
    return ""


def short_name(run: str) -> str:
    """A run's name without date and preset: `20260131-120102-demo-lora-lora-3f2a` -> `lora-3f2a`."""
    parts = run.split("-")
    return "-".join(parts[-2:]) if len(parts) > 3 else run
