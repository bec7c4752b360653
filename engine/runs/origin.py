"""When, where and by what a directory of the runs home was made: lines of its TOML file, read without parsing it.

The names of directories show local time, which repeats and goes back: nothing is ordered by them.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from engine.config.files import read_regular

NUMBER, STARTED_IN = "number", "started_in"
"""Keys of these files: the place in the order in which the directories of a runs home
were made, and the directory that `ftbench` was started from."""
LADDER_ORIGIN = "ladder "
"""Before the ladder's name in the origin of each setting of a ladder's run."""
CACHED = 1 << 16
_NUMBER = re.compile(rb"^number = (\d{1,15})$", re.MULTILINE)
_CREATED = re.compile(rb"^created = (\d+(?:\.\d+)?)$", re.MULTILINE)
_STARTED_IN = re.compile(rb"^started_in = .*$", re.MULTILINE)
_LADDER = re.compile(rf' = "{LADDER_ORIGIN}([^",]+)[",]'.encode())


@dataclass(frozen=True)
class Origin:
    number: int = 0
    """Counts the directories of a home as they were made; 0 in one of a version that did not count, or damaged."""
    created: float = 0.0
    """Unix seconds, by the clock of that moment."""
    ladder: str = ""
    """The ladder that made the run."""
    started_in_line: bytes = b""

    @property
    def order(self) -> tuple[int, float]:
        """Ascends from start to start; where numbers are equal, as of a copied directory, the clock decides."""
        return self.number, self.created

    @property
    def started_in(self) -> str:
        import tomli  # the bench's first paint does not wait for it

        with contextlib.suppress(ValueError, RecursionError):
            return str(tomli.loads(self.started_in_line.decode())[STARTED_IN]) if self.started_in_line else ""
        return ""


def read_origin(file: Path) -> Origin:
    """What a TOML file records of its directory's start; that it is unknown, where the file cannot be read."""
    with contextlib.suppress(OSError):
        status = file.lstat()
        return _cached(file, status.st_ino, status.st_mtime_ns, status.st_size)
    return Origin()


@lru_cache(CACHED)
def _cached(file: Path, inode: int, modified: int, size: int) -> Origin:
    """By its state on the disk: lists that are drawn every second sort by it."""
    text = read_regular(file)
    number, created, place = _NUMBER.search(text), _CREATED.search(text), _STARTED_IN.search(text)
    ladder = _LADDER.search(text.partition(b"\n[origins]\n")[2])
    return Origin(
        number=int(number[1]) if number else 0,
        created=float(created[1]) if created else modified / 1e9,
        ladder=ladder[1].decode(errors="replace") if ladder else "",
        started_in_line=place[0] if place else b"",
    )
