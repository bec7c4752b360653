"""Checkpoints that are whole or are not there.

A checkpoint is written under a temporary name, its files flushed, its manifest (sizes and sha256) written last,
and then renamed. Reading believes the manifest and not the name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.contract.files import write_atomically
from engine.training.guards import DiskFull, is_disk_full

MANIFEST = "manifest.json"
PREFIX = "step-"
WRITING = ".writing-"


@dataclass(frozen=True)
class Saved:
    """A complete checkpoint."""

    step: int
    folder: Path
    bytes: int
    seconds: float


class Saving:
    """A checkpoint in the making: fill `folder`, then read `done`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: Saved


@contextlib.contextmanager
def writing(checkpoints: Path, step: int) -> Iterator[Saving]:
    """Make `step-N` from what the body writes into `folder`; on any error nothing of it stays.

    Raises DiskFull where there is no room; checkpoints made before are untouched.
    """
    started = time.monotonic()
    checkpoints.mkdir(mode=0o700, exist_ok=True)
    temporary = checkpoints / f"{WRITING}{step}"
    shutil.rmtree(temporary, ignore_errors=True)
    saving = Saving(temporary)
    try:
        temporary.mkdir(mode=0o700)
        yield saving
        size = _seal(temporary, step)
        final = checkpoints / f"{PREFIX}{step}"
        shutil.rmtree(final, ignore_errors=True)  # an incomplete one of the same step, from before a resume
        temporary.replace(final)
        _sync_folder(checkpoints)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_disk_full(error):
            raise DiskFull(f"no room for the checkpoint at step {step} in {checkpoints}") from error
        raise
    saving.done = Saved(step, final, size, time.monotonic() - started)


@contextlib.contextmanager
def folder_atomically(temporary: Path, final: Path) -> Iterator[Path]:
    """The body fills `temporary`, which then becomes `final`; on any error nothing of it stays.

    Raises DiskFull where there is no room.
    """
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(mode=0o700)
        yield temporary
        shutil.rmtree(final, ignore_errors=True)
        temporary.replace(final)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_disk_full(error):
            raise DiskFull(f"no room for {final}") from error
        raise


def newest_complete(checkpoints: Path) -> tuple[Saved | None, list[str]]:
    """The newest checkpoint whose files match its manifest, and a sentence for each newer one that does not."""
    complaints: list[str] = []
    for step, folder in sorted(_named(checkpoints), reverse=True):
        found = trouble(folder)
        if found is None:
            return Saved(step, folder, _size(folder), 0.0), complaints
        complaints.append(f"checkpoint {folder.name} is not whole ({found}): the one before is used")
    return None, complaints


def trouble(folder: Path) -> str | None:
    """What is wrong with a checkpoint, None where it is whole."""
    try:
        files = json.loads((folder / MANIFEST).read_text("utf-8"))["files"]
        for name, facts in files.items():
            path = folder / name
            if not path.exists():
                return f"{name} is missing"
            if path.stat().st_size != facts["bytes"]:
                return f"{name} has {path.stat().st_size} of {facts['bytes']} bytes"
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != facts["sha256"]:
                    return f"{name} has changed"
    except FileNotFoundError:
        return "it has no manifest"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its manifest cannot be read: {error}"
    return None


def rotate(checkpoints: Path, keep: int) -> None:
    """Delete all but the newest `keep`."""
    for _, folder in sorted(_named(checkpoints), reverse=True)[keep:]:
        # The manifest goes first: a half-deleted checkpoint must not look complete.
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def clear_unfinished(checkpoints: Path) -> None:
    """Remove what a killed worker was writing."""
    for folder in checkpoints.glob(f"{WRITING}*"):
        shutil.rmtree(folder, ignore_errors=True)


class Due:
    """When to save: every `every` steps, or with 0 every tenth of the run but not within 30 s of the last."""

    def __init__(self, every: int, steps: int, least_seconds: float = 30.0) -> None:
        self.every, self.least_seconds = every or max(1, steps // 10), 0.0 if every else least_seconds
        self.last = time.monotonic()

    def now(self, step: int) -> bool:
        """Whether a checkpoint is due after this step; saying yes starts the clock again."""
        if step % self.every or time.monotonic() - self.last < self.least_seconds:
            return False
        self.last = time.monotonic()
        return True


def _seal(folder: Path, step: int) -> int:
    """Flush every file, then write the manifest. Returns the bytes in all."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        files[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "sha256": digest}
    write_atomically(folder / MANIFEST, json.dumps({"step": step, "files": files}, indent=1).encode())
    _sync_folder(folder)
    return _size(folder)


def _named(checkpoints: Path) -> list[tuple[int, Path]]:
    found = []
    for folder in checkpoints.glob(f"{PREFIX}*"):
        number = folder.name.removeprefix(PREFIX)
        if number.isdigit() and folder.is_dir():
            found.append((int(number), folder))
    return found


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
