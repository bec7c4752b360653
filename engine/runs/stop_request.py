"""Graceful stop: a signal sets a flag, and the work checks it where it can stop safely."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequested(Exception):
    """Raised to end the work after a stop request."""


class StopRequest:
    """Flag that a stop of this process was requested."""

    def __init__(self) -> None:
        self.requested = False

    def listen(self) -> None:
        """Stop on SIGTERM, SIGINT and SIGUSR1 (sent by schedulers); ignore SIGHUP, which a closed terminal sends."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self.ask)

    def ask(self, signum: int = 0, frame: FrameType | None = None) -> None:
        """Signal handler: request a stop."""
        self.requested = True

    def check(self) -> None:
        """Raise StopRequested if a stop was requested."""
        if self.requested:
            raise StopRequested
