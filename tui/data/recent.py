"""Recently used data sets, stored in `$XDG_STATE_HOME/ftbench/recent.json`: paths and Hub ids."""

from __future__ import annotations

from pathlib import Path

import msgspec
import platformdirs

from engine.config.files import read_small, write_atomically

MAX_RECENT = 20


def recent_file() -> Path:
    return Path(platformdirs.user_state_dir("ftbench")) / "recent.json"


def read_recent() -> list[str]:
    """Recent data sets, latest first; empty where the file is missing, unreadable or damaged."""
    try:
        return msgspec.json.decode(read_small(recent_file()), type=list[str])[:MAX_RECENT]
    except (OSError, msgspec.DecodeError, RecursionError):
        return []


def remember(data: str) -> None:
    """Move a set to the front. Raises OSError where the file cannot be written."""
    _write([data, *(other for other in read_recent() if other != data)])


def forget(data: str) -> None:
    """Remove a set from the list. Raises OSError where the file cannot be written."""
    _write([other for other in read_recent() if other != data])


def _write(names: list[str]) -> None:
    path = recent_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, msgspec.json.encode(names[:MAX_RECENT]))
