"""`python -m engine RUN_DIR`: takes the run's lock, says hello, waits for the card, then hands over to the worker.

Nothing heavy is imported before the hello: whoever launched the run sees it alive within half a second.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

from engine import __version__
from engine.contract import locks
from engine.contract.errors import UserError
from engine.contract.events import End, EventLog, Hello, Phase
from engine.contract.rundir import RunDir, blank_result, read_frozen, write_result
from engine.contract.signals import Stopping
from engine.contract.turns import wait_turn


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m engine RUN_DIR", file=sys.stderr)
        return 2
    run = RunDir(Path(arguments[0]).absolute())
    try:
        frozen = read_frozen(run)
    except UserError as error:
        print(error.line, file=sys.stderr)
        return 2
    lock = locks.hold(run.lock_file, str(os.getpid()))
    if lock is None:
        print(f"{run.name} is running already", file=sys.stderr)
        return 2
    stopping = Stopping()
    stopping.listen()
    run.result_file.unlink(missing_ok=True)
    run.paused_file.unlink(missing_ok=True)
    resumed = run.events_file.exists()
    log = EventLog(run.events_file)
    log.write(Hello(pid=os.getpid(), host=socket.gethostname(), version=__version__, resumed=resumed))

    card = visible_card()
    came = time.time() if resumed else frozen.created  # who paused has had its turn, and takes its place anew

    def told(note: str) -> None:
        log.write(Phase(name="waiting", note=note))

    def given_up() -> bool:
        return stopping.asked or not run.path.exists()

    held = wait_turn(card, came, run.path, told, given_up) if frozen.wait else True
    if not run.path.exists():  # deleted while it waited: there is nothing to work on, nor to tell it in
        return 0
    if not held:
        result = blank_result(run, frozen)
        result.status, result.reason = "stopped", "stopped while waiting for the card; `ftbench resume` starts it again"
        log.write(End(status="stopped", reason=result.reason))
        write_result(run, result)
        return 0

    from engine.worker import work

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
