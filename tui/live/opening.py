"""Open a run's events: a small file at once; a huge one as samples first, then completely, in portions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from engine.config.files import open_regular
from engine.runs.run.event_log import Follower
from engine.runs.run.events import Event, decode
from tui.live.run_state import RunState

MAX_UNSAMPLED = 8 << 20
"""Bytes up to which a file is read at once: some 30,000 events, 0.2 s."""
HEAD = 256 << 10
"""Bytes read at the start of a huge file: data, model, plan, scores before training."""
TAIL = 512 << 10
"""Bytes read at its end: the latest steps, scores after training, the end."""
WINDOWS, WINDOW = 400, 8 << 10
"""Number of evenly spaced samples between, and bytes of each: some 30 events for one or two columns of a chart."""


class EventLoader:
    """Reads the events of a run; the state is exact at once, or first sampled and exact later."""

    def __init__(self, path: Path, name: str = "") -> None:
        self.path, self.name = path, name
        self.follower = Follower(path)
        """Reads the events that follow those of the state."""
        self._reader, self._exact = Follower(path), RunState(name)
        self._portions: Iterator[list[Event]] | None = None

    @property
    def sampled(self) -> bool:
        """Whether only samples have been read so far."""
        return self._portions is not None

    def first(self) -> RunState:
        """The state of the run; where the file is huge, a state made of samples, with `sampled` set."""
        state = RunState(self.name)
        if _size(self.path) > MAX_UNSAMPLED:
            state.sampled = True
            self.follower.offset = _sample(self.path, state)
            self._portions = self._reader.portions()
            return state
        for portion in self.follower.portions():
            state.feed(portion)
        return state

    def advance(self) -> RunState | None:
        """Read the next portion of a sampled run; returns the exact state once it has caught up with the follower.

        The follower then continues from there, so that no event is delivered twice.
        """
        if self._portions is None:
            return None
        portion = next(self._portions, None)
        if portion is not None:
            self._exact.feed(portion)
        if portion is not None and self._reader.offset < self.follower.offset:
            return None
        self.follower, self._portions = self._reader, None
        return self._exact


def _sample(path: Path, state: RunState) -> int:
    """Feed the state with head, windows and tail; returns the offset of the first byte that was not read."""
    size = _size(path)
    step = (size - HEAD - TAIL) / WINDOWS
    with open_regular(path) as file:
        state.feed(_events(file, 0, HEAD)[0])
        for number in range(WINDOWS):
            state.feed(_events(file, HEAD + int(number * step), WINDOW)[0])
        last, end = _events(file, size - TAIL, TAIL)
        state.feed(last)
    return end


def _events(file: BinaryIO, start: int, length: int) -> tuple[list[Event], int]:
    """The complete events in a section of the file, and the offset after the last; partial lines are ignored."""
    file.seek(start)
    block = file.read(length)
    start_of_line = block.find(b"\n") + 1 if start else 0
    end = block.rfind(b"\n") + 1
    return [event for line in block[start_of_line:end].splitlines() if (event := decode(line))], start + end


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.lstat().st_size
    return 0
