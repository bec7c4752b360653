"""Start, stop and pause workers of runs, here or as jobs of Slurm, and start the processes of ladders."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config.errors import RunFailed, UserError
from engine.executors import local, slurm
from engine.executors.local import StartedProcess as StartedProcess
from engine.executors.slurm import queue
from engine.runs.queue import locks
from engine.runs.resuming import check_unchanged
from engine.runs.run import end_record
from engine.runs.run.event_log import EventLog, exit_message
from engine.runs.run.events import End
from engine.runs.run.folder import Folder
from engine.runs.run.run_dir import RunDir, read_frozen, write_end

if TYPE_CHECKING:
    from engine.runs.ladder.ladder_dir import LadderDir, SweepDir


HELLO_SECONDS = 30.0
"""Time within which a started process has to appear."""


def start_worker(run: RunDir) -> StartedProcess | None:
    """Start or resume the worker of a run: its process on this machine, or None for a job that was submitted.

    Raises UserError where its configuration was edited after it was created, where a symbolic link is in its directory,
    and where Slurm refuses the job.
    """
    run.check_files()
    frozen = read_frozen(run)
    check_unchanged(run, frozen)
    if frozen.config.executor.name == "slurm":
        slurm.submit(run.path, run.log_file, frozen.config.executor)
        return None
    return start_process("engine", run.path, run.log_file)


def start_ladder_process(ladder: LadderDir | SweepDir) -> None:
    """Start the process of a ladder or sweep, and return once it holds its lock. Raises RunFailed if it exits first."""
    ladder.check_files()
    earlier = ladder.state()
    process = start_process("engine.ladder", ladder.path, ladder.log_file)

    def has_started() -> bool:
        """Whether it has the lock, or has ended because little was left to do."""
        if ladder.is_active():
            return True
        if process.returncode is None:
            return False
        state = ladder.state()
        return process.returncode == 0 or bool(state and state.updated > (earlier.updated if earlier else 0))

    _wait_until(has_started, process, ladder)


def start_process(module: str, folder: Path, log_file: Path, *arguments: str) -> StartedProcess:
    """As `local.start` does; raises UserError also where the lock folder cannot be used."""
    locks.lock_folder()
    return local.start(module, folder, log_file, *arguments)


def wait_for_hello(run: RunDir, worker: StartedProcess | None, offset: int = 0) -> None:
    """Return once the worker has written to the event log past `offset` bytes; at once for a submitted job.

    Raises RunFailed if it exits first.
    """
    if worker is not None:
        _wait_until(lambda: run.events_size() > offset, worker, run)


def _wait_until(has_started: Callable[[], bool], process: StartedProcess, folder: Folder) -> None:
    """Wait for the start of a process. Raises RunFailed if it exits first, or after HELLO_SECONDS."""
    what, kind = ("worker", "run") if isinstance(folder, RunDir) else (folder.KIND, "ladder")
    deadline = time.monotonic() + HELLO_SECONDS
    while True:
        exited = process.poll() is not None  # before the check: it may start and exit between the two
        if has_started():
            return
        if exited:
            text = f"the {what} exited at start: {_exit_reason(folder, process)}; see {folder.log_file}"
            raise RunFailed(text, f"{kind}.exited_at_start")
        if time.monotonic() > deadline:
            text = f"the {what} did not start within {HELLO_SECONDS:.0f} s; see {folder.log_file}"
            raise RunFailed(text, f"{kind}.start_timeout")
        time.sleep(0.01)


def _exit_reason(folder: Folder, worker: StartedProcess) -> str:
    record = end_record.read(folder.end_file)
    return record.reason if record else exit_message(folder.log_file) or f"exit status {worker.returncode}"


def stop(run: RunDir | LadderDir | SweepDir) -> None:
    """Request a stop: the worker finishes its step, saves a checkpoint and exits; a ladder also stops its run.

    A job that waits in Slurm's queue is cancelled. Raises UserError where it is not running or belongs to another user,
    and RunFailed where Slurm refuses.
    """
    if isinstance(run, RunDir) and run.job() is not None:
        _stop_job(run)
        return
    pid = run.pid()
    if pid is None:
        hint = "run `ftbench runs` to list active runs"
        raise UserError(f"{run.name} is not running", hint=hint, code="run.not_running")
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError as error:
        problem = f"{run.name} belongs to another user (process {pid})"
        raise UserError(problem, hint="ask its owner to stop it", code="run.not_yours") from error


def try_to_stop(run: RunDir | LadderDir | SweepDir) -> bool:
    """Request a stop of what may have ended; False if Slurm does not answer and has to be asked again."""
    try:
        stop(run)
    except (UserError, ProcessLookupError):  # it ended in the meantime
        return True
    except RunFailed:
        return False
    return True


def _stop_job(run: RunDir) -> None:
    job = run.job()
    assert job is not None
    queue.refresh()
    state = queue.state(job)
    if not state.is_active:
        hint = "run `ftbench runs` to list active runs"
        raise UserError(f"{run.name} is not running: {state.text}", hint=hint, code="run.not_running")
    if not state.is_waiting:
        slurm.stop(job)
        return
    slurm.cancel(job)
    lock = run.acquire()
    if lock is None:  # it was started in the meantime, and its worker answers to the cancellation
        return
    try:
        if run.unwritten_end() is None and run.written_result() is None:
            reason = (
                f"cancelled while its Slurm job was pending; run `ftbench resume {run.argument}` to submit it again"
            )
            write_end(run, read_frozen(run), EventLog(run.events_file), End(status="stopped", reason=reason))
    finally:
        os.close(lock)
    queue.refresh()


def pause(run: RunDir) -> None:
    """Stop a run and mark it as paused until it is resumed. Pausing releases the GPU.

    Raises UserError where it is not running or the mark cannot be written.
    """
    run.check_files()
    try:
        run.paused_file.touch(mode=0o600)
    except OSError as error:
        problem, hint = f"cannot mark the run as paused: {error.strerror}", "stop it instead: it can be resumed too"
        raise UserError(problem, str(run.path), hint, "run.cannot_pause") from error
    try:
        stop(run)
    except (UserError, RunFailed, ProcessLookupError):
        run.paused_file.unlink(missing_ok=True)
        raise
