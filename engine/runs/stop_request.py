"""A polite stop: the signal only leaves a note, and the work looks at it where it can stop well."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequested(Exception):
    """The work ended because it was asked to."""


class StopRequest:
    """Whether somebody asked this process to stop."""

    def __init__(self) -> None:
        self.asked = False

    def listen(self) -> None:
        """Stop on SIGTERM, SIGINT and SIGUSR1 (which schedulers send); ignore the terminal's SIGHUP."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self.ask)

    def ask(self, signum: int = 0, frame: FrameType | None = None) -> None:
        """A signal handler."""
        self.asked = True

    def check(self) -> None:
        """Raise Stopped where a stop was asked for."""
        if self.asked:
            raise StopRequested
