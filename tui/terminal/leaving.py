"""Leave the terminal: for the user's editor, or for good although the event loop does not end."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from typing import Any

from textual.app import App, SuspendNotSupported

from engine.config.errors import RunFailed, UserError
from tui.terminal.themes import hung_up

FALLBACKS = ("nano", "vim", "vi")


def editor() -> tuple[list[str], str]:
    """(command, its origin): from $VISUAL, else $EDITOR, else an installed editor.

    Raises UserError if no editor is found.
    """
    for variable in ("VISUAL", "EDITOR"):
        if words := os.environ.get(variable, "").strip():
            try:
                return shlex.split(words), f"${variable}"
            except ValueError as error:
                raise UserError(
                    f"{error}: {words}", f"${variable}", "quote it as in a shell", "editor.invalid"
                ) from error
    for name in FALLBACKS:
        if path := shutil.which(name):
            return [path], f"neither $VISUAL nor $EDITOR is set: {name}"
    hint = f"set $EDITOR or install one of {', '.join(FALLBACKS)}"
    raise UserError("no editor found", "$EDITOR", hint, "editor.not_found")


def edit(app: App[Any], path: Path) -> str:
    """Open the file and wait until the editor exits; returns the origin of the editor's command.

    Raises UserError where no editor can be started, and RunFailed where it fails.
    """
    command, origin = editor()
    try:
        with app.suspend():
            status = _run([*command, str(path)])
    except SuspendNotSupported as error:
        hint = f"edit {path} outside the workbench"
        raise UserError("cannot suspend the workbench in this terminal", hint=hint, code="editor.no_suspend") from error
    if isinstance(status, OSError):
        problem = f"cannot start editor {command[0]}: {status.strerror}"
        raise UserError(problem, origin, "set $EDITOR to an installed editor", "editor.cannot_start") from status
    if status:
        text = f"{Path(command[0]).name} exited with status {status}; the file is read as saved"
        raise RunFailed(text, "editor.failed")
    return origin


def _run(command: list[str]) -> int | OSError:
    """The exit status, or the error: raised inside `suspend` it would leave the app suspended."""
    try:
        return subprocess.run(command, check=False).returncode
    except OSError as error:
        return error


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
