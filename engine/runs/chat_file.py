"""Save conversations as a dataset: JSON Lines with `messages`, which `ftbench data check` and runs read."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.config.errors import RunFailed
from engine.config.files import write_atomically


def save_conversations(folder: Path, conversations: Mapping[str, Sequence[Mapping[str, Any]]]) -> Path:
    """Write `conversation-<date>-<time>.jsonl` into the folder, one line per column, and return its path.

    conversations: column's title -> messages in OpenAI's schema. A file that exists is never replaced. Raises RunFailed
    if the file cannot be written.
    """
    stem = time.strftime("conversation-%Y%m%d-%H%M%S")
    path = next(path for path in _names(folder, stem) if not path.exists())
    lines = [msgspec.json.encode({"messages": messages, "model": title}) for title, messages in conversations.items()]
    try:
        write_atomically(path, b"\n".join([*lines, b""]))
    except OSError as error:
        raise RunFailed(f"cannot write {path}: {error.strerror}", "chat.cannot_save") from error
    return path


def _names(folder: Path, stem: str) -> Iterator[Path]:
    yield folder / f"{stem}.jsonl"
    number = 2
    while True:
        yield folder / f"{stem}-{number}.jsonl"
        number += 1
