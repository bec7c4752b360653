"""A hidden cursor comes back however the command ends or stops: by itself, by a signal, or by Ctrl-Z."""

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
"""The shell's prompt begins on a line of its own."""
FATAL = tuple(
    getattr(signal, name)
    for name in ("SIGHUP", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGXCPU",
                 "SIGPOLL", "SIGPWR", "SIGSTKFLT")
    if hasattr(signal, name)
)  # fmt: skip
"""Signals that end a process that does not handle them, without those that tell of a bug (SIGSEGV) and without SIGINT,
which Python turns into an exception."""
WRITABLE_SECONDS = 0.2
"""How long a terminal that takes no output (a frozen connection) may keep a process from ending."""

_before: dict[int, Any] = {}
_descriptor = -1


def hide(file: IO[str]) -> None:
    """Hide the cursor and have every signal that ends or stops this process show it first."""
    global _descriptor
    if threading.current_thread() is threading.main_thread() and not _before:
        _descriptor = file.fileno()
        for number, handler in (*((fatal, _end) for fatal in FATAL), (signal.SIGTSTP, _stop)):
            if signal.getsignal(number) is signal.SIG_DFL:  # what is ignored (nohup) or handled stays so
                _before[number] = signal.signal(number, handler)
    file.write(HIDE)
    file.flush()


def show(file: IO[str]) -> None:
    """Show the cursor again; signals do what they did before."""
    file.write(SHOW)
    file.flush()
    if threading.current_thread() is threading.main_thread():
        for number, handler in _before.items():
            signal.signal(number, handler)
        _before.clear()


def _end(number: int, frame: FrameType | None) -> None:
    """Leave the terminal as it was, then end by the signal as if it had not been handled."""
    _write(LEAVE)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _stop(number: int, frame: FrameType | None) -> None:
    """Ctrl-Z: show the cursor while stopped, hide it after `fg`; after `bg` it belongs to the shell."""
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
    """Around Python's buffer, which may be in use, and only where the terminal takes it at once."""
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [_descriptor], [], WRITABLE_SECONDS)[1]:
            os.write(_descriptor, text.encode("ascii"))
