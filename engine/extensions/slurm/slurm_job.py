"""`python -P -m engine.extensions.slurm.slurm_job WORKER…`: the process of a job, which starts its worker and waits.

Slurm sends SIGUSR1 before the time limit, `ftbench stop` SIGTERM; both are forwarded to the worker, which finishes the
step, saves a checkpoint and exits. After SIGUSR1 the job is queued again, and the worker resumes from the checkpoint.

Signals are blocked and received with `sigwait`, so that none is lost: a shell can miss a signal that arrives just
before `wait`. The worker inherits the signal mask and unblocks the signals once it can handle them
(`StopRequest.listen`). Only the standard library is imported, because a signal before the first line ends the job.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

FORWARDED = {signal.SIGUSR1, signal.SIGTERM}
RESULT = Path("result.json")
"""In the directory of the run, in which the job runs."""
STOPPED = b'"status": "stopped"'


def main(command: list[str]) -> int:
    """Run the worker to its end; returns its exit status as a shell does, or replaces this process by `scontrol`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    worker = subprocess.Popen(command)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # from now on the end of the worker wakes `sigwait`
    limit_reached = False
    while (status := worker.poll()) is None:
        received = signal.sigwait({*FORWARDED, signal.SIGCHLD})
        if received in FORWARDED:
            limit_reached |= received == signal.SIGUSR1
            worker.send_signal(received)
    if limit_reached and RESULT.exists() and STOPPED in RESULT.read_bytes():
        os.execvp("scontrol", ["scontrol", "requeue", os.environ["SLURM_JOB_ID"]])
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
