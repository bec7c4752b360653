"""Lines of a log in bounded memory, and the worker's raw output as it grows."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

MOST = 5000
"""Lines held."""
TAIL = 1 << 20
"""Bytes of raw output read at most at a time; of a longer backlog only the end."""
LONGEST = 4000
"""Characters of a line; what is longer is cut."""


class Lines:
    """The newest `most` lines. A line keeps its number, counted from the first there ever was, when older ones go."""

    def __init__(self, most: int = MOST) -> None:
        self.held: deque[str] = deque(maxlen=most)
        self.gone = 0
        """Lines let go at the upper end."""

    def __len__(self) -> int:
        return len(self.held)

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __getitem__(self, index: int) -> str:
        return self.held[index]

    def add(self, text: str) -> None:
        if len(self.held) == self.held.maxlen:
            self.gone += 1
        self.held.append(text)

    def skip(self, count: int) -> None:
        """Lines that were never held: all before them go as well, so that numbers stay those of the file."""
        self.gone += len(self.held) + count
        self.held.clear()

    def holding(self, word: str) -> list[tuple[int, str]]:
        """(number, line) of those that hold a word, in whatever case; all for no word."""
        wanted = word.lower()
        numbered = enumerate(self.held, self.gone)
        return [pair for pair in numbered if wanted in pair[1].lower()] if wanted else list(numbered)


class Piece(NamedTuple):
    """What was printed since the last look."""

    skipped: int
    """Lines passed over before `lines`, because there were too many at once."""
    lines: list[str]
    unfinished: str
    """The last line as far as it has come: a progress bar, a prompt."""


class Output:
    """Reads a growing log of raw output. It may start before the file exists and survives anything the file holds."""

    def __init__(self, path: Path) -> None:
        self.path, self.offset = path, 0
        self._rest = b""

    def read(self) -> Piece | None:
        """What has come, None for nothing."""
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size == self.offset:
                    return None
                if size < self.offset:
                    self.offset, self._rest = 0, b""
                skipped = self._skip(file, size - TAIL)
                file.seek(self.offset)
                block = file.read(TAIL)
        except FileNotFoundError:
            return None
        self.offset += len(block)
        *whole, self._rest = (self._rest + block).split(b"\n")
        self._rest = self._rest[-TAIL:]
        return Piece(skipped, [seen(line) for line in whole], seen(self._rest))

    def _skip(self, file: BinaryIO, until: int) -> int:
        """Go on to `until`, counting line ends only."""
        ends = 0
        file.seek(self.offset)
        while self.offset < until:
            block = file.read(min(TAIL, until - self.offset))
            self.offset += len(block)
            self._rest = b""
            ends += block.count(b"\n")
        return ends


def seen(line: bytes) -> str:
    """What a terminal would show of it: a carriage return begins the line again."""
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")[:LONGEST]
