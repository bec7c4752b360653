"""A process that ends with the one that started it, however that one ends. For helpers only: a worker outlives all.

`python -P -m engine.runs.parent PID MODULE ARGUMENTS…` runs a module so.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import runpy
import signal
import sys
import threading

PR_SET_PDEATHSIG = 1
"""prctl(2): the kernel sends the signal when the parent ends. It reaches a process that is busy in C too."""


def end_with(parent: int) -> None:
    """Have the kernel kill this process when `parent`, its parent, ends; end at once where it has ended already.

    Linux only. The kernel counts the thread that started us as the parent: it has to wait for us.
    """
    with contextlib.suppress(OSError, AttributeError):  # no such call here: `watch` has to do
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def watch(descriptor: int) -> None:
    """End this process when the other end of a pipe is closed: the same on every system, while Python code runs."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(descriptor, 4096):
                pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True, name="watch parent").start()


def main() -> None:
    end_with(int(sys.argv[1]))
    module, sys.argv[1:] = sys.argv[2], sys.argv[3:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
