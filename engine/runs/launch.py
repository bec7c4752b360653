"""Start, stop and pause the workers of runs, on this machine or as jobs of Slurm, and the processes of ladders."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config.errors import RunFailed, UserError
from engine.executors import local, slurm
from engine.executors.local import StartedProcess as StartedProcess
from engine.executors.slurm import queue
from engine.runs.config_check import check_unchanged
from engine.runs.queue import locks
from engine.runs.run import end_record
from engine.runs.run.event_log import EventLog, last_line
from engine.runs.run.events import End
from engine.runs.run.folder import Folder
from engine.runs.run.run_dir import RunDir, read_frozen, write_end

if TYPE_CHECKING:
    from engine.runs.ladder.ladder_dir import LadderDir
    from engine.runs.ladder.sweep_dir import SweepDir

HELLO_SECONDS = 30.0
"""Time within which a started process has to appear."""


def launch(run: RunDir) -> StartedProcess | None:
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


def launch_ladder(ladder: LadderDir | SweepDir) -> StartedProcess:
    """Start the process of a ladder or sweep, and return once it holds its lock. Raises RunFailed if it exits first."""
    ladder.check_files()
    earlier = ladder.state()
    process = start_process("engine.ladder", ladder.path, ladder.log_file)
    deadline = time.monotonic() + HELLO_SECONDS
    while not ladder.is_active():
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


def start_process(module: str, folder: Path, log_file: Path, *arguments: str) -> StartedProcess:
    """As `local.start` does; raises UserError also where the lock folder cannot be used."""
    locks.lock_folder()
    return local.start(module, folder, log_file, *arguments)


def wait_for_hello(run: RunDir, worker: StartedProcess | None, offset: int = 0, seconds: float = HELLO_SECONDS) -> None:
    """Return once the worker has written to the event log past `offset` bytes; at once for a submitted job.

    Raises RunFailed if it exits first.
    """
    if worker is None:
        return
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


def _exit_reason(folder: Folder, worker: StartedProcess) -> str:
    record = end_record.read(folder.end_file)
    return record.reason if record else last_line(folder.log_file) or f"exit status {worker.returncode}"


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
        do = "run `ftbench runs` to list active runs"
        raise UserError(f"{run.name} is not running", do=do, code="run.not_running")
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError as error:
        what = f"{run.name} belongs to another user (process {pid})"
        raise UserError(what, do="ask its owner to stop it", code="run.not_yours") from error


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
        do = "run `ftbench runs` to list active runs"
        raise UserError(f"{run.name} is not running: {state.text}", do=do, code="run.not_running")
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
        what, do = f"cannot mark the run as paused: {error.strerror}", "stop it instead: it can be resumed too"
        raise UserError(what, str(run.path), do, "run.cannot_pause") from error
    try:
        stop(run)
    except (UserError, RunFailed, ProcessLookupError):
        run.paused_file.unlink(missing_ok=True)
        raise


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
