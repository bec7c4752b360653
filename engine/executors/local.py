"""Start a worker as a process on this machine."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

from engine.config.errors import RunFailed, UserError

NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of a directory that another user owns, or of a file system that is mounted read-only."""
ENVIRONMENT = {"HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}
"""Of every worker, also where the user's environment says otherwise."""
DEFAULT_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}
"""Unless the user's environment sets them. One malloc arena: autograd runs the backward pass in another thread, and
gradients in a second arena could not reuse the memory of freed activations (full fine-tuning of SmolLM2 on the CPU:
3,440 -> 3,285 MiB)."""

StartedProcess = subprocess.Popen[bytes]


def worker_command(module: str, folder: Path) -> list[str]:
    """`python -P -m MODULE FOLDER`. -P: the folder is the working directory, and nothing in it must be imported."""
    return [sys.executable, "-P", "-m", module, str(folder)]


def start(module: str, folder: Path, log_file: Path, *arguments: str) -> StartedProcess:
    """Start `python -m MODULE FOLDER ARGUMENTS` in a new session, independent of this terminal.

    Its output goes to a file: a pipe that nobody reads would block it. Raises UserError where the folder is not
    writable, and RunFailed where the folder was deleted or the disk is full.
    """
    try:
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno in NO_PERMISSION:
            problem, hint = f"cannot write ({error.strerror})", "check its owner and its file system"
            raise UserError(problem, str(folder), hint, "run.not_writable") from error
        text = f"nothing was started: cannot write to {folder} ({error.strerror})"
        raise RunFailed(text, "run.cannot_write") from error
    try:
        return subprocess.Popen(
            [*worker_command(module, folder), *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**DEFAULT_ENVIRONMENT, **os.environ, **ENVIRONMENT},
            umask=0o077,
        )
    except OSError as error:  # the limit of processes or memory is reached
        text = f"cannot start a process: {error.strerror}; nothing was started"
        raise RunFailed(text, "system.no_process") from error
    finally:
        os.close(log)
