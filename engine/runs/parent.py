"""End a helper process together with its parent, also if the parent is killed. Workers do not use it: they continue.

`python -P -m engine.runs.parent PID MODULE ARGUMENTS…` runs a module this way.
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
"""prctl(2): the kernel sends the signal when the parent ends; it also ends a process that is busy in C code."""


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent process `parent` ends; exit now if it has already ended.

    Linux only. The kernel treats the thread that started this process as its parent, so that thread must wait for it.
    """
    with contextlib.suppress(OSError, AttributeError):  # not Linux: only `watch` works
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def watch(descriptor: int) -> None:
    """End this process when the other end of a pipe is closed. Portable, but works only while Python code runs."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(descriptor, 4096):
                pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True, name="watch parent").start()


def main() -> None:
    die_with_parent(int(sys.argv[1]))
    module, sys.argv[1:] = sys.argv[2], sys.argv[3:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
