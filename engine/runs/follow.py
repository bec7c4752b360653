"""Reads a growing `events.jsonl` a portion at a time: a log of any length takes the same memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from engine.runs.events import Event, Memory, Step, decode, is_damaged, opening_of

CHUNK = 1 << 20
"""Bytes read at a time: some 4,000 events."""
MAX_LINE = 64 << 20
"""A line longer than this is damaged, whatever it holds: it is passed over without being held."""
ANY = b'{"type":"'
"""How every event begins as it is written; other lines are looked at to be counted."""
FREQUENT = opening_of([Step, Memory])
MARK = re.compile(r"\[\d\d:\d\d:\d\d\] [a-z]+")
"""`[12:01:22] training`, as the worker prints it."""


class Follower:
    """An incremental reader. It may start before the file exists; lines that are not events are counted and skipped."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path, self.offset = path, offset
        self.damaged = 0
        """Lines so far that are not events of any version."""

    def read(self) -> list[Event]:
        """Every complete event since the last call, oldest first. For short logs: everything is held at once."""
        return [event for portion in self.portions() for event in portion]

    def portions(self, *kinds: type[Event], thin: bool = False) -> Iterator[list[Event]]:
        """The same in portions of about a megabyte; a torn last line waits for its rest.

        With `kinds` only those events are decoded, which is several times faster. With `thin` only the last step and
        the last memory sample of each portion are.
        """
        openings = opening_of(kinds)
        for lines in self._lines():
            if openings:
                lines = [line for line in lines if line.startswith(openings) or not line.startswith(ANY)]
            elif thin:
                lines = _thinned(lines)
            yield [event for line in lines if line and (event := self._decoded(line))]

    def _decoded(self, line: bytes) -> Event | None:
        event = decode(line)
        if event is None and is_damaged(line):
            self.damaged += 1
        return event

    def _lines(self) -> Iterator[list[bytes]]:
        while chunk := self._chunk():
            complete = chunk.rfind(b"\n") + 1
            if not complete:
                return
            self.offset += complete
            yield chunk[:complete].split(b"\n")  # and not splitlines, which also splits at a carriage return

    def _chunk(self) -> bytes:
        """At least one complete line where there is one, however long it is."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                chunk = file.read(CHUNK)
                while b"\n" not in chunk[-CHUNK:] and (more := file.read(CHUNK)):
                    if len(chunk) >= MAX_LINE:
                        self.offset, chunk = self.offset + len(chunk), b""
                        self.damaged += 1
                    chunk += more
                return chunk
        except FileNotFoundError:
            return b""


def stream(path: Path, *kinds: type[Event]) -> Iterator[Event]:
    """Every event of a log, or those of some kinds, oldest first and without holding them."""
    for portion in Follower(path).portions(*kinds):
        yield from portion


def _thinned(lines: list[bytes]) -> list[bytes]:
    """Without the steps and memory samples that others of the same kind follow."""
    kept: list[bytes] = []
    seen: set[bytes] = set()
    for line in reversed(lines):
        opening = next((one for one in FREQUENT if line.startswith(one)), None) if line.startswith(FREQUENT) else None
        if opening is None or opening not in seen:
            kept.append(line)
        if opening is not None:
            seen.add(opening)
    return kept[::-1]


def last_line(path: Path, limit: int = 65536) -> str:
    """The last non-empty line of a process's log, '' where there is none."""
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
