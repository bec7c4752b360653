"""The user's editor on a file, with the workbench out of its way meanwhile."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

from textual.app import App, SuspendNotSupported

from engine.config.errors import RunFailed, UserError

FALLBACKS = ("nano", "vim", "vi")


def editor() -> tuple[list[str], str]:
    """(command, where it comes from): $VISUAL, else $EDITOR, else one that is installed.

    Raises UserError where there is none.
    """
    for variable in ("VISUAL", "EDITOR"):
        if words := os.environ.get(variable, "").strip():
            try:
                return shlex.split(words), f"${variable}"
            except ValueError as error:
                raise UserError(f"{error}: {words}", f"${variable}", "give it as one would in a shell") from error
    for name in FALLBACKS:
        if found := shutil.which(name):
            return [found], f"neither $VISUAL nor $EDITOR is set: {name}"
    raise UserError("no editor found", "$EDITOR", f"set it; {', '.join(FALLBACKS)} are not installed")


def edit(app: App[Any], path: Path) -> str:
    """Open the file and wait until the editor has ended; returns where the editor came from.

    Raises UserError where there is no editor or it cannot be started, and RunFailed where it fails.
    """
    command, origin = editor()
    try:
        with app.suspend():
            status = _run([*command, str(path)])
    except SuspendNotSupported as error:
        raise UserError("this terminal cannot be lent to an editor", do=f"edit {path} by itself") from error
    if isinstance(status, OSError):
        raise UserError(f"{command[0]}: {status.strerror}", origin, "set $EDITOR to one that is installed") from status
    if status:
        raise RunFailed(f"{Path(command[0]).name} ended with exit status {status}: what it saved is read again")
    return origin


def _run(command: list[str]) -> int | OSError:
    """The exit status, or why it could not begin: raised within `suspend`, that would leave the app suspended."""
    try:
        return subprocess.run(command, check=False).returncode
    except OSError as error:
        return error
