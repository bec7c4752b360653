"""Log lines in bounded memory, and an incremental reader of the worker's raw output."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from engine.config.files import open_regular
from engine.config.text import LINE_LIMIT, shortened, without_credentials

MAX_LINES = 5000
"""Maximum number of lines kept."""
MAX_READ_BYTES = 1 << 20
"""Maximum bytes of raw output read at a time; of a longer backlog only the complete lines at its end are read."""
SKIPPED = b"[older output is not shown]\n"
"""In place of what was not read."""
CUT = "[start not shown] … "
"""In place of the start of a line that is longer than what is read at a time."""


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

    def matching(self, word: str) -> list[tuple[int, str]]:
        """(number, line) of lines that contain the word, ignoring case; all lines for an empty word."""
        word = word.lower()
        numbered = enumerate(self._lines, self.gone)
        return [pair for pair in numbered if word in pair[1].lower()] if word else list(numbered)


class OutputChunk(NamedTuple):
    """Output since the last read."""

    lines: list[str]
    unfinished: str
    """The last line if it is incomplete: a progress bar, a prompt."""


class OutputReader:
    """Incremental reader of a growing file of raw output, which may not exist yet and may contain any bytes."""

    def __init__(self, path: Path) -> None:
        self.path, self.offset = path, 0
        self._rest = b""

    def read(self) -> OutputChunk | None:
        """Read new output; None if nothing was added."""
        try:
            with open_regular(self.path) as file:
                size = os.fstat(file.fileno()).st_size
                if size == self.offset:
                    return None
                if size < self.offset:
                    self.offset, self._rest = 0, b""
                skipped = size - self.offset > MAX_READ_BYTES
                if skipped:
                    self.offset, self._rest = size - MAX_READ_BYTES, b""
                file.seek(self.offset)
                block = file.read(MAX_READ_BYTES)
        except FileNotFoundError:
            return None
        self.offset += len(block)
        if skipped:
            start = block.find(b"\n") + 1  # of the first complete line; 0 if the block is part of one long line
            block = SKIPPED + (block[start:] if start else CUT.encode() + block)
        *complete, rest = (self._rest + block).split(b"\n")
        self._rest = rest if len(rest) <= MAX_READ_BYTES else CUT.encode() + rest[-MAX_READ_BYTES:]
        return OutputChunk([displayed_line(line) for line in complete], displayed_line(self._rest))


def displayed_line(line: bytes) -> str:
    """The line as a terminal shows it: text before a carriage return is overwritten. A very long line is shortened.

    Credentials are replaced. A very long line whose start was not read is shortened to its end.
    """
    text = line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")
    if text.startswith(CUT):
        return CUT + without_credentials(text[-2 * LINE_LIMIT :])[-LINE_LIMIT:]
    rest = max(0, len(text) - 2 * LINE_LIMIT)
    return shortened(without_credentials(text[: 2 * LINE_LIMIT]), cut_before=rest)
