"""The data sets used lately, kept in `$XDG_STATE_HOME/ftbench/recent.json`: file and folder paths, and Hub ids."""

from __future__ import annotations

from pathlib import Path

import msgspec
import platformdirs

from engine.config.files import read_small, write_atomically

MOST = 20


def recent_file() -> Path:
    return Path(platformdirs.user_state_dir("ftbench")) / "recent.json"


def read_recent() -> list[str]:
    """The newest first. A file that is missing, unreadable or damaged is an empty list: it is a convenience only."""
    try:
        return msgspec.json.decode(read_small(recent_file()), type=list[str])[:MOST]
    except (OSError, msgspec.DecodeError, RecursionError):
        return []


def remember(data: str) -> None:
    """Put a set in front. Raises OSError where the file cannot be written."""
    _write([data, *(other for other in read_recent() if other != data)])


def forget(data: str) -> None:
    """Leave a set out from now on. Raises OSError where the file cannot be written."""
    _write([other for other in read_recent() if other != data])


def _write(names: list[str]) -> None:
    path = recent_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, msgspec.json.encode(names[:MOST]))
