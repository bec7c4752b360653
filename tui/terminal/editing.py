"""Open a file in the user's editor while the workbench is suspended."""

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
        if found := shutil.which(name):
            return [found], f"neither $VISUAL nor $EDITOR is set: {name}"
    do = f"set $EDITOR or install one of {', '.join(FALLBACKS)}"
    raise UserError("no editor found", "$EDITOR", do, "editor.not_found")


def edit(app: App[Any], path: Path) -> str:
    """Open the file and wait until the editor exits; returns the origin of the editor's command.

    Raises UserError where no editor can be started, and RunFailed where it fails.
    """
    command, origin = editor()
    try:
        with app.suspend():
            status = _run([*command, str(path)])
    except SuspendNotSupported as error:
        do = f"edit {path} outside the workbench"
        raise UserError("cannot suspend the workbench in this terminal", do=do, code="editor.no_suspend") from error
    if isinstance(status, OSError):
        what = f"cannot start editor {command[0]}: {status.strerror}"
        raise UserError(what, origin, "set $EDITOR to an installed editor", "editor.cannot_start") from status
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
