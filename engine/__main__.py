"""`python -m engine RUN_DIR`: takes the run's lock, writes `hello`, refuses missing and small invalid inputs, waits in
the device queue, then imports torch and executes the run.

Imports nothing heavy before `hello`, so that the launcher sees a live run within half a second.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from pathlib import Path

from engine import __version__
from engine.config.errors import UserError, import_failure, system_refusal
from engine.config.home import keep_hub_cache_in_home
from engine.config.redaction import redact_output
from engine.hardware.devices import SelectedDevice, devices_for, still_exists
from engine.runs.queue import locks
from engine.runs.queue.device_queue import wait_for_devices
from engine.runs.run.event_log import EventLog
from engine.runs.run.events import End, Error, Hello, Phase, Status
from engine.runs.run.run_dir import (
    FrozenRun,
    RunDir,
    check_unchanged,
    last_event,
    read_frozen,
    values_that_are_set,
    write_end,
)
from engine.runs.stopping import StopRequest
from engine.worker.checks import check_files_unchanged_since, data_files_state, refuse_inputs


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m engine RUN_DIR", file=sys.stderr)
        return 2
    run = RunDir(Path(arguments[0]).absolute())
    keep_hub_cache_in_home()
    try:
        frozen = read_frozen(run)
        check_unchanged(run, frozen)
        lock = run.acquire()
    except UserError as error:
        print(error.line, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"cannot lock {run.lock_file}: {error.strerror}", file=sys.stderr)
        return 1
    if lock is None:
        print(f"{run.name} is already running", file=sys.stderr)
        return 2
    try:
        locks.write_holder(lock, str(os.getpid()))
        return execute_locked(run, frozen)
    except OSError as error:
        refusal = system_refusal(error, str(run.path))
        reason = f"{refusal.line}, then run `ftbench resume {run.argument}`"
        run.record_end("failed", reason)
        with contextlib.suppress(OSError):  # engine.log may be on the same full disk
            print(reason, file=sys.stderr, flush=True)
        return 1


def execute_locked(run: RunDir, frozen: FrozenRun) -> int:
    """Execute the run from `hello` to `end` and return the exit status. Raises OSError if it cannot start."""
    stopping = StopRequest()
    stopping.listen()
    last = last_event(run.events_file)
    has_model = isinstance(last, End) and last.status == "finished" and run.model.is_dir()
    if has_model:
        with contextlib.suppress(UserError):  # a damaged result is written again
            if (result := run.written_result()) is not None and result.status == "finished":
                return 0  # started again for nothing: a batch system repeats a job whose end it did not see
    resumed = run.events_file.exists()
    run.reserve_end()
    run.result_file.unlink(missing_ok=True)
    run.paused_file.unlink(missing_ok=True)
    log = EventLog(run.events_file)
    hello = Hello(pid=os.getpid(), host=socket.gethostname(), version=__version__, resumed=resumed)
    hello.config = values_that_are_set(frozen.config)
    log.write(hello)

    def ended(status: Status, reason: str, exit_status: int) -> int:
        write_end(run, frozen, log, End(status=status, reason=reason))
        return exit_status

    if has_model:
        return ended("finished", "", 0)  # only its result was missing
    queued_since = time.time() if resumed else frozen.created  # a resumed run goes to the end of the queue
    try:
        refuse_inputs(frozen.config)
        initial_files = data_files_state(frozen.config.data)
        devices = _free_devices(run, frozen, log, stopping, queued_since)
        check_files_unchanged_since(initial_files, frozen.config.data)
    except UserError as error:
        log.write(Error(text=error.line, user=True, code=error.code))
        return ended("failed", error.line, 2)
    if not run.path.exists():  # deleted while waiting
        return 0
    if devices is None:
        reason = f"stopped while waiting in the device queue; run `ftbench resume {run.argument}` to start it"
        return ended("stopped", reason, 0)

    # Importing torch takes seconds and memory: only once the devices are free.
    try:
        if len(devices) > 1:
            from engine.worker.rank_launcher import run_ranks
        else:
            devices[0].apply()
            from engine.methods.library_imports import import_libraries

            import_libraries()
            from engine.worker.main import execute
            from engine.worker.run_log import write_outcome
    except (ImportError, MemoryError, SystemError, RuntimeError) as error:  # a broken package, no memory, no threads
        reason = import_failure(error)
        log.write(Error(text=reason, code="run.import_failed"))
        return ended("failed", reason, 1)
    if len(devices) > 1:
        return run_ranks(run, frozen, log, stopping, devices)
    return write_outcome(run, frozen, log, execute(run, frozen, log, stopping))


def _free_devices(
    run: RunDir, frozen: FrozenRun, log: EventLog, stopping: StopRequest, queued_since: float
) -> list[SelectedDevice] | None:
    """The devices of the run, once they are free; None if it was stopped or deleted before. Raises UserError."""

    def log_place(note: str) -> None:
        log.write(Phase(name="waiting", note=note))

    def cancelled() -> bool:
        return stopping.requested or not run.path.exists()

    count = frozen.config.train.devices
    possible = devices_for(frozen.config.hardware.device, count)
    if frozen.wait and frozen.config.executor.name == "local":  # a batch system has given its job devices
        return wait_for_devices(
            possible, queued_since, run.path, log_place, cancelled, is_usable=still_exists, count=count
        )
    return possible[:count]


if __name__ == "__main__":
    redact_output()
    sys.exit(main(sys.argv[1:]))
