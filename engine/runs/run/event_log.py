"""`events.jsonl`: its writer, and a reader that follows the growing log.

Both work in chunks: memory use does not depend on the length of the log. File watchers such as watchfiles report that a
file changed, not its new complete lines. Reading from a byte offset needs no further dependency, and works on network
file systems, where change notifications do not.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from engine.config.files import TAIL_BYTES, IrregularFile, append_whole, open_regular, read_tail
from engine.config.text import without_credentials
from engine.runs.run.events import End, Error, Event, Memory, Step, Warning, decode, is_damaged, opening_of
from engine.runs.run.result import SCHEMA_VERSION
from engine.runs.stopping import describe_exit

E = TypeVar("E", bound=Event)

_encode = msgspec.json.Encoder().encode


class EventLog:
    """Appends events to `events.jsonl`, one write per event.

    One writer at a time: the holder of the run's lock, or who failed to start it.
    """

    def __init__(self, path: Path, started: float | None = None) -> None:
        """`started`: value of the monotonic clock from which `elapsed` is counted; None: now."""
        tail = read_tail(path, TAIL_BYTES) if path.exists() else b""
        self._seq = max((event.seq for line in tail.splitlines() if (event := decode(line))), default=0)
        self._lock = threading.Lock()  # the meters write from another thread
        self.started = time.monotonic() if started is None else started
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        if tail and not tail.endswith(b"\n"):
            # End the partial line of a killed writer, or our first line would extend it.
            os.write(self._file, b"\n")  # noqa: TID251 - to the log, not to a terminal

    def write(self, event: E) -> E:
        """Set `seq`, `t` and `elapsed` and append the event. Raises OSError on a full disk, leaving no partial line.

        Warnings, errors and ends can quote libraries: what looks like a credential is replaced.
        """
        if isinstance(event, Warning | Error):
            event.text = without_credentials(event.text)
        elif isinstance(event, End):
            event.reason = without_credentials(event.reason)
        with self._lock:
            event.v, event.seq, event.t = SCHEMA_VERSION, self._seq + 1, time.time()
            event.elapsed = round(time.monotonic() - self.started, 6)
            append_whole(self._file, _encode(event) + b"\n")
            self._seq += 1
        return event

    def close(self) -> None:
        os.close(self._file)


class NoEventLog(EventLog):
    """In place of the log for ranks other than the first: warnings and errors are printed, to `engine.log`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.started = time.monotonic()

    def write(self, event: E) -> E:
        if isinstance(event, Warning | Error):
            print(f"{self._name}: {event.text}", flush=True)  # noqa: T201 - to engine.log, in the worker
        return event

    def close(self) -> None:
        pass


OUTPUT_TAIL_BYTES = 1 << 16
"""Of a log, in which the last event or the last output of a worker is looked for."""
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
        while chunk := self._chunk():
            complete = chunk.rfind(b"\n") + 1
            if not complete:
                return
            self.offset += complete
            lines = chunk[:complete].split(b"\n")  # splitlines would also split at a carriage return
            if openings:
                lines = [line for line in lines if line.startswith(openings) or not line.startswith(EVENT_PREFIX)]
            elif thin:
                lines = _thinned(lines)
            events: list[Event] = []
            for line in filter(None, lines):
                if (event := decode(line)) is not None:
                    events.append(event)
                elif is_damaged(line):
                    self.damaged += 1
            yield events

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
    seen: set[bytes] = set()
    for line in reversed(lines):
        prefix = next(filter(line.startswith, FREQUENT_PREFIXES), None)
        if prefix is None or prefix not in seen:
            selected.append(line)
        if prefix is not None:
            seen.add(prefix)
    return selected[::-1]


def exit_message(path: Path) -> str:
    """What the log of a process that ended without an `end` says since its latest phase began; '' if nothing."""
    try:
        lines = without_credentials(read_tail(path, OUTPUT_TAIL_BYTES).decode("utf-8", "replace")).splitlines()
    except (FileNotFoundError, IrregularFile):
        return ""
    kept: list[str] = []
    for line in filter(str.strip, lines):
        if without_phase_mark(line):
            kept.append(line)
        else:
            kept.clear()
    return describe_exit(kept)


def without_phase_mark(line: str) -> str:
    """A line of a worker's output; '' for the mark printed at the start of a phase, which is no message."""
    return "" if PHASE_MARK.fullmatch(line.strip()) else line
