"""Hide the cursor, and restore it however the command ends or stops: normally, by a signal, or by Ctrl-Z."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from types import FrameType
from typing import IO, Any

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
LEAVE = f"{SHOW}\x1b[0m\r\n"
"""Shows the cursor, resets the style and starts a new line for the shell's prompt."""
FATAL = tuple(
    getattr(signal, name)
    for name in ("SIGHUP", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGXCPU",
                 "SIGPOLL", "SIGPWR", "SIGSTKFLT")
    if hasattr(signal, name)
)  # fmt: skip
"""Signals that terminate a process by default, except those of crashes (SIGSEGV) and SIGINT, which raises
KeyboardInterrupt."""
WRITABLE_SECONDS = 0.2
"""Maximum delay of the exit by a terminal that accepts no output (a frozen connection)."""

_before: dict[int, Any] = {}
_descriptor = -1


def hide(file: IO[str]) -> None:
    """Hide the cursor, and install handlers that show it when a signal ends or stops this process."""
    global _descriptor
    if threading.current_thread() is threading.main_thread() and not _before:
        _descriptor = file.fileno()
        for number, handler in (*((fatal, _end) for fatal in FATAL), (signal.SIGTSTP, _stop)):
            if signal.getsignal(number) is signal.SIG_DFL:  # leave ignored (nohup) and handled signals alone
                _before[number] = signal.signal(number, handler)
    file.write(HIDE)
    file.flush()


def show(file: IO[str]) -> None:
    """Show the cursor and restore the signal handlers."""
    file.write(SHOW)
    file.flush()
    if threading.current_thread() is threading.main_thread():
        for number, handler in _before.items():
            signal.signal(number, handler)
        _before.clear()


def _end(number: int, frame: FrameType | None) -> None:
    """Restore the terminal, then end by the signal's default action."""
    _write(LEAVE)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _stop(number: int, frame: FrameType | None) -> None:
    """Ctrl-Z: show the cursor while stopped; hide it again after `fg`, not after `bg`."""
    _write(LEAVE)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)  # returns when the process is continued
    signal.signal(number, _stop)
    if _is_foreground():
        _write(HIDE)


def _is_foreground() -> bool:
    with contextlib.suppress(OSError):
        return os.tcgetpgrp(_descriptor) == os.getpgrp()
    return False


def _write(text: str) -> None:
    """Write without Python's buffer, which may be in use, and only if the terminal accepts it at once."""
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [_descriptor], [], WRITABLE_SECONDS)[1]:
            os.write(_descriptor, text.encode("ascii"))
