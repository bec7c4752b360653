"""Files that appear completely or not at all, deletion that stays inside a folder, and the working directory."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

from engine.contract.errors import UserError


def working_folder() -> Path:
    """Where we were started. Raises UserError where that has been deleted since."""
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise UserError("the working directory has been deleted", do="start ftbench in one that is there") from error


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
    caller of `shutil.rmtree`, which ruff forbids elsewhere.
    """
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return
    except OSError:
        if not ignore_errors:
            raise
        return
    shutil.rmtree(path, ignore_errors=ignore_errors)  # noqa: TID251
