"""Bounded reads, atomic writes, deletion that does not follow links, temporary folders, kinds of data files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import io
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from engine.config.errors import UserError, reason_of, system_hint
from engine.config.text import visible

T = TypeVar("T")
SCRATCH_PREFIX = "ftbench-tmp-"
"""Name prefix of folders in the system's temporary folder. Others that begin with `ftbench-` are the user's, or the
lock folder."""
SCRATCH_NAME = re.compile(re.escape(SCRATCH_PREFIX) + r"([a-z]+-)?[a-z0-9_]{8}")
"""Their names, which end as `tempfile.mkdtemp` makes them unique."""
TEMPORARY_NAMES = (".*.tmp", ".tmp-*", ".writing-*")
"""Patterns of the names of temporary files and folders in ftbench's own directories. `ftbench clean temporary` finds
only these and SCRATCH_NAME, so every temporary file needs a name from here (a test compares them with the sources).
"""
MAX_SETTINGS_BYTES = 1 << 20
"""Size limit of presets and of settings files."""
MAX_RECORD_BYTES = 64 << 20
"""Size limit of a configuration, state or result that is read as a whole."""
MAX_ITEMS_BYTES = 1 << 30
"""Size limit of a file with a line per test item."""
MAX_LOG_BYTES = 4 << 30
"""Size limit of a log, which is read in portions."""

TAIL_BYTES = 1 << 20
"""Read at a time from the end of a file, to find its last line."""


def working_directory() -> Path:
    """The working directory. Raises UserError where it has been deleted."""
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        hint = "start ftbench in a directory that exists"
        raise UserError("the working directory has been deleted", hint=hint, code="cli.no_working_directory") from error


def check_utf8(name: str, where: str = "") -> None:
    """Raise UserError for a file name that is not UTF-8: presets, configurations and logs cannot contain it."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        hint = "rename the file or folder"
        raise UserError("the name is not valid UTF-8", where or visible(name), hint, code="name.not_utf8") from error


class _NamedFile(io.FileIO):
    """A file whose errors name it, as those of opening a file do."""

    def __init__(self, descriptor: int, path: Path) -> None:
        super().__init__(descriptor)
        self._path = str(path)

    def readinto(self, buffer: Any, /) -> int:
        with self._naming():
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with self._naming():
            return super().readall()

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = self._path
            raise


class IrregularFile(OSError):
    """A path that is not a regular file of acceptable size: reading a pipe may never end."""


def open_regular(path: Path, limit: int = MAX_LOG_BYTES, follow: bool = False) -> io.BufferedReader:
    """Open a file for reading, without waiting for a writer of a pipe: the one way to open a file of a run.

    `follow`: whether the path may be a symbolic link, as the user's own files may. Raises OSError, and its subclass
    IrregularFile for a link, a pipe or a directory and for more than `limit` bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise IrregularFile(error.errno, "not a regular file", str(path)) from error
        raise
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size <= limit:
        return io.BufferedReader(_NamedFile(descriptor, path))
    os.close(descriptor)
    if stat.S_ISREG(status.st_mode):
        raise IrregularFile(errno.EFBIG, f"larger than {limit:,} bytes", str(path))
    raise IrregularFile(errno.EINVAL, "not a regular file", str(path))


def append_whole(descriptor: int, content: bytes) -> None:
    """Append to a file that no other process writes. Raises OSError on a full disk, which leaves no part of it."""
    size, written = os.fstat(descriptor).st_size, 0
    try:
        while written < len(content):  # an almost full disk accepts a part
            written += os.write(descriptor, content[written:])  # noqa: TID251 - to a file, not to a terminal
    except OSError:
        if written:
            os.ftruncate(descriptor, size)
        raise


@contextlib.contextmanager
def appended_lines(path: Path) -> Iterator[Callable[[bytes], None]]:
    """A function that appends complete lines to a file, which no other process writes; they are on the disk on exit.

    What a killed writer left of its last line is removed, or the next line would extend it. Raises OSError for a link.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        size = end = os.fstat(descriptor).st_size
        newline = -1
        while end and newline < 0:
            start = max(0, end - TAIL_BYTES)
            newline = os.pread(descriptor, end - start, start).rfind(b"\n")
            end = start + newline + 1
        if end < size:
            os.ftruncate(descriptor, end)
        yield functools.partial(append_whole, descriptor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_regular(path: Path, limit: int = MAX_RECORD_BYTES, follow: bool = False) -> bytes:
    """The content of a file. Raises OSError as `open_regular` does."""
    with open_regular(path, limit, follow) as file:
        content = file.read(limit + 1)
    if len(content) > limit:  # it has grown
        raise IrregularFile(errno.EFBIG, f"larger than {limit:,} bytes", str(path))
    return content


def read_tail(path: Path, limit: int) -> bytes:
    """At most the last `limit` bytes of a file. Raises OSError as `open_regular` does."""
    with open_regular(path) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - limit))
        return file.read()


def read_json_lines(path: Path, kind: type[T], skip_damaged: bool = False) -> list[T]:
    """The content of a file with one JSON value per line; none if it is missing.

    An incomplete last line, which a killed writer left, is ignored. `skip_damaged`: whether other lines that cannot be
    decoded are left out. Raises OSError as `open_regular` does, else ValueError with the number of the damaged line.
    """
    try:
        complete, _, _ = read_regular(path, MAX_ITEMS_BYTES).rpartition(b"\n")
    except FileNotFoundError:
        return []
    values = []
    for number, line in enumerate(filter(None, complete.split(b"\n")), 1):
        try:
            values.append(msgspec.json.decode(line, type=kind))
        except (ValueError, RecursionError) as error:
            if not skip_damaged:
                raise ValueError(f"line {number}: {error}") from error
    return values


