"""Jobs of Slurm: their batch scripts; submitted, signaled, canceled and asked for their states with its own commands.

An error of these commands is one line. The states of all jobs of this user come from one `squeue`, cached, so that
lists can ask every second.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from engine.config.errors import RunFailed, UserError
from engine.config.files import write_atomically
from engine.config.schema import Executor
from engine.config.text import visible
from engine.executors.jobs import Job, write_job
from engine.executors.local import DEFAULT_ENVIRONMENT, ENVIRONMENT, worker_command

NAME = "job.sbatch"
EXECUTOR = "slurm"
"""In `executor.name`."""
LAUNCHER = [sys.executable, "-P", "-m", "engine.extensions.slurm.slurm_job"]
MIN_WORK_SECONDS = 120
"""Time that a job needs at least, for imports, model and one step, before it is asked for a checkpoint."""
OPTIONS = {
    "partition": "partition",
    "time": "time",
    "gres": "gres",
    "cpus": "cpus-per-task",
    "memory": "mem",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
}
"""Preset key in `executor` -> option of sbatch."""
_VALUE = re.compile(r"[\w.,:;=@/+*&|!()\[\]-]+")
"""What options of sbatch contain. Without white space and quotes, so that a value cannot become another option."""

_SELECT = """\
runs=(
{runs}
)
run=${{runs[$SLURM_ARRAY_TASK_ID]}}
cd "$run" || exit 1
exec >>engine.log 2>&1

"""
_BODY = """\
{exports}

