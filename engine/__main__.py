"""`python -m engine RUN_DIR`: takes the run's lock, says hello, waits for its device, then hands over to the worker.

Nothing heavy is imported before the hello: whoever launched the run sees it alive within half a second.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from pathlib import Path

from engine import __version__
from engine.config.errors import UserError
from engine.config.files import no_room
from engine.runs import end_record, locks
from engine.runs.config_check import check_unchanged
from engine.runs.device_queue import wait_turn
from engine.runs.end_record import EndRecord
from engine.runs.events import End, Error, EventLog, Hello, Phase
from engine.runs.run_dir import (
    Frozen,
    RunDir,
    last_event,
    read_frozen,
    set_values,
    write_end,
)
from engine.runs.stop_request import StopRequest


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m engine RUN_DIR", file=sys.stderr)
        return 2
    run = RunDir(Path(arguments[0]).absolute())
    try:
        frozen = read_frozen(run)
        check_unchanged(run, frozen)
        lock = locks.hold(run.lock_file)
    except UserError as error:
        print(error.line, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{run.lock_file} cannot be locked: {error.strerror}", file=sys.stderr)
        return 1
    if lock is None:
        print(f"{run.name} is running already", file=sys.stderr)
        return 2
    try:
        locks.sign(lock, str(os.getpid()))
        return live(run, frozen)
    except OSError as error:
        do = "free some space, then resume" if no_room(error) else f"check it, then `ftbench resume {run.name}`"
        reason = f"{error.filename or run.path}: {error.strerror}; {do}"
        end_record.write(run.end_file, EndRecord(status="failed", reason=reason, t=time.time()))
        with contextlib.suppress(OSError):  # the raw log may be on the same full disk
            print(reason, file=sys.stderr, flush=True)
        return 1


def live(run: RunDir, frozen: Frozen) -> int:
    """One life of a run, from its hello to its end; returns the exit status. Raises OSError where it cannot begin."""
    stopping = StopRequest()
    stopping.listen()
    last = last_event(run.events_file)
    resumed = run.events_file.exists()
    end_record.reserve(run.end_file)
    run.result_file.unlink(missing_ok=True)
    run.paused_file.unlink(missing_ok=True)
    log = EventLog(run.events_file)
    hello = Hello(pid=os.getpid(), host=socket.gethostname(), version=__version__, resumed=resumed)
    hello.config = set_values(frozen.config)
    log.write(hello)
    if isinstance(last, End) and last.status == "finished" and run.model.is_dir():
        write_end(run, frozen, log, End(status="finished", reason=""))  # only its result was lost
        return 0

    card = visible_card()
    came = time.time() if resumed else frozen.created  # who paused has had its turn, and takes its place anew

    def told(note: str) -> None:
        log.write(Phase(name="waiting", note=note))

    def given_up() -> bool:
        return stopping.asked or not run.path.exists()

    try:
        held = wait_turn(card, came, run.path, told, given_up) if frozen.wait else True
    except UserError as error:
        log.write(Error(text=error.line, user=True))
        write_end(run, frozen, log, End(status="failed", reason=error.line))
        return 2
    if not run.path.exists():  # deleted while it waited: there is nothing to work on, nor to tell it in
        return 0
    if not held:
        reason = "stopped while waiting for the card; `ftbench resume` starts it again"
        write_end(run, frozen, log, End(status="stopped", reason=reason))
        return 0

    try:
        from engine.worker.main import work
    except (ImportError, MemoryError, SystemError, RuntimeError) as error:  # a broken package, no memory, no threads
        reason = f"the libraries cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        log.write(Error(text=reason))
        write_end(run, frozen, log, End(status="failed", reason=reason))
        return 1
    return work(run, frozen, log, stopping)


def visible_card() -> str:
    """The card this run will use, as a lock's name: the first that CUDA_VISIBLE_DEVICES leaves, or cpu."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        first = visible.split(",")[0].strip()
        return first if first and first != "-1" else "cpu"
    return "0" if Path("/dev/nvidia0").exists() or Path("/dev/nvidiactl").exists() else "cpu"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
