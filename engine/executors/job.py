"""The record of a submitted job in a run directory: `job.json`, written at each submission."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import msgspec

from engine.config.errors import UserError
from engine.config.files import read_regular, write_atomically

FILE = "job.json"


class Job(msgspec.Struct, frozen=True):
    """A job of a batch system that runs the worker of one run."""

    id: str
    """Slurm's job id; `17_3` for a task of an array."""
    submitted: float
    """Unix seconds after Slurm had accepted it."""
    executor: str = "slurm"


def read(folder: Path) -> Job | None:
    """The latest job of the run in this directory, None for a run on this machine.

    Raises UserError where the file is damaged or cannot be read.
    """
    path = folder / FILE
    try:
        status = path.stat()
        return _decoded(path, status.st_mtime_ns, status.st_size)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
        do = "`squeue` lists your jobs; delete the file if none of them belongs to this run"
        raise UserError(f"damaged: {error}", str(path), do, code="run.job_damaged") from error


def write(folder: Path, job: Job) -> None:
    """Record a submitted job. Raises OSError where the disk is full."""
    write_atomically(folder / FILE, msgspec.json.encode(job))


@lru_cache(maxsize=4096)
def _decoded(path: Path, mtime: int, size: int) -> Job:
    """Cached as long as the file does not change: lists ask every second."""
    return msgspec.json.decode(read_regular(path), type=Job)