# Starts the worker and passes on the signals of Slurm and of `ftbench stop`.
exec {launcher} {command}
"""


def script(run: Path, log_file: Path, settings: Executor) -> str:
    """The text of the batch script of one run. Raises UserError for values that sbatch could misread."""
    about = f"# The worker of one run as a job of Slurm; `ftbench resume {shlex.quote(run.name)}` submits it again."
    body = _body(settings, shlex.join(worker_command("engine", run)))
    return "\n".join([*_header(run, log_file, about, settings), "", body])


def array_script(folder: Path, runs: Sequence[Path], settings: Executor) -> str:
    """The text of the batch script of several runs, each a task of one job array. Raises as `script` does."""
    about = "# The runs of a ladder as tasks of a job array of Slurm; each writes to the engine.log in its directory."
    header = _header(folder, folder / "jobs.log", about, settings)
    header.append(f"#SBATCH --array=0-{len(runs) - 1}%{settings.max_jobs}")
    select = _SELECT.format(runs="\n".join(f"  {shlex.quote(str(run))}" for run in runs))
    command = f'{shlex.join(worker_command("engine", Path("run"))[:-1])} "$run"'
    return "\n".join([*header, "", select + _body(settings, command)])


def limit_seconds(limit: str) -> int | None:
    """Seconds of a time limit as sbatch reads it: 90, 90:00, 12:00:00, 2-0, 2-00:00, 2-00:00:00; None for others."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if match is None:
        return None
    days, *given = match.groups()
    numbers = [int(number) for number in given if number]
    if days is None and len(numbers) < 3:  # minutes:seconds, else hours:minutes:seconds
        numbers.insert(0, 0)
    hours, minutes, seconds = (*numbers, 0, 0)[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _header(folder: Path, log_file: Path, about: str, settings: Executor) -> list[str]:
    seconds = limit_seconds(settings.time) if settings.time is not None else None
    needed = settings.notice + MIN_WORK_SECONDS
    if seconds is not None and seconds < needed:  # no step could be trained: the job would be queued again forever
        why = f"no time to train, because a checkpoint is saved {settings.notice} s before it"
        hint = f"set it to at least {(needed + 59) // 60} minutes, or lower executor.notice"
        raise UserError(f"time limit {settings.time}: {why}", "executor.time", hint, code="slurm.short_time_limit")
    lines = [
        "#!/bin/bash",
        about,
        f"#SBATCH --job-name={_quoted(Path(folder.name))}",
        f"#SBATCH --chdir={_quoted(folder)}",
        f"#SBATCH --output={_quoted(log_file).replace('%', '%%')}",
        "#SBATCH --open-mode=append",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks=1",
        "#SBATCH --requeue",
        f"#SBATCH --signal=B:USR1@{settings.notice}",
    ]
    for key, option in OPTIONS.items():
        value = getattr(settings, key)
        if value is None:
            continue
        if not _VALUE.fullmatch(str(value)):
            hint = f"give it as `sbatch --{option}` expects it, without spaces and quotes"
            raise UserError(f"invalid value {value!r}", f"executor.{key}", hint, code="slurm.invalid_option")
        lines.append(f"#SBATCH --{option}={value}")
    return lines


def _body(settings: Executor, command: str) -> str:
    exports = [f"export {name}={value}" for name, value in ENVIRONMENT.items()]
    exports += [f'export {name}="${{{name}:-{value}}}"' for name, value in DEFAULT_ENVIRONMENT.items()]
    if settings.cpus:
        exports.append(f"export OMP_NUM_THREADS={settings.cpus}")
    return _BODY.format(exports="\n".join(exports), launcher=shlex.join(LAUNCHER), command=command)


def _quoted(path: Path) -> str:
    """A path in double quotes. Raises UserError for characters that sbatch has no way to quote."""
    if re.search(r'["\\\n\r]', str(path)):
        problem = "unsupported path for Slurm: it contains quotes, backslashes or line breaks"
        raise UserError(problem, str(path), "use another directory (--runs)", code="slurm.path")
    return f'"{path}"'


TIMEOUT_SECONDS = 30.0
"""Slurm's commands give up on their controller after MessageTimeout, 10 s by default."""
_NETWORK_ERRORS = (
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.EPIPE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENETRESET,
)
_UNREACHABLE = (
    *map(os.strerror, _NETWORK_ERRORS),
    # Slurm's own errors of communication (src/common/slurm_errno.c in its sources)
    "Unable to contact slurm controller",
    "Unable to establish controller",
    "Communication connection failure",
    "Communication shutdown failure",
    "Message receive failure",
    "Message send failure",
    "Socket timed out",
    "missing socket error",
    "Zero Bytes were transmitted or received",
    "standby mode",
)
"""What one of Slurm's commands prints when its controller dies before, while or after it is asked."""


class Unreachable(RunFailed):
    """Slurm's controller does not answer; the jobs that run continue without it."""


def command(*words: str, seconds: float = TIMEOUT_SECONDS) -> str:
    """The output of one of Slurm's commands.

    Raises UserError where Slurm is not installed, Unreachable where its controller does not answer, and RunFailed with
    Slurm's own message for every other failure.
    """
    # Options in SBATCH_… variables have precedence over the script's, which the user reads.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SBATCH_", "SQUEUE_"))}
    try:
        done = subprocess.run(words, capture_output=True, timeout=seconds, env=environment, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        hint = "start ftbench on a login node of the cluster"
        raise UserError(f"Slurm is not installed here: no {words[0]}", hint=hint, code="slurm.not_installed") from error
    except subprocess.TimeoutExpired as error:
        text = f"Slurm does not answer: {words[0]} took over {seconds:.0f} s"
        raise Unreachable(text, "slurm.unreachable") from error
    if done.returncode == 0:
        return done.stdout.decode("utf-8", "replace")
    lines = done.stderr.decode("utf-8", "replace").splitlines()
    said = "; ".join(line.removeprefix(f"{words[0]}: error: ").strip() for line in lines if line.strip())
    said = said or f"exit status {done.returncode}"
    if any(mark in said for mark in _UNREACHABLE):
        raise Unreachable(f"Slurm does not answer: {visible(said, 200)}", "slurm.unreachable")
    raise RunFailed(f"{words[0]} failed: {visible(said, 300)}", f"slurm.{words[0]}_failed")


def submit(run: Path, log_file: Path, settings: Executor) -> Job:
    """Write the batch script of a run, submit it and record the job.

    Raises UserError for options that Slurm cannot use or refuses, and Unreachable.
    """
    job = Job(_sbatch(run, script(run, log_file, settings)), time.time(), EXECUTOR)
    write_job(run, job)
    return job


def submit_array(folder: Path, runs: Sequence[Path], settings: Executor) -> list[Job]:
    """Write one batch script for several runs into `folder`, submit it as a job array and record each task.

    At most `settings.max_jobs` tasks run at a time. Raises as `submit` does.
    """
    array = _sbatch(folder, array_script(folder, runs, settings))
    submitted = time.time()
    tasks = [Job(f"{array}_{number}", submitted, EXECUTOR) for number in range(len(runs))]
    for run, task in zip(runs, tasks, strict=True):
        write_job(run, task)
    return tasks


def _sbatch(folder: Path, text: str) -> str:
    """Write a batch script into `folder` and submit it; returns the job's id."""
    path = folder / NAME
    write_atomically(path, text.encode())
    try:
        answer = command("sbatch", "--parsable", str(path))
    except Unreachable:
        raise
    except RunFailed as error:
        hint = "see `sinfo` for partitions and limits; the options are in the preset's [executor] table"
        raise UserError(str(error), hint=hint, code="slurm.refused") from error
    return answer.strip().split(";")[0]  # `17;cluster` where there are several clusters


def stop(job: Job) -> None:
    """Ask the worker of a running job to save a checkpoint and exit. Raises RunFailed where Slurm refuses."""
    command("scancel", "--batch", "--signal=TERM", job.id)


def cancel(job: Job) -> None:
    """Remove a job from the queue. Raises RunFailed where Slurm refuses."""
    command("scancel", job.id)


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


class SlurmJobState(NamedTuple):
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
    def is_unknown(self) -> bool:
        return self.state == UNKNOWN

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
        self._states: dict[str, SlurmJobState] = {}
        self._asked = 0.0
        """Unix seconds at which squeue was last started, 0 before that."""
        self._next = 0.0
        """Monotonic seconds from which they are read again."""
        self._problem = ""
        """Slurm's message, '' while it answers."""
        self._reader: threading.Thread | None = None

    def state(self, job: Job) -> SlurmJobState:
        if time.monotonic() >= self._next:
            if self._asked <= job.submitted and not self._problem:
                self._read(FIRST_SECONDS)
            else:
                with self._lock:
                    if self._reader is None or not self._reader.is_alive():
                        self._reader = threading.Thread(target=self._read, args=(30.0,), daemon=True, name="squeue")
                        self._reader.start()
        with self._lock:
            known = self._states.get(job.id)
            if known is not None and not self._problem:
                return known
            if self._problem or self._asked <= job.submitted:
                return SlurmJobState(job.id, UNKNOWN, self._problem or "submitted a moment ago")
        return SlurmJobState(job.id, "")

    def refresh(self) -> None:
        """Read the states now, for callers that wait for a change."""
        with self._lock:
            self._next = 0.0
        self._read(FIRST_SECONDS)

    def final_state(self, job: Job) -> SlurmJobState:
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
        ended = SlurmJobState(job.id, state)
        with self._lock:
            self._states[job.id] = ended
        return ended

    def _read(self, seconds: float) -> None:
        with self._reading:
            if time.monotonic() < self._next:
                return  # another thread has read them in the meantime
            asked = time.time()  # before squeue: its answer does not have jobs submitted while it ran
            try:
                answer = command("squeue", *_LISTING, seconds=seconds)
            except (UserError, RunFailed) as error:
                with self._lock:
                    self._problem = str(error)
                    self._next = time.monotonic() + RETRY_SECONDS
                return
            states = [SlurmJobState(*line.split("|")[:4]) for line in answer.splitlines() if line.count("|") >= 3]
            with self._lock:
                ended = {job: state for job, state in self._states.items() if not state.is_active}
                self._states = ended | {state.job: state for state in states}
                self._asked, self._problem = asked, ""
                self._next = time.monotonic() + REFRESH_SECONDS


queue = SlurmQueue()
"""Of this process: all runs share its answers."""


def state(job: Job) -> SlurmJobState:
    """What Slurm says of a job, from the last answer of `squeue`."""
    return queue.state(job)


def final_state(job: Job) -> SlurmJobState:
    """The state of a job that has ended, also from Slurm's accounting."""
    return queue.final_state(job)


def refresh() -> None:
    """Read the states of all jobs now."""
    queue.refresh()


def machine(settings: Executor) -> str:
    """Where jobs with these options run: runs of other machines are not reused."""
    return f"slurm {settings.partition} {settings.gres} {settings.constraint}"
