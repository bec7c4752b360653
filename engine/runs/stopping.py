"""How a process ends: together with its parent, or gracefully where a signal requests it.

`python -P -m engine.runs.stopping PID MODULE ARGUMENTS…` runs a module that ends with its parent PID, also if that is
killed. Workers do not use it: they continue.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import runpy
import signal
import sys
from collections.abc import Sequence
from types import FrameType

PR_SET_PDEATHSIG = 1
"""prctl(2): the kernel sends the signal when the parent ends; it also ends a process that is busy in C code."""


EXIT_LINES, EXIT_WIDTH = 3, 160
"""Lines of the output of a process that ended without a word of ours, and characters of each."""
CUDA_EXIT = re.compile(r"Error (.+) at line \d+ in file ")
"""What bitsandbytes 0.50 prints before it ends its process with exit(1) on a CUDA error (csrc/compat.cuh)."""
CUDA_ERROR = "bitsandbytes ended the process on a CUDA error"


def describe_exit(lines: Sequence[str]) -> str:
    """The last non-empty lines of a process's output, or the CUDA error that they report; '' if there are none."""
    lines = [line.strip() for line in lines if line.strip()]
    error = next((matched for line in reversed(lines) if (matched := CUDA_EXIT.match(line))), None)
    last = [line if len(line) <= EXIT_WIDTH else f"…{line[1 - EXIT_WIDTH :]}" for line in lines[-EXIT_LINES:]]
    return f"{CUDA_ERROR}: {error[1]}" if error is not None else " | ".join(last)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent process `parent` ends; exit now if it has already ended.

    Linux only. The kernel treats the thread that started this process as its parent, so that thread must wait for it.
    """
    with contextlib.suppress(OSError, AttributeError):  # not Linux: the end of stdin tells
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


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
        if self.requested:
            raise StopRequested


def main() -> None:
    die_with_parent(int(sys.argv[1]))
    module, sys.argv[1:] = sys.argv[2], sys.argv[3:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
