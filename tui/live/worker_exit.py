"""Wait for a worker that has released its lock or written its end to finish its result."""

from __future__ import annotations

import time

from engine.runs.run_dir import RunDir

SECONDS = 10.0


def wait_for_exit(run: RunDir, seconds: float = SECONDS) -> None:
    """Wait until the worker has exited, at most `seconds`; its result is complete then."""
    deadline = time.monotonic() + seconds
    while run.is_active() and time.monotonic() < deadline:
        time.sleep(0.05)
