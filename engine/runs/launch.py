"""Start, stop and pause worker processes. A worker is one process on this machine."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config.errors import RunFailed, UserError
from engine.runs import end_record, locks
from engine.runs.config_check import check_unchanged
from engine.runs.folder import Folder
from engine.runs.follow import last_line
from engine.runs.run_dir import RunDir, read_frozen

if TYPE_CHECKING:
    from engine.runs.ladder_dir import LadderDir

HELLO_SECONDS = 30.0
"""Time within which a started process has to appear."""
NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of a directory that another user owns, or of a file system that is mounted read-only."""

Worker = subprocess.Popen[bytes]


def launch(run: RunDir) -> Worker:
    """Start or resume the worker of a run. Raises UserError where its configuration was edited after it was created."""
    check_unchanged(run, read_frozen(run))
    return _start("engine", run.path, run.log_file)


def launch_ladder(ladder: LadderDir) -> Worker:
    """Start the process of a ladder, and return once it holds the ladder's lock. Raises RunFailed if it exits first."""
    earlier = ladder.state()
    process = _start("engine.ladder", ladder.path, ladder.log_file)
    deadline = time.monotonic() + HELLO_SECONDS
    while not ladder.is_live():
        if process.poll() is not None:
            state = ladder.state()
            if process.returncode == 0 or (state and state.updated > (earlier.updated if earlier else 0)):
                return process  # little was left to do, and it is done
            text = f"the ladder exited at start: {_exit_reason(ladder, process)}; see {ladder.log_file}"
            raise RunFailed(text, "ladder.exited_at_start")
        if time.monotonic() > deadline:
            text = f"the ladder did not start within {HELLO_SECONDS:.0f} s; see {ladder.log_file}"
            raise RunFailed(text, "ladder.start_timeout")
        time.sleep(0.01)
    return process


def _start(module: str, folder: Path, log_file: Path) -> Worker:
    """Start `python -m MODULE FOLDER` in a new session, independent of this terminal.

    Its output goes to a file: a pipe that nobody reads would block it. Raises UserError where the folder is not
    writable or the lock folder cannot be used, and RunFailed where the folder was deleted or the disk is full.
    """
    locks.lock_folder()
    # One malloc arena: autograd runs the backward pass in another thread, and gradients in a second arena could not
    # reuse the memory of freed activations (full fine-tuning of SmolLM2 on the CPU: 3,440 -> 3,285 MiB).
    environment = {"MALLOC_ARENA_MAX": "1", **os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}
    try:
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        if error.errno in NO_PERMISSION:
            what, do = f"cannot write: {error.strerror}; nothing was started", "check its owner and its file system"
            raise UserError(what, str(folder), do, "run.not_writable") from error
        raise RunFailed(
            f"cannot write to {folder}: {error.strerror}; nothing was started", "run.cannot_write"
        ) from error
    try:
        # -P: the run directory is the working directory, and nothing in it must be imported.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(folder)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environment,
            umask=0o077,
        )
    except OSError as error:  # the limit of processes or memory is reached
        raise RunFailed(
            f"cannot start a process: {error.strerror}; nothing was started", "system.no_process"
        ) from error
    finally:
        os.close(log)


def wait_for_hello(run: RunDir, worker: Worker, offset: int = 0, seconds: float = HELLO_SECONDS) -> None:
    """Return once the worker has written to the event log past `offset` bytes. Raises RunFailed if it exits first."""
    deadline = time.monotonic() + seconds
    while True:
        exited = worker.poll() is not None  # before the size: a worker may write and exit between the two checks
        if _size(run.events_file) > offset:
            return
        if exited:
            text = f"the worker exited at start: {_exit_reason(run, worker)}; see {run.log_file}"
            raise RunFailed(text, "run.exited_at_start")
        if time.monotonic() > deadline:
            text = f"the worker did not start within {seconds:.0f} s; see {run.log_file}"
            raise RunFailed(text, "run.start_timeout")
        time.sleep(0.01)


def _exit_reason(folder: Folder, worker: Worker) -> str:
    record = end_record.read(folder.end_file)
    return record.reason if record else last_line(folder.log_file) or f"exit status {worker.returncode}"


def stop(run: RunDir | LadderDir) -> None:
    """Request a stop: the worker finishes its step, saves a checkpoint and exits; a ladder also stops its run.

    Raises UserError where it is not running or belongs to another user.
    """
    pid = run.pid()
    if pid is None:
        do = "run `ftbench runs` to see what is"
        raise UserError(f"{run.name} is not running", do=do, code="run.not_running")
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError as error:
        what = f"{run.name} belongs to another user (process {pid})"
        raise UserError(what, do="ask its owner to stop it", code="run.not_yours") from error


def pause(run: RunDir) -> None:
    """Stop a run and mark it as paused until it is resumed. Pausing releases the GPU.

    Raises UserError where it is not running or the mark cannot be written.
    """
    try:
        run.paused_file.touch(mode=0o600)
    except OSError as error:
        what, do = f"cannot mark the run as paused: {error.strerror}", "stop it instead: it can be resumed too"
        raise UserError(what, str(run.path), do, "run.cannot_pause") from error
    try:
        stop(run)
    except (UserError, ProcessLookupError):
        run.paused_file.unlink(missing_ok=True)
        raise


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
