"""The directory that a run or ladder was started from, as its TOML file records it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from engine.config.files import read_regular

STARTED_IN = "started_in"
"""Key of `run.toml` and `ladder.toml`: the directory that `ftbench` was started from."""


def started_in(file: Path) -> str:
    """The directory that a run or ladder was started from, as its TOML file records it; '' where it does not.

    Parses one line: lists call it for hundreds of runs.
    """
    import tomli  # the bench's first paint does not wait for it

    with contextlib.suppress(OSError, ValueError, RecursionError):
        for line in read_regular(file).splitlines():
            if line.startswith(f"{STARTED_IN} = ".encode()):
                return str(tomli.loads(line.decode("utf-8"))[STARTED_IN])
    return ""
