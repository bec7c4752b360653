"""States of this user's jobs, from one `squeue` for all of them; cached, so that lists can ask every second."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from engine.config.errors import RunFailed, UserError
from engine.executors.job import Job
from engine.executors.slurm import command

REFRESH_SECONDS = 3.0
RETRY_SECONDS = 15.0
"""Pause after Slurm did not answer."""
FIRST_SECONDS = 5.0
"""Timeout of the first `squeue` call of a process; later calls run in the background."""
UNKNOWN = "UNKNOWN"
WAITING = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
WORKING = ("RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT")
"""Slurm's states of jobs that will run or may run again, and of jobs that run (squeue(1), JOB STATE CODES)."""
ENDINGS = {
    "TIMEOUT": "reached its time limit",
    "NODE_FAIL": "lost its node",
    "CANCELLED": "was cancelled",
    "PREEMPTED": "was preempted",
    "OUT_OF_MEMORY": "used more memory than Slurm allowed it",
    "BOOT_FAIL": "did not start: the node failed to boot",
    "DEADLINE": "could not end before its deadline",
    "FAILED": "failed",
    "COMPLETED": "has ended",
    "": "is no longer known to Slurm",
}
"""Final states, as the end of a sentence that begins with the job."""


_LISTING = ("--me", "--noheader", "--array", "--states=all", "--format=%i|%T|%r|%N")
_ACCOUNTING = ("--noheader", "--allocations", "--parsable2", "--format=State")


class JobState(NamedTuple):
    """What Slurm says of a job."""

    job: str
    state: str
    """Slurm's word, such as PENDING; UNKNOWN while Slurm does not answer, '' for a job that it no longer knows."""
    reason: str = ""
    """Why it is pending, such as Priority or Resources; Slurm's message for UNKNOWN."""
    node: str = ""

    @property
    def is_active(self) -> bool:
        """Whether it runs or may still run. True while Slurm does not answer: resuming could start it twice."""
        return self.state in (*WAITING, *WORKING, UNKNOWN)

    @property
    def is_waiting(self) -> bool:
        return self.state in WAITING

    @property
    def text(self) -> str:
        """`Slurm job 17 is pending: Priority`."""
        name = f"Slurm job {self.job}"
        if self.state == UNKNOWN:
            return f"{name}: state unknown; {self.reason}"
        if self.is_active:
            where = f" on {self.node}" if self.node else ""
            why = f": {self.reason}" if self.reason not in ("", "None") else ""
            return f"{name} is {self.state.lower().replace('_', ' ')}{where}{why}"
        return f"{name} {ENDINGS.get(self.state, f'ended as {self.state}')}"


class SlurmQueue:
    """The states of all jobs of this user, for any thread. Waits for Slurm only for a job that is new to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        """Held while squeue runs: threads that ask at the same time share one answer."""
        self._states: dict[str, JobState] = {}
        self._asked = 0.0
        """Unix seconds at which squeue was last started, 0 before that."""
        self._next = 0.0
        """Monotonic seconds from which they are read again."""
        self._problem = ""
        """Slurm's message, '' while it answers."""
        self._reader: threading.Thread | None = None

    def state(self, job: Job) -> JobState:
        """The latest known state of a job."""
        if time.monotonic() >= self._next:
            if self._asked <= job.submitted and not self._problem:
                self._read(FIRST_SECONDS)
            else:
                self._read_in_background()
        with self._lock:
            known = self._states.get(job.id)
            if known is not None and not self._problem:
                return known
            if self._problem or self._asked <= job.submitted:
                return JobState(job.id, UNKNOWN, self._problem or "submitted a moment ago")
        return JobState(job.id, "")

    def refresh(self) -> None:
        """Read the states now, for callers that wait for a change."""
        with self._lock:
            self._next = 0.0
        self._read(FIRST_SECONDS)

    def final_state(self, job: Job) -> JobState:
        """The state of a job, which for one that squeue no longer lists is asked from Slurm's accounting, if it is on.

        squeue lists a job until MinJobAge after its end, 300 s by default.
        """
        known = self.state(job)
        if known.state:
            return known
        try:
            answer = command("sacct", *_ACCOUNTING, f"--jobs={job.id}")
            state = (answer.split() or [""])[0]  # `CANCELLED by 1000`
        except (UserError, RunFailed):  # no accounting
            state = ""
        ended = JobState(job.id, state)
        with self._lock:
            self._states[job.id] = ended
        return ended

    def _read(self, seconds: float) -> None:
        with self._reading:
            if time.monotonic() >= self._next:  # else another thread has read them in the meantime
                self._read_now(seconds)

    def _read_now(self, seconds: float) -> None:
        asked = time.time()  # before squeue: its answer does not have jobs submitted while it ran
        try:
            answer = command("squeue", *_LISTING, seconds=seconds)
        except (UserError, RunFailed) as error:
            with self._lock:
                self._problem = str(error)
                self._next = time.monotonic() + RETRY_SECONDS
            return
        states = [JobState(*line.split("|")[:4]) for line in answer.splitlines() if line.count("|") >= 3]
        with self._lock:
            ended = {job: state for job, state in self._states.items() if not state.is_active}
            self._states = ended | {state.job: state for state in states}
            self._asked, self._problem = asked, ""
            self._next = time.monotonic() + REFRESH_SECONDS

    def _read_in_background(self) -> None:
        with self._lock:
            if self._reader is not None and self._reader.is_alive():
                return
            self._reader = threading.Thread(target=self._read, args=(30.0,), daemon=True, name="squeue")
            self._reader.start()


queue = SlurmQueue()
"""Of this process: all runs share its answers."""
