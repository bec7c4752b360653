"""`python -m engine.worker.rank RUN_DIR STARTED DEVICE…`: one of the ranks of a run that trains on several devices.

Started by `engine.worker.rank_launcher`, which holds the run's lock. `STARTED` is the value of the monotonic clock from
which the run's log counts, `DEVICE…` the locks of the devices by rank. Only rank 0 writes into the run's directory.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from engine.config.redaction import redact_output
from engine.hardware.devices import device_settings, devices_for
from engine.runs.run.event_log import EventLog, NoEventLog
from engine.runs.run.run_dir import RunDir, read_frozen
from engine.runs.stopping import StopRequest, die_with_parent

STOP_SIGNAL = signal.SIGUSR2
"""Asks a rank to stop. It is ignored until the rank can answer it: the launcher ignores it too, and repeats it."""
STOPPED, OUT_OF_MEMORY = 3, 4
"""Exit status of rank 0 after a stop request, and of a rank of a sharded model that is out of memory."""
FOLDER = ".ranks.tmp"
"""Folder in the run's directory in which the ranks meet; also for their error messages."""
GRACE_SECONDS = 5.0
"""How long a rank waits before it reports an error: it often has the cause in another rank, which the launcher then
finds first, or is one that rank 0 describes.
"""


class RankFailed(Exception):
    """What ended a rank; torch passes its text on to the launcher."""


def main(arguments: list[str]) -> int:
    die_with_parent(os.getppid())
    stopping = StopRequest()
    stopping.listen(STOP_SIGNAL)
    run = RunDir(Path(arguments[0]))
    frozen = read_frozen(run)
    rank = int(os.environ["RANK"])
    devices = {device.lock: device for device in devices_for(*device_settings(frozen.config))}
    used = arguments[2:]
    devices[used[rank]].apply()

    from engine.methods.library_imports import import_libraries

    import_libraries()  # takes seconds, and needs the environment of the device
    from torch.distributed.elastic.multiprocessing.errors import record

    from engine.methods.machine import this_machine
    from engine.training.ranks import join
    from engine.worker.main import execute

    def work() -> int:
        ranks = join(this_machine().device, run.path / FOLDER)
        log = EventLog(run.events_file, float(arguments[1])) if ranks.is_first else NoEventLog(f"rank {rank}")
        gpus = [devices[lock].gpu for lock in used if lock != used[rank]]
        outcome = execute(run, frozen, log, stopping, ranks, [gpu for gpu in gpus if gpu is not None])
        if outcome.needs_restart:
            return OUT_OF_MEMORY
        if ranks.is_first and outcome.is_expected:
            run.record_end(outcome.status, outcome.reason)
            return {"finished": 0, "stopped": STOPPED}.get(outcome.status, 2 if outcome.user else 1)
        if outcome.status in ("finished", "stopped"):
            return 0
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline and not stopping.requested:  # the launcher ends a rank after another failed
            time.sleep(0.05)
        raise RankFailed(outcome.reason)

    return int(record(work)())


if __name__ == "__main__":
    redact_output()
    sys.exit(main(sys.argv[1:]))
