"""Read a growing `events.jsonl` incrementally, in chunks: memory use does not depend on the length of the log.

File watchers such as watchfiles report that a file changed, not its new complete lines. Reading from a byte offset
needs no further dependency, and works on network file systems, where change notifications do not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from engine.config.files import IrregularFile, open_regular
from engine.runs.event_decoding import decode, is_damaged, opening_of
from engine.runs.events import Event, Memory, Step

CHUNK = 1 << 20
"""Bytes per read: about 4,000 events."""
MAX_LINE = 64 << 20
"""Bytes; longer lines count as damaged and are skipped without keeping them in memory."""
EVENT_PREFIX = b'{"type":"'
"""Prefix of every event as it is written; lines without it are decoded only to count damage."""
FREQUENT_PREFIXES = opening_of([Step, Memory])
PHASE_MARK = re.compile(r"\[\d\d:\d\d:\d\d\] [a-z]+")
"""`[12:01:22] training`, which the worker prints at the start of a phase."""


class Follower:
    """Incremental reader of an event log. The file need not exist yet; damaged lines are counted and skipped."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path, self.offset = path, offset
        self.damaged = 0
        """Lines so far that are not events of any version."""

    def read(self) -> list[Event]:
        """All complete events since the last call, oldest first. For short logs: keeps all of them in memory."""
        return [event for portion in self.portions() for event in portion]

    def portions(self, *kinds: type[Event], thin: bool = False) -> Iterator[list[Event]]:
        """Like `read`, in portions of about one megabyte; an incomplete last line is read once it is complete.

        With `kinds`, only events of these types are decoded, which is several times faster. With `thin`, only the last
        step and the last memory sample of each portion are decoded.
        """
        openings = opening_of(kinds)
        for lines in self._lines():
            if openings:
                lines = [line for line in lines if line.startswith(openings) or not line.startswith(EVENT_PREFIX)]
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
            yield chunk[:complete].split(b"\n")  # splitlines would also split at a carriage return

    def _chunk(self) -> bytes:
        """The next CHUNK bytes, or more until they contain a complete line. Raises OSError as `open_regular` does."""
        try:
            with open_regular(self.path) as file:
                file.seek(self.offset)
                chunk = bytearray(file.read(CHUNK))
                while chunk.find(b"\n", -CHUNK) < 0 and (more := file.read(CHUNK)):
                    if len(chunk) >= MAX_LINE:
                        self.offset += len(chunk)
                        self.damaged += 1
                        chunk.clear()
                    chunk += more
                return bytes(chunk)
        except FileNotFoundError:
            return b""


def stream(path: Path, *kinds: type[Event]) -> Iterator[Event]:
    """Iterate over all events of a log, or those of the given types, oldest first."""
    for portion in Follower(path).portions(*kinds):
        yield from portion


def _thinned(lines: list[bytes]) -> list[bytes]:
    """Drop all steps and memory samples except the last of each."""
    selected: list[bytes] = []
    found: set[bytes] = set()
    for line in reversed(lines):
        frequent = line.startswith(FREQUENT_PREFIXES)
        prefix = next((one for one in FREQUENT_PREFIXES if line.startswith(one)), None) if frequent else None
        if prefix is None or prefix not in found:
            selected.append(line)
        if prefix is not None:
            found.add(prefix)
    return selected[::-1]


def last_line(path: Path, limit: int = 65536) -> str:
    """The last non-empty line of a process's log; '' if there is none, or if it is the mark of a phase."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - limit))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
    except (FileNotFoundError, IrregularFile):
        return ""
    return without_phase_mark(lines[-1]) if lines else ""


def without_phase_mark(line: str) -> str:
    """A line of a worker's output; '' for the mark printed at the start of a phase, which is no message."""
    return "" if PHASE_MARK.fullmatch(line.strip()) else line
