"""The launcher: how a worker process comes to life. One process here today; torchrun or Slurm would go here."""

from __future__ import annotations

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

Worker = subprocess.Popen[bytes]


def launch(run: RunDir) -> Worker:
    """Start or resume the worker of a run. Raises UserError where its configuration was edited since it was made."""
    check_unchanged(run, read_frozen(run))
    return _start("engine", run.path, run.log_file)


def launch_ladder(ladder: LadderDir) -> Worker:
    """Start the process that climbs a ladder, and return once it holds the ladder's lock.

    Raises RunFailed where it ends first.
    """
    earlier = ladder.state()
    process = _start("engine.ladder", ladder.path, ladder.log_file)
    deadline = time.monotonic() + HELLO_SECONDS
    while not ladder.is_live():
        if process.poll() is not None:
            state = ladder.state()
            if process.returncode == 0 or (state and state.updated > (earlier.updated if earlier else 0)):
                return process  # so little was left to do that it has ended already
            raise RunFailed(f"the ladder ended before it began: {_last_words(ladder, process)}; see {ladder.log_file}")
        if time.monotonic() > deadline:
            raise RunFailed(f"no sign of the ladder in {HELLO_SECONDS:.0f} s; see {ladder.log_file}")
        time.sleep(0.01)
    return process


def _start(module: str, folder: Path, log_file: Path) -> Worker:
    """`python -m MODULE FOLDER` in a session of its own; nothing ties it to this terminal.

    Its output goes to a file and never to a pipe: a pipe nobody reads blocks its writer. Raises RunFailed where the
    folder cannot be written, or has gone, and UserError where there can be no locks.
    """
    locks.lock_folder()
    # One malloc arena: autograd's backward runs in a thread of its own, and with an arena of its own its gradients
    # could not take the room that the activations leave (full tuning of SmolLM2 on the CPU: 3,440 -> 3,285 MiB).
    environment = {"MALLOC_ARENA_MAX": "1", **os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}
    try:
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise RunFailed(f"{folder} cannot be written: {error.strerror}; nothing was started") from error
    try:
        # -P: the run directory is the working directory, and nothing in it may be imported.
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
    except OSError as error:  # no further process, no memory
        raise RunFailed(f"no process can be started: {error.strerror}; nothing was started") from error
    finally:
        os.close(log)


def wait_for_hello(run: RunDir, worker: Worker, offset: int = 0, seconds: float = HELLO_SECONDS) -> None:
    """Return once the worker has written to the event log past `offset`. Raises RunFailed where it ends first."""
    deadline = time.monotonic() + seconds
    while True:
        ended = worker.poll() is not None  # before the size: a worker may write and end between the two looks
        if _size(run.events_file) > offset:
            return
        if ended:
            raise RunFailed(f"the worker ended before it began: {_last_words(run, worker)}; see {run.log_file}")
        if time.monotonic() > deadline:
            raise RunFailed(f"no sign of the worker in {seconds:.0f} s; see {run.log_file}")
        time.sleep(0.01)


def _last_words(folder: Folder, worker: Worker) -> str:
    record = end_record.read(folder.end_file)
    return record.reason if record else last_line(folder.log_file) or f"exit status {worker.returncode}"


def stop(run: RunDir | LadderDir) -> None:
    """Ask the live worker to finish its step, write a checkpoint and end; a ladder passes it on to its run."""
    pid = run.pid()
    if pid is None:
        raise UserError(f"{run.name} is not running", do="`ftbench runs` shows what is")
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError as error:
        raise UserError(f"{run.name} is somebody else's: process {pid}", do="ask its owner to stop it") from error


def pause(run: RunDir) -> None:
    """Stop, meant for a while: it frees the card, and lists call the run paused until `launch` lets it go on.

    Raises UserError where it does not run, or where the mark of the pause cannot be written.
    """
    try:
        run.paused_file.touch(mode=0o600)
    except OSError as error:
        what, do = f"cannot be marked as paused: {error.strerror}", "stop it instead: it can go on all the same"
        raise UserError(what, str(run.path), do) from error
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
