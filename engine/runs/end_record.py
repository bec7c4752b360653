"""How a run or a ladder ended, in a file whose disk blocks are reserved before the work begins.

On a full disk neither the `end` event nor `result.json` can be written. Overwriting reserved blocks needs no room, so
the reason still gets into `end.json`. The file is empty (spaces) unless that happened.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from engine.runs.events import Status

SIZE = 4096
"""One block of common file systems."""
MAX_REASON = 1000
"""Characters of the reason that are kept: at most 6 bytes each in JSON, so they always fit."""


class EndRecord(msgspec.Struct, kw_only=True, frozen=True):
    """An end that could not be written to the log."""

    status: Status
    reason: str
    t: float
    """Unix seconds."""


def reserve(path: Path) -> None:
    """Make the file with its blocks, or empty it. Raises OSError where the disk is full already."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        _fill(descriptor, b"")
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    finally:
        os.close(descriptor)


def write(path: Path, record: EndRecord) -> bool:
    """Put the record into the reserved blocks; False where even that failed."""
    kept = msgspec.structs.replace(record, reason=record.reason[:MAX_REASON])
    text = msgspec.json.encode(kept)
    if len(text) >= SIZE:  # every character took six bytes
        text = msgspec.json.encode(msgspec.structs.replace(kept, reason=kept.reason[: MAX_REASON // 2]))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            _fill(descriptor, text)
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True


def read(path: Path) -> EndRecord | None:
    """The record, None where there is none or it cannot be read."""
    try:
        text = path.read_bytes()[:SIZE].strip()
        return msgspec.json.decode(text, type=EndRecord) if text else None
    except (OSError, ValueError, RecursionError):
        return None


def _fill(descriptor: int, text: bytes) -> None:
    block = text.ljust(SIZE - 1) + b"\n"
    written = 0
    while written < len(block):
        written += os.pwrite(descriptor, block[written:], written)
    os.fsync(descriptor)
