"""Opens a run's events: whole where that is quick; a huge file by samples first, then whole, bit by bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from engine.runs.events import Event, decode
from engine.runs.follow import Follower
from tui.live.run_state import RunState

WHOLE = 8 << 20
"""Bytes read whole at once: some 30,000 events, a fifth of a second."""
HEAD = 256 << 10
"""Bytes of the beginning that are read in any case: the data, the model, the plan, the scores before training."""
TAIL = 512 << 10
"""The same of the end: the newest steps, the scores after, how it ended."""
WINDOWS, WINDOW = 400, 8 << 10
"""Samples between, evenly spaced, and the bytes of each: some thirty events, where a chart has a column or two."""


class Opening:
    """The state of a run as far as it is known, and what is still to be read of it."""

    def __init__(self, path: Path, name: str = "") -> None:
        self.path, self.name = path, name
        self.follower = Follower(path)
        """Reads on from where the state ends."""
        self._reader, self._exact = Follower(path), RunState(name)
        self._whole: Iterator[list[Event]] | None = None

    @property
    def sampled(self) -> bool:
        """Whether the exact state is still to come."""
        return self._whole is not None

    def first(self) -> RunState:
        """The whole run, or samples of it, marked so, where the file is huge."""
        state = RunState(self.name)
        if _size(self.path) > WHOLE:
            state.sampled = True
            self.follower.offset = _sample(self.path, state)
            self._whole = self._reader.portions()
            return state
        for portion in self.follower.portions():
            state.feed(portion)
        return state

    def advance(self) -> RunState | None:
        """Read a portion more of a sampled run; the exact state once it has caught up with the follower.

        The follower then goes on from there, and not an event comes twice.
        """
        if self._whole is None:
            return None
        portion = next(self._whole, None)
        if portion is not None:
            self._exact.feed(portion)
        if portion is not None and self._reader.offset < self.follower.offset:
            return None
        self.follower, self._whole = self._reader, None
        return self._exact


def _sample(path: Path, state: RunState) -> int:
    """Feed the state with head, windows and tail; returns the offset of the first byte that was not read."""
    size = _size(path)
    step = (size - HEAD - TAIL) / WINDOWS
    with path.open("rb") as file:
        state.feed(_events(file, 0, HEAD)[0])
        for number in range(WINDOWS):
            state.feed(_events(file, HEAD + int(number * step), WINDOW)[0])
        last, end = _events(file, size - TAIL, TAIL)
        state.feed(last)
    return end


def _events(file: BinaryIO, start: int, length: int) -> tuple[list[Event], int]:
    """The whole events in a stretch of the file, and where the last of them ends; torn lines at both ends are left."""
    file.seek(start)
    block = file.read(length)
    begin = block.find(b"\n") + 1 if start else 0
    end = block.rfind(b"\n") + 1
    return [event for line in block[begin:end].splitlines() if (event := decode(line))], start + end


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
