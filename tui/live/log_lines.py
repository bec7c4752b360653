"""Lines of a log in bounded memory, and the worker's raw output as it grows."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from engine.config.text import shortened

MOST = 5000
"""Lines held."""
TAIL = 1 << 20
"""Bytes of raw output read at most at a time; of a longer backlog only the end."""


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
        self._dropped = 0
        """Bytes of the unfinished line that are held no longer."""

    def read(self) -> Piece | None:
        """What has come, None for nothing."""
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size == self.offset:
                    return None
                if size < self.offset:
                    self.offset, self._rest, self._dropped = 0, b"", 0
                skipped = self._skip(file, size - TAIL)
                file.seek(self.offset)
                block = file.read(TAIL)
        except FileNotFoundError:
            return None
        self.offset += len(block)
        *whole, rest = (self._rest + block).split(b"\n")
        lines = [seen(line, self._dropped if number == 0 else 0) for number, line in enumerate(whole)]
        before = 0 if whole else self._dropped
        self._rest = rest[-TAIL:]
        self._dropped = before + len(rest) - len(self._rest)
        return Piece(skipped, lines, seen(self._rest, self._dropped))

    def _skip(self, file: BinaryIO, until: int) -> int:
        """Go on to `until`, counting line ends only."""
        ends = 0
        file.seek(self.offset)
        while self.offset < until:
            block = file.read(min(TAIL, until - self.offset))
            self.offset += len(block)
            begun = len(self._rest) + self._dropped if b"\n" not in block else 0
            self._rest, self._dropped = b"", begun + len(block) - (block.rfind(b"\n") + 1)
            ends += block.count(b"\n")
        return ends


def seen(line: bytes, dropped: int = 0) -> str:
    """What a terminal would show of it: a carriage return begins the line again. A very long line is shortened.

    `dropped` bytes before it are known to be missing.
    """
    _, again, shown = line.rstrip(b"\r").rpartition(b"\r")
    return shortened(shown.decode("utf-8", "replace"), cut_before=0 if again else dropped)
