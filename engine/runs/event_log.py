"""The writer of `events.jsonl`: appends complete lines, also after a killed writer or on an almost full disk."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TypeVar

import msgspec

from engine.config.files import open_regular
from engine.runs.event_decoding import decode
from engine.runs.events import Error, Event, Warning
from engine.runs.result import SCHEMA_VERSION

E = TypeVar("E", bound=Event)

_encode = msgspec.json.Encoder().encode


class EventLog:
    """Appends events to `events.jsonl`, one write per event.

    One writer at a time: the holder of the run's lock, or who failed to start it.
    """

    def __init__(self, path: Path, started: float | None = None) -> None:
        """`started`: value of the monotonic clock from which `elapsed` is counted; None: now."""
        self._seq = _last_seq(path)
        self._lock = threading.Lock()  # the meters write from another thread
        self.started = time.monotonic() if started is None else started
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        if _is_torn(path):
            # End the partial line of a killed writer, or our first line would extend it.
            os.write(self._file, b"\n")  # noqa: TID251 - to the log, not to a terminal

    def write(self, event: E) -> E:
        """Set `seq`, `t` and `elapsed` and append the event. Raises OSError on a full disk, leaving no partial line."""
        with self._lock:
            event.v, event.seq, event.t = SCHEMA_VERSION, self._seq + 1, time.time()
            event.elapsed = round(time.monotonic() - self.started, 6)
            self._append(_encode(event) + b"\n")
            self._seq += 1
        return event

    def _append(self, line: bytes) -> None:
        size = os.fstat(self._file).st_size
        written = 0
        try:
            while written < len(line):  # an almost full disk accepts a part of the line
                written += os.write(self._file, line[written:])  # noqa: TID251 - to the log, not to a terminal
        except OSError:
            if written:
                os.ftruncate(self._file, size)
            raise

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


def _is_torn(path: Path) -> bool:
    with open_regular(path) as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _last_seq(path: Path) -> int:
    """The highest `seq` in the last megabyte of an existing log, else 0."""
    if not path.exists():
        return 0
    with open_regular(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1_000_000))
        events = [decode(line) for line in file.read().splitlines()]
    return max((event.seq for event in events if event), default=0)
