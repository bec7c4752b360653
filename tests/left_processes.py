"""Processes that tests have started and that still work in their folders."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path


def end_processes_below(folder: Path) -> None:
    """Send SIGKILL until no process is left: one that has just started may not have recorded its id yet, and a
    ladder starts further runs.
    """
    while processes := processes_below(folder):
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def processes_below(folder: Path) -> dict[int, str]:
    """Process id -> command of the other processes whose command, directory or open files are in this folder."""
    processes = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            if command and int(entry.name) != os.getpid() and _is_below(folder, entry, command):
                processes[int(entry.name)] = command
    return processes


def _is_below(folder: Path, entry: Path, command: str) -> bool:
    """A fork of the fork server has the server's command, but its own directory and files."""
    inside = f"{folder}{os.sep}"
    return inside in command or f"{(entry / 'cwd').readlink()}/".startswith(inside) or _has_opened(inside, entry)


def _has_opened(inside: str, entry: Path) -> bool:
    for descriptor in (entry / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if str(descriptor.readlink()).startswith(inside):
                return True
    return False
