"""Graceful stop: a signal sets a flag, and the work checks it where it can stop safely."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequested(Exception):
    """Raised to end the work after a stop request."""


class StopRequest:
    """Flag that a stop of this process, or of one part of its work, was requested."""

    def __init__(self, parent: StopRequest | None = None) -> None:
        """A request to the `parent` stops this part too, not the other way round."""
        self._parent = parent
        self._asked = False

    @property
    def requested(self) -> bool:
        return self._asked or (self._parent is not None and self._parent.requested)

    def listen(self, *more: signal.Signals) -> None:
        """Stop on SIGTERM, SIGINT, SIGUSR1 (sent by schedulers) and `more`; ignore SIGHUP, which a closed terminal
        sends. Also stop on one that was sent before, if who started this process blocked it.
        """
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, *more)
        for number in numbers:
            signal.signal(number, self.ask)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)

    def ask(self, signum: int = 0, frame: FrameType | None = None) -> None:
        """Signal handler: request a stop."""
        self._asked = True

    def check(self) -> None:
        """Raise StopRequested if a stop was requested."""
        if self.requested:
            raise StopRequested