def read_item_lines(path: Path) -> list[bytes]:
    """The lines of a file with one per test item, without empty ones. Raises OSError as `open_regular` does."""
    return [line for line in read_regular(path, MAX_ITEMS_BYTES).split(b"\n") if line]


def read_small(path: Path, limit: int = MAX_SETTINGS_BYTES) -> bytes:
    """The content of a file of the user, which may be a link. Raises OSError as `open_regular` does."""
    return read_regular(path, limit, follow=True)


def unusable_file(path: Path, error: Exception, hint: str, code: str) -> UserError:
    """The error for a file of ftbench's own that is damaged; `SUBJECT.unreadable` for one that cannot be read."""
    if isinstance(error, OSError):
        code = f"{code.partition('.')[0]}.unreadable"
        return UserError(f"cannot read: {error.strerror}", str(path), system_hint(error) or "check the path", code)
    return UserError(f"damaged: {reason_of(error)}", str(path), hint, code)


def read_json(path: Path, kind: type[T], hint: str, code: str) -> T | None:
    """The content of a JSON file of ftbench's own; None if it is missing. Raises UserError as `unusable_file`."""
    try:
        return msgspec.json.decode(read_regular(path), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise unusable_file(path, error, hint, code) from error


def file_sha256(path: Path) -> str:
    import hashlib  # not needed for the first frame of the bench

    with open_regular(path, sys.maxsize, follow=True) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def temporary_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A locked folder that is deleted afterwards: in `parent`, by default in the system's temporary folder.

    `prefix` starts with SCRATCH_PREFIX there, and with a dot in `parent`.
    """
    place = os.path.realpath(tempfile.gettempdir() if parent is None else parent)  # it can be a link
    folder = Path(tempfile.mkdtemp(prefix=prefix, suffix="" if parent is None else ".tmp", dir=place))  # noqa: TID251 - the one place
    try:
        with locked_folder(folder):
            yield folder
    finally:
        remove_tree(folder, ignore_errors=True)


def locked_folder(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Lock a temporary folder, so that `ftbench clean temporary` keeps it while it is in use."""
    return _flock(folder, fcntl.LOCK_EX)


def used_folder(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Keep a run's directory from being removed while it is read; several processes can use it."""
    return _flock(folder, fcntl.LOCK_SH)


@contextlib.contextmanager
def _flock(folder: Path, kind: int) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)


def expanded(path: str | Path) -> Path:
    """The path with `~` replaced by a home directory. Raises UserError for an unknown user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        hint = "use the path of the folder instead of ~"
        raise UserError("unknown user in a path", visible(str(path)), hint, code="file.unknown_user") from error


def write_atomically(path: Path, content: bytes, overwrite: bool = True) -> None:
    """Write a temporary file, flush it to disk, rename it: a reader sees the old file or the new one.

    Without `overwrite`, raises FileExistsError where the file exists: unlike a rename, a link fails there.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")  # unique: nothing else is overwritten
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            temporary.replace(path)
        else:
            os.link(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def is_no_space_error(error: BaseException) -> bool:
    """Whether a file could not be written because the disk is full or a quota or file size limit is reached."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_no_link_above(path: Path) -> None:
    """Raise OSError where a directory above the path is a symbolic link. Those of the user are resolved before."""
    parent = path.absolute().parent
    if os.path.realpath(parent) != str(parent):
        raise OSError(errno.ELOOP, "a directory of the path is a symbolic link", str(parent))


def remove_tree(path: Path, ignore_errors: bool = False) -> None:
    """Delete a file, or a directory and its content; of a symbolic link only the link is deleted.

    A missing path is no error. Raises OSError where something is left, unless `ignore_errors` is set, and for a path
    that leads through a symbolic link: what is there belongs to something else. Nothing else may call `shutil.rmtree`
    (checked by ruff).
    """
    try:
        check_no_link_above(path)
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return
    except OSError:
        if not ignore_errors:
            raise
        return
    shutil.rmtree(path, ignore_errors=ignore_errors)  # noqa: TID251 - the one place


def subfolders(parent: Path) -> list[Path]:
    """The directories in a folder by name, without hidden ones and links; none where it is missing. Raises OSError."""
    with contextlib.suppress(FileNotFoundError), os.scandir(parent) as entries:
        folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        return sorted(Path(entry.path) for entry in folders if not entry.name.startswith("."))
    return []


def folder_bytes(folder: Path, pattern: str = "*") -> int:
    """Total size in bytes of the matching files, at any depth."""
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to the disk, so that what was created or renamed in it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


TEXT_KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
"""Kinds of data file that are text, and may be gzipped."""
KINDS = (*TEXT_KINDS, ".parquet")
READABLE = f"{' '.join(KINDS)}, the text formats also as .gz"
"""The supported kinds, as errors list them."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def data_file_kind(name: str | Path) -> str | None:
    """The suffix that says how to read a file (`.csv` for `a.CSV.gz`); None for other files."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    if suffixes[-1:] == [".gz"]:
        return suffixes[-2] if suffixes[-2:-1] and suffixes[-2] in TEXT_KINDS else None
    return suffixes[-1] if suffixes and suffixes[-1] in KINDS else None


def is_data_file(name: str | Path) -> bool:
    """Whether ftbench reads files of this name."""
    return data_file_kind(name) is not None


def is_hub_id(name: str) -> bool:
    """Whether a name has the form owner/name."""
    return bool(_HUB_ID.fullmatch(name))
