"""FIFO queue for a device: one run uses it, later runs wait.

A waiting run holds a ticket: a locked file next to the device's lock, whose name sorts by time of arrival. The kernel
releases the lock of a process that ends, and tickets without a lock are ignored.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from engine.runs import locks
from engine.runs.home import tilde
from engine.runs.origin import started_in

if TYPE_CHECKING:
    from engine.hardware.devices import SelectedDevice

STALE_SECONDS = 60.0
"""Age at which an unlocked ticket is deleted: a younger one may belong to a run that is about to lock it."""

TRY = "try"
"""Name, within a run's directory, under which a chat session with the run is in the queue."""


class QueuePlace(NamedTuple):
    """Place of one run in the queue of one device."""

    device: str
    place: int
    """0 uses the device, 1 is next."""
    pid: int
    run: Path
    since: float = 0.0
    """Unix seconds: when it got the device, or when it joined the queue."""


def wait_for_device(
    device: SelectedDevice,
    arrived: float,
    run: Path,
    report: Callable[[str], None],
    cancelled: Callable[[], bool],
    seconds: float = 0.5,
) -> bool:
    """Acquire the device until this process ends; False if `cancelled` returned true first.

    `arrived` (Unix seconds) decides the order; equal times are ordered by process id. `report` is called with every
    change of place.
    """
    lock, content, last_note = locks.device_lock(device.lock), f"{os.getpid()} {run}", ""
    with _ticket(lock, arrived, content) as own:
        while True:
            before = [turn for ticket, turn in _waiting(lock) if ticket.name < own.name]
            if not before and locks.hold(lock, content) is not None:
                return True
            holder = _read(locks.holder(lock))
            note = _note(device.title, before, holder, _signed(lock))
            if note != last_note:
                report(note)
                last_note = note
            if cancelled():
                return False
            time.sleep(seconds)


def queue_places() -> list[QueuePlace]:
    """Places of all runs on all devices of this machine, per device with its user first."""
    places = []
    for lock, device in locks.device_locks():
        if (holder := locks.holder(lock)) is not None:
            pid, run = _read(holder)
            places.append(QueuePlace(device, 0, pid, run, _signed(lock)))
        for place, (ticket, (waiting, path)) in enumerate(_waiting(lock), 1):
            places.append(QueuePlace(device, place, waiting, path, _arrived(ticket)))
    return places


@contextlib.contextmanager
def _ticket(lock: Path, arrived: float, content: str) -> Iterator[Path]:
    folder = _folder(lock)
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{round(arrived * 1e6):020}-{os.getpid()}"
    descriptor = locks.hold(path, content)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        if descriptor is not None:
            os.close(descriptor)


def _waiting(lock: Path) -> list[tuple[Path, tuple[int, Path]]]:
    """Locked tickets in order of arrival."""
    tickets = []
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(_folder(lock).iterdir()):
            holder = locks.holder(path)
            if holder is not None:
                tickets.append((path, _read(holder)))
            else:
                _remove_if_stale(path)
    return tickets


def _remove_if_stale(path: Path) -> None:
    """Delete the ticket of a process that ended."""
    with contextlib.suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > STALE_SECONDS:
            path.unlink()


def _signed(lock: Path) -> float:
    """When the lock's holder wrote its name into it; 0 if it has ended since."""
    with contextlib.suppress(OSError):
        return lock.stat().st_mtime
    return 0.0


def _arrived(ticket: Path) -> float:
    """The time in a ticket's name."""
    digits = ticket.name.partition("-")[0]
    return int(digits) / 1e6 if digits.isdecimal() else 0.0


def _folder(lock: Path) -> Path:
    return lock.with_suffix(".queue")


def _read(content: str | None) -> tuple[int, Path]:
    pid, _, run = (content or "").partition(" ")
    return locks.pid_of(pid) or 0, Path(run)


def _note(where: str, before: list[tuple[int, Path]], holder: tuple[int, Path], since: float) -> str:
    """`next on GPU 0; in use by 2026…-3f2a (process 17) since 14:05, started in ~/mails`."""
    pid, run = holder
    use = f"in use by {_named(run)} (process {pid}){_since(since)}{_origin(run)}" if pid else "being released"
    if not before:
        return f"next on {where}; {use}"
    return f"place {len(before) + 1} on {where}, behind {_named(before[-1][1])}; {use}"


def _since(seconds: float) -> str:
    """` since 14:05`; with the date for another day."""
    if not seconds:
        return ""
    then = time.localtime(seconds)
    today = time.strftime("%Y%m%d", then) == time.strftime("%Y%m%d")
    return f" since {time.strftime('%H:%M' if today else '%Y-%m-%d %H:%M', then)}"


def _origin(run: Path) -> str:
    """`, started in ~/mails`, '' where it was not recorded."""
    directory = started_in((run.parent if run.name == TRY else run) / "run.toml")
    return f", started in {tilde(directory)}" if directory else ""


def _named(run: Path) -> str:
    """The run's name; `ftbench try 2026…-3f2a` for a chat session with it."""
    return f"ftbench {TRY} {run.parent.name}" if run.name == TRY else run.name or "another run"
