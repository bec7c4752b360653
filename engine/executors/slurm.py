"""Submit, signal and cancel jobs of Slurm with its own commands, in one line of error each."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from engine.config.errors import RunFailed, UserError
from engine.config.files import write_atomically
from engine.config.schema import Executor
from engine.config.text import visible
from engine.executors import job as jobs
from engine.executors.job import Job
from engine.executors.slurm_script import NAME, array_script, script

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
        do = "start ftbench on a login node of the cluster"
        raise UserError(f"Slurm is not installed here: no {words[0]}", do=do, code="slurm.not_installed") from error
    except subprocess.TimeoutExpired as error:
        raise Unreachable(
            f"Slurm does not answer: {words[0]} took over {seconds:.0f} s", "slurm.unreachable"
        ) from error
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
    job = Job(_sbatch(run, script(run, log_file, settings)), time.time())
    jobs.write(run, job)
    return job


def submit_array(folder: Path, runs: Sequence[Path], settings: Executor) -> list[Job]:
    """Write one batch script for several runs into `folder`, submit it as a job array and record each task.

    At most `settings.max_jobs` tasks run at a time. Raises as `submit` does.
    """
    array = _sbatch(folder, array_script(folder, runs, settings))
    submitted = time.time()
    tasks = [Job(f"{array}_{number}", submitted) for number in range(len(runs))]
    for run, task in zip(runs, tasks, strict=True):
        jobs.write(run, task)
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
        do = "see `sinfo` for partitions and limits; the options are in the preset's [executor] table"
        raise UserError(str(error), do=do, code="slurm.refused") from error
    return answer.strip().split(";")[0]  # `17;cluster` where there are several clusters


def stop(job: Job) -> None:
    """Ask the worker of a running job to save a checkpoint and exit. Raises RunFailed where Slurm refuses."""
    command("scancel", "--batch", "--signal=TERM", job.id)


def cancel(job: Job) -> None:
    """Remove a job from the queue. Raises RunFailed where Slurm refuses."""
    command("scancel", job.id)
