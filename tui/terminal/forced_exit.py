"""End the process when its event loop does not, with the terminal restored as far as it accepts output."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import threading
import time
from typing import Any

from tui.terminal.capabilities import hung_up

BLOCKED_SECONDS = 3.0
"""Time for the event loop to end the app. A terminal that is gone or accepts no output would block it forever."""
BUSY_SECONDS = 30.0
"""The same while the terminal accepts output: the loop is only slow, on a busy machine."""
RESET = (
    "\x1b[?2004l\x1b[?2048l"  # bracketed paste, reports of the window's size
    "\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1016l\x1b[?1004l"  # the mouse, the focus
    "\x1b[?7h\x1b[<u"  # line wrap, the keyboard protocol (before the alternate screen is left)
    "\x1b[?1049l\x1b[?25h\x1b[0m\r\n"  # the alternate screen, the cursor, the style
)
"""Undoes every mode that Textual's driver sets (`LinuxDriver.start_application_mode`)."""


class ForcedExit:
    """Create before the terminal changes its mode: this object keeps the attributes to restore."""

    def __init__(self) -> None:
        self._attributes: list[Any] | None = None
        with contextlib.suppress(termios.error, OSError, ValueError):  # not a terminal: nothing to restore
            self._attributes = termios.tcgetattr(sys.__stdin__.fileno()) if sys.__stdin__ else None

    def schedule(self, status: int) -> None:
        """End the process with `status` unless it ends by itself in time. Can be called in a signal handler."""
        threading.Thread(target=self._wait, args=(status,), daemon=True, name="forced-exit").start()

    def _wait(self, status: int) -> None:
        since = time.monotonic()
        time.sleep(BLOCKED_SECONDS)
        while time.monotonic() < since + BUSY_SECONDS and _accepts_output():
            time.sleep(0.1)
        self._restore()
        os._exit(status)

    def _restore(self) -> None:
        if not _accepts_output():
            return
        with contextlib.suppress(termios.error, OSError, ValueError):  # the terminal is gone
            if self._attributes is not None and sys.__stdin__:
                termios.tcsetattr(sys.__stdin__.fileno(), termios.TCSANOW, self._attributes)
            if sys.__stderr__:  # noqa: TID251 - where Textual writes
                os.write(sys.__stderr__.fileno(), RESET.encode("ascii"))  # noqa: TID251 - as above


def _accepts_output() -> bool:
    if hung_up() or sys.__stderr__ is None:  # noqa: TID251 - where Textual writes
        return False
    with contextlib.suppress(OSError, ValueError):
        return bool(select.select([], [sys.__stderr__.fileno()], [], 0.2)[1])  # noqa: TID251 - as above
    return False
