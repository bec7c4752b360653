"""Reads a growing `events.jsonl` from where it left off; a torn last line waits for its rest."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from engine.contract.events import Event, decode

CHUNK = 4 << 20
MARK = re.compile(r"\[\d\d:\d\d:\d\d\] [a-z]+")
"""`[12:01:22] training`, as the worker prints it."""


class Follower:
    """An incremental reader; it may start before the file exists and survives anything the file holds."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path, self.offset = path, offset

    def read(self) -> list[Event]:
        """Every whole event since the last call, oldest first."""
        return [event for portion in self.portions() for event in portion]

    def portions(self) -> Iterator[list[Event]]:
        """The same in portions of some megabytes: a long run need not be held as a whole."""
        while chunk := self._chunk():
            whole = chunk.rfind(b"\n") + 1
            if not whole:
                return
            self.offset += whole
            yield [event for line in chunk[:whole].splitlines() if line and (event := decode(line))]

    def _chunk(self) -> bytes:
        """At least one whole line where there is one, however long it is."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                chunk = file.read(CHUNK)
                while len(chunk) % CHUNK == 0 and chunk and b"\n" not in chunk and (more := file.read(CHUNK)):
                    chunk += more
                return chunk
        except FileNotFoundError:
            return b""


def last_line(path: Path, limit: int = 65536) -> str:
    """What a process said last in its log: the last non-empty line, '' where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - limit))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
    except FileNotFoundError:
        return ""
    return said(lines[-1]) if lines else ""


def said(line: str) -> str:
    """A line of a worker's output as its words; '' for its own marks of where a phase began, which say nothing."""
    return "" if MARK.fullmatch(line.strip()) else line
