"""Runs whose worker a batch system starts: the record of a run's job, and batch systems as extensions.

A batch system is a module with the functions of `BatchSystem` (`ftbench.executors` in `engine/config/hooks.py`), under
the name that `executor.name` has.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol, cast

import msgspec

from engine.config.errors import UserError
from engine.config.files import read_regular, write_atomically
from engine.config.hooks import hooks
from engine.config.schema import Executor

JOB_FILE = "job.json"
"""In a run's directory: its latest job, written at each submission."""


class Job(msgspec.Struct, frozen=True):
    """A job of a batch system that runs the worker of one run."""

    id: str
    """The system's id of the job; `17`, or `17_3` for a task of an array."""
    submitted: float
    """Unix seconds after the system had accepted it."""
    executor: str = "slurm"
    """The name of the system; the default is that of records of earlier versions."""


class JobState(Protocol):
    """What a batch system says of a job."""

    @property
    def is_active(self) -> bool:
        """Whether it runs or may still run. True while the system does not answer: resuming could start it twice."""

    @property
    def is_waiting(self) -> bool: ...

    @property
    def is_unknown(self) -> bool:
        """Whether the system does not answer."""

    @property
    def reason(self) -> str:
        """Why it waits, in the system's words; '' if it does not say."""

    @property
    def text(self) -> str:
        """A sentence: `job 17 is pending: Priority`."""


class BatchSystem(Protocol):
    """What an executor other than this machine does. All raise RunFailed while the system does not answer."""

    def submit(self, run: Path, log_file: Path, settings: Executor) -> Job:
        """Submit the worker of a run and record its job. Raises UserError for options that the system refuses."""

    def submit_array(self, folder: Path, runs: Sequence[Path], settings: Executor) -> Sequence[Job]:
        """Submit the workers of a ladder's runs together; `folder` is the ladder's. Raises as `submit` does."""

    def state(self, job: Job) -> JobState:
        """From the last answer of the system: lists ask every second."""

    def final_state(self, job: Job) -> JobState:
        """The state of a job that has ended, however long ago."""

    def refresh(self) -> None:
        """Ask for the states of all jobs now, for callers that wait for a change."""

    def stop(self, job: Job) -> None:
        """Ask the worker of a running job to save a checkpoint and exit."""

    def cancel(self, job: Job) -> None:
        """Remove a waiting job."""

    def machine(self, settings: Executor) -> str:
        """Where jobs with these options run: a ladder reuses no runs of other machines."""


def batch_system(name: str) -> BatchSystem | None:
    """The executor of this name; None for `local`. Raises UserError for one that is not installed."""
    if name == "local":
        return None
    known = hooks("ftbench.executors")
    if name not in known:
        hint = f"use local, {', '.join(known)}"
        raise UserError(f"unknown executor {name!r}", "executor.name", hint, "executor.unknown")
    return cast(BatchSystem, known[name].load())


def system_of(job: Job) -> BatchSystem:
    """The batch system of a job. Raises UserError for one that is not installed."""
    return cast(BatchSystem, batch_system(job.executor))


def read_job(folder: Path) -> Job | None:
    """The latest job of the run in this directory, None for a run on this machine.

    Raises UserError where the file is damaged or cannot be read.
    """
    path = folder / JOB_FILE
    try:
        status = path.stat()
        return _decoded(path, status.st_mtime_ns, status.st_size)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        hint = "list your jobs in the batch system, and delete the file if none of them belongs to this run"
        raise UserError(f"damaged: {error}", str(path), hint, code="run.job_damaged") from error


def write_job(folder: Path, job: Job) -> None:
    """Record a submitted job. Raises OSError where the disk is full."""
    write_atomically(folder / JOB_FILE, msgspec.json.encode(job))


@lru_cache(maxsize=4096)
def _decoded(path: Path, mtime: int, size: int) -> Job:
    """Cached as long as the file does not change: lists ask every second."""
    return msgspec.json.decode(read_regular(path), type=Job)
