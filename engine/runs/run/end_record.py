"""`end.json`: the outcome of a run or ladder, in a file whose disk blocks are reserved at the start.

On a full disk neither the `end` event nor `result.json` can be written. Overwriting reserved blocks needs no free
space, so the reason can still be written to `end.json`. Otherwise the file contains only spaces.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from engine.config.files import is_no_space_error, read_regular
from engine.runs.run.result import Status

SIZE = 4096
"""Bytes; one block of common file systems."""
MAX_REASON = 1000
"""Characters of the reason; longer reasons are truncated."""


class EndRecord(msgspec.Struct, kw_only=True, frozen=True):
    """An outcome that could not be written to the log."""

    status: Status
    reason: str
    t: float
    """Unix seconds."""


def reserve(path: Path) -> None:
    """Create the file with its blocks, or clear it. Raises OSError if the disk is already full."""
    try:
        _fill(path, b"")
    except OSError as error:
        if is_no_space_error(error):
            with contextlib.suppress(OSError):
                path.unlink()
        raise


def write(path: Path, record: EndRecord) -> bool:
    """Write the record into the reserved blocks; False if even that failed."""
    shortened = msgspec.structs.replace(record, reason=record.reason[:MAX_REASON])
    text = msgspec.json.encode(shortened)
    if len(text) >= SIZE:  # JSON escapes take up to six bytes per character
        text = msgspec.json.encode(msgspec.structs.replace(shortened, reason=shortened.reason[: MAX_REASON // 2]))
    try:
        _fill(path, text)
    except OSError:
        return False
    return True


def read(path: Path) -> EndRecord | None:
    """Read the record; None if there is none or it cannot be read."""
    try:
        text = read_regular(path)[:SIZE].strip()
        return msgspec.json.decode(text, type=EndRecord) if text else None
    except (OSError, ValueError, RecursionError):
        return None


def _fill(path: Path, text: bytes) -> None:
    block, written = text.ljust(SIZE - 1) + b"\n", 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        while written < len(block):
            written += os.pwrite(descriptor, block[written:], written)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
