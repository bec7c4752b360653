"""Log lines in bounded memory, and an incremental reader of the worker's raw output."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from engine.config.files import open_regular
from engine.config.text import LINE_LIMIT, shortened, without_credentials

MAX_LINES = 5000
"""Maximum number of lines kept."""
MAX_READ_BYTES = 1 << 20
"""Maximum bytes of raw output read at a time; of a longer backlog only the end is read."""


class LogLines:
    """The latest `most` lines; their numbers count from the first line ever added, so dropping lines keeps them."""

    def __init__(self, most: int = MAX_LINES) -> None:
        self._lines: deque[str] = deque(maxlen=most)
        self.gone = 0
        """Number of older lines dropped."""

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __getitem__(self, index: int) -> str:
        return self._lines[index]

    def add(self, text: str) -> None:
        if len(self._lines) == self._lines.maxlen:
            self.gone += 1
        self._lines.append(text)

    def skip(self, count: int) -> None:
        """Drop all lines and skip `count` more, so that numbers remain those of the file."""
        self.gone += len(self._lines) + count
        self._lines.clear()

    def matching(self, word: str) -> list[tuple[int, str]]:
        """(number, line) of lines that contain the word, ignoring case; all lines for an empty word."""
        word = word.lower()
        numbered = enumerate(self._lines, self.gone)
        return [pair for pair in numbered if word in pair[1].lower()] if word else list(numbered)


class OutputChunk(NamedTuple):
    """Output since the last read."""

    skipped: int
    """Number of lines skipped before `lines`, because the backlog was too long."""
    lines: list[str]
    unfinished: str
    """The last line if it is incomplete: a progress bar, a prompt."""


class OutputReader:
    """Incremental reader of a growing file of raw output, which may not exist yet and may contain any bytes."""

    def __init__(self, path: Path) -> None:
        self.path, self.offset = path, 0
        self._rest = b""
        self._dropped = 0
        """Bytes at the start of the unfinished line that were dropped."""

    def read(self) -> OutputChunk | None:
        """Read new output; None if nothing was added."""
        try:
            with open_regular(self.path) as file:
                size = os.fstat(file.fileno()).st_size
                if size == self.offset:
                    return None
                if size < self.offset:
                    self.offset, self._rest, self._dropped = 0, b"", 0
                skipped = self._skip(file, size - MAX_READ_BYTES)
                file.seek(self.offset)
                block = file.read(MAX_READ_BYTES)
        except FileNotFoundError:
            return None
        self.offset += len(block)
        *complete, rest = (self._rest + block).split(b"\n")
        lines = [displayed_line(line, self._dropped if number == 0 else 0) for number, line in enumerate(complete)]
        before = 0 if complete else self._dropped
        self._rest = rest[-MAX_READ_BYTES:]
        self._dropped = before + len(rest) - len(self._rest)
        return OutputChunk(skipped, lines, displayed_line(self._rest, self._dropped))

    def _skip(self, file: BinaryIO, until: int) -> int:
        """Advance to `until`; returns the number of line ends skipped."""
        ends = 0
        file.seek(self.offset)
        while self.offset < until:
            block = file.read(min(MAX_READ_BYTES, until - self.offset))
            self.offset += len(block)
            unfinished = len(self._rest) + self._dropped if b"\n" not in block else 0
            self._rest, self._dropped = b"", unfinished + len(block) - (block.rfind(b"\n") + 1)
            ends += block.count(b"\n")
        return ends


def displayed_line(line: bytes, dropped: int = 0) -> str:
    """The line as a terminal shows it: text before a carriage return is overwritten. A very long line is shortened.

    Credentials are replaced. `dropped` bytes before it are missing.
    """
    _, again, shown = line.rstrip(b"\r").rpartition(b"\r")
    text = shown.decode("utf-8", "replace")
    rest = max(0, len(text) - 2 * LINE_LIMIT)
    return shortened(without_credentials(text[: 2 * LINE_LIMIT]), cut_before=rest + (0 if again else dropped))
