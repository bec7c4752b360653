"""Files that appear completely or not at all, deletion that stays inside a folder, and the working directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from engine.config.errors import UserError
from engine.config.text import visible

PULL_PREFIX = "ftbench-pull-"
"""Of a download's folder in the system's temporary folder."""
SMALL = 1 << 20
"""Bytes of a preset or of settings, at most."""


def working_folder() -> Path:
    """Where we were started. Raises UserError where that has been deleted since."""
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise UserError("the working directory has been deleted", do="start ftbench in one that is there") from error


def check_utf8(name: str, where: str = "") -> None:
    """Raises UserError for a name that no preset, configuration or log can hold: file names are bytes, text is not."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        what, do = "this name is not valid UTF-8", "rename the file or folder"
        raise UserError(what, where or visible(name), do, "name.not_utf8") from error


def read_small(path: Path, limit: int = SMALL) -> bytes:
    """The content of a file of settings. Raises OSError for pipes and devices, which may never end, and for more."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit:,} bytes", str(path))
    return content


@contextlib.contextmanager
def temporary_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A folder that is gone afterwards. Locked, so that `doctor --repair` knows what a process still works on."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(descriptor)
        remove_tree(folder, ignore_errors=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the target, flush to the disk, rename: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def no_room(error: BaseException) -> bool:
    """Whether a file could not be written because a disk, a quota or a file size limit is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def remove_tree(path: Path, ignore_errors: bool = False) -> None:
    """Delete a file or a directory with everything in it; of a symbolic link only the link.

    Nothing to delete is no error. Raises OSError where something stays, unless errors are to be ignored. The only
    caller of `shutil.rmtree`: a test finds any other.
    """
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return
    except OSError:
        if not ignore_errors:
            raise
        return
    shutil.rmtree(path, ignore_errors=ignore_errors)
