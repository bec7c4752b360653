"""Recently used datasets and models, in `$XDG_STATE_HOME/ftbench/`: paths and Hub ids."""

from __future__ import annotations

from pathlib import Path

import msgspec
import platformdirs

from engine.config.files import read_small, write_atomically

EMBEDDED = ("tickets",)
"""Datasets shipped with ftbench."""
MAX_RECENT = 20
DATA, MODELS = "recent.json", "recent-models.json"
"""Names of the files."""


def recent_file(kind: str = DATA) -> Path:
    return Path(platformdirs.user_state_dir("ftbench")) / kind


def read_recent(kind: str = DATA) -> list[str]:
    """Recent names, latest first; empty where the file is missing, unreadable or damaged."""
    try:
        return msgspec.json.decode(read_small(recent_file(kind)), type=list[str])[:MAX_RECENT]
    except (OSError, msgspec.DecodeError, RecursionError):
        return []


def remember(name: str, kind: str = DATA) -> None:
    """Move a name to the front. Raises OSError where the file cannot be written."""
    _write([name, *(other for other in read_recent(kind) if other != name)], kind)


def forget(name: str, kind: str = DATA) -> None:
    """Remove a name from the list. Raises OSError where the file cannot be written."""
    _write([other for other in read_recent(kind) if other != name], kind)


def _write(names: list[str], kind: str) -> None:
    path = recent_file(kind)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, msgspec.json.encode(names[:MAX_RECENT]))
