"""FIFO queues for devices: one run uses a device, later runs wait.

A waiting run holds a ticket: a locked file next to the device's lock, whose name sorts by time of arrival. The kernel
releases the lock of a process that ends, and tickets without a lock are ignored. A run that may use several devices
has a ticket in the queue of each. It takes a device only when it is the first in its queue, and waits for nothing once
it has one: runs cannot deadlock, and none is overtaken. A run that trains on several devices takes all at once.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from engine.config.errors import UserError
from engine.config.hooks import shipped_hooks
from engine.hardware.devices import CPU, conflicts, queue_of, slot_of
from engine.hardware.nvml import Nvml, process_name, process_user
from engine.runs.home import tilde
from engine.runs.origin import read_origin
from engine.runs.queue import locks

if TYPE_CHECKING:
    from engine.hardware.devices import SelectedDevice


STALE_SECONDS = 60.0
"""Age at which an unlocked ticket is deleted: a younger one may belong to a run that is about to lock it."""

POLL_SECONDS = 0.2
OTHERS_WAIT = 5
"""Factor on the polling interval of a run that has as many runs before it as devices, or more: it is not the next."""

EXPORT = "export"
COMMANDS = (EXPORT, *shipped_hooks("ftbench.commands"))
"""Names, within the directory of a run or ladder, under which commands that work with it are in the queue: the end of
none is the end of the run."""


class QueuePlace(NamedTuple):
    """Place of one process in the queue of one device."""

    device: str
    """UUID or index of a GPU or MIG instance, `cpu`, or `cpu-1of2` for a slot."""
    place: int
    """0 uses the device, 1 is next."""
    pid: int
    run: Path
    """Directory of the run; for a command that works with it a path in it, whose name is one of COMMANDS."""
    since: float = 0.0
    """Unix seconds: when it got the device, or when it joined the queue."""
    title: str = ""
    """Title of the device, as in SelectedDevice; '' unless `titled_places` filled it in."""

    @property
    def what(self) -> str:
        """`run`, or the command that works with it: `export`."""
        return self.run.name if self.run.name in COMMANDS else "run"

    @property
    def directory(self) -> Path:
        """The directory of the run, or of the ladder that a command works with."""
        return self.run if self.what == "run" else self.run.parent

    @property
    def name(self) -> str:
        """Name of the run; '' if it is not known."""
        return self.directory.name

    @property
    def home(self) -> Path:
        """The runs home: the parent of the run, and for a timing probe the parent of its ladder."""
        return self.directory.parent.parent.parent if is_timing_probe(self.directory) else self.directory.parent

    @property
    def started_in(self) -> str:
        """The directory it was started from, '' where it was not recorded."""
        return read_origin(self.directory / "run.toml").started_in if self.name else ""

    def __str__(self) -> str:
        """The run's name; `ftbench export 2026…-3f2a` for a command."""
        return (self.name if self.what == "run" else f"ftbench {self.what} {self.name}") or "another run"


def wait_for_devices(
    devices: Sequence[SelectedDevice],
    arrived: float,
    run: Path,
    report: Callable[[str], None],
    cancelled: Callable[[], bool],
    seconds: float = POLL_SECONDS,
    is_usable: Callable[[SelectedDevice], bool] = lambda device: True,
    count: int = 1,
) -> list[SelectedDevice] | None:
    """Acquire `count` of the devices until this process ends; None if `cancelled` returned true first.

    `arrived` (Unix seconds) decides the order; equal times are ordered by process id. `report` is called with every
    change of place. A device for which `is_usable` is false when its turn comes is given up; raises UserError when too
    few are left.
    """
    content, last_note, left = f"{os.getpid()} {run}", "", list(devices)
    tickets: dict[str, Ticket] = {}
    with contextlib.ExitStack() as stack:
        for queue in dict.fromkeys(device.queue for device in devices):
            tickets[queue] = Ticket(locks.device_lock(queue), arrived, content)
            stack.callback(tickets[queue].remove)
        while True:
            users = _users(left)
            free = [device for device in left if users[device.lock] is None and not tickets[device.queue].earlier()]
            if len(free) >= count:
                for device in [device for device in free if not is_usable(device)]:
                    left.remove(device)
                    free.remove(device)
                    report(f"{device.title} is no longer available")
                if (taken := _take(free, count, content)) is not None:
                    return taken
            for queue in tickets.keys() - {device.queue for device in left}:
                tickets.pop(queue).remove()
            if len(left) < count:
                number = f"only {len(left)}" if left else "no"
                problem = f"{number} device{'s are' if len(left) > 1 else ' is'} left of {_titles(devices)}"
                hint = "check `nvidia-smi`, then resume the run"
                raise UserError(problem, "hardware.device", hint, code="device.lost")
            earlier, user = tickets[left[0].queue].earlier(), next(filter(None, map(users.get, users)), None)
            note = _note(_titles(left, count), earlier, user)
            if note != last_note:
                report(note)
                last_note = note
            if cancelled():
                return None
            time.sleep(seconds if len(earlier) < len(left) else seconds * OTHERS_WAIT)


def wait_for_device(devices: Sequence[SelectedDevice], run: Path, report: Callable[[str], None]) -> SelectedDevice:
    """Acquire one of the devices, for a process that ends with its client instead of being cancelled."""
    taken = wait_for_devices(devices, time.time(), run, report, lambda: False)
    assert taken is not None
    return taken[0]


def _take(free: Sequence[SelectedDevice], count: int, content: str) -> list[SelectedDevice] | None:
    """Lock `count` of these devices; None, with none of them locked, if fewer can be.

    A device cannot be locked while one that it conflicts with is in use.
    """
    taken: list[tuple[SelectedDevice, int]] = []
    for device in free:
        queue = locks.device_lock(device.queue)
        with locks.exclusive(_folder(queue)):  # else two slots of different divisions could both find no conflict
            lock = None if _users([device])[device.lock] else locks.acquire(locks.device_lock(device.lock), content)
        if lock is not None:
            taken.append((device, lock))
        if len(taken) == count:
            return [device for device, _ in taken]
    for _, lock in taken:
        os.close(lock)
    return None


def _users(devices: Sequence[SelectedDevice]) -> dict[str, QueuePlace | None]:
    """For the lock of each device a process with which it cannot be used together, or None."""
    known: dict[str, list[tuple[Path, str]]] = {}
    for lock, name in locks.device_locks():
        known.setdefault(queue_of(name), []).append((lock, name))
    users: dict[str, QueuePlace | None] = {}
    for device in devices:
        rivals = ((lock, name) for lock, name in known.get(device.queue, ()) if conflicts(device.lock, name))
        users[device.lock] = next((user for lock, name in rivals if (user := _user(lock, name))), None)
    return users


def _user(lock: Path, device: str) -> QueuePlace | None:
    """The holder of a device's lock."""
    if (holder := locks.holder(lock)) is None:
        return None
    since = 0.0
    with contextlib.suppress(OSError):  # it has ended since
        since = lock.stat().st_mtime
    return QueuePlace(device, 0, *_read(holder), since)


def _titles(devices: Sequence[SelectedDevice], count: int = 1) -> str:
    """`GPU 0`, `GPU 0 or GPU 1`, `a slot of the CPU`, `2 of GPU 0 or GPU 1`."""
    titles = (f"a slot of {device.whole}" if device.whole else device.title for device in devices)
    return f"{count} of " * (count > 1) + " or ".join(dict.fromkeys(titles))


def queue_places() -> list[QueuePlace]:
    """Places of all runs on all devices of this machine, per device with its user first."""
    places: list[QueuePlace] = []
    locked = dict(locks.device_locks())
    wholes = {queue_of(name) for name in locked.values()}
    queues = {**{locks.device_lock(name): name for name in wholes}, **locked}  # slots have locks, and share a queue
    for lock, device in queues.items():
        if (user := _user(lock, device)) is not None:
            places.append(user)
        tickets: list[Path] = []
        with contextlib.suppress(FileNotFoundError):
            tickets = sorted(_folder(lock).iterdir())  # in order of arrival
        place = 0
        for ticket in tickets:
            if (holder := locks.holder(ticket)) is None:
                _remove_if_stale(ticket)
                continue
            place += 1
            digits = ticket.name.partition("-")[0]
            arrived = int(digits) / 1e6 if digits.isdecimal() else 0.0
            places.append(QueuePlace(device, place, *_read(holder), arrived))
    return places


class Ticket:
    """The place of this process in the queue of one lock, held until `remove`."""

    def __init__(self, lock: Path, arrived: float, content: str) -> None:
        self._lock, folder = lock, _folder(lock)
        folder.mkdir(mode=0o700, exist_ok=True)
        self._path = folder / f"{round(arrived * 1e6):020}-{os.getpid()}"
        self._descriptor = locks.acquire(self._path, content)

    def earlier(self) -> list[Path]:
        """The tickets of those that arrived earlier, the first of which is held.

        Tickets of ended processes after it are counted until they are deleted: to ask for the lock of each would take
        all waiting processes together the square of their number.
        """
        earlier = sorted(path for path in self._path.parent.iterdir() if path.name < self._path.name)
        for number, path in enumerate(earlier):
            if locks.is_locked(path):
                return earlier[number:]
            _remove_if_stale(path)
        return []

    def remove(self) -> None:
        """Leave the queue; a second call does nothing."""
        self._path.unlink(missing_ok=True)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _remove_if_stale(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > STALE_SECONDS:
            path.unlink()


def _folder(lock: Path) -> Path:
    return lock.with_suffix(".queue")


def _read(content: str) -> tuple[int, Path]:
    pid, _, run = content.partition(" ")
    return locks.pid_of(pid) or 0, Path(run)


def _note(where: str, earlier: Sequence[Path], user: QueuePlace | None) -> str:
    """`next on GPU 0; in use by 2026…-3f2a (process 17) since 14:05, started in ~/mails`.

    `earlier`: tickets of the processes that arrived earlier.
    """
    use = "being released"
    if user and user.pid:
        use = f"in use by {user} (process {user.pid})"
        if user.since:
            then = time.localtime(user.since)
            today = time.strftime("%Y%m%d", then) == time.strftime("%Y%m%d")
            use += f" since {time.strftime('%H:%M' if today else '%Y-%m-%d %H:%M', then)}"
        if user.started_in:
            use += f", started in {tilde(user.started_in)}"
    if not earlier:
        return f"next on {where}; {use}"
    held = (holder for ticket in reversed(earlier) if (holder := locks.holder(ticket)) is not None)
    behind = QueuePlace("", 0, *_read(next(held, "")))
    return f"place {len(earlier) + 1} on {where}, behind {behind}; {use}"


def is_timing_probe(run: Path) -> bool:
    """Whether a run is in its ladder's directory (`LadderDir.probes`)."""
    return run.parent.name == "probes"


def titled_places() -> list[QueuePlace]:
    """`queue_places` with the titles of the devices. Raises UserError if the lock folder cannot be used."""
    places = queue_places()
    nvml = Nvml() if any(queue_of(turn.device) != CPU for turn in places) else None
    return [turn._replace(title=device_title(turn.device, nvml)) for turn in places]


def device_title(device: str, nvml: Nvml | None) -> str:
    """The title of a device in the queue, as `SelectedDevice` names it."""
    if device == CPU:
        return "CPU"
    if slot := slot_of(device):
        place, slots = slot
        return f"{device_title(queue_of(device), nvml)} slot {place} of {slots}"
    short = device.partition("-")[2][:8]
    if device.startswith("MIG-"):
        return f"MIG instance {short}"
    gpu = nvml.by_uuid(device) if nvml and short else None
    return f"GPU {gpu.index if gpu else short or device}"


def others_on_gpus(places: list[QueuePlace]) -> Iterator[dict[str, object]]:
    """Processes on the GPUs that are not in the queue, as NVML reports them: GPU, pid, user, name, bytes."""
    ours = {turn.pid for turn in places}
    for gpu in Nvml().gpus():
        for pid, used in gpu.processes():
            if pid not in ours:
                yield {
                    "gpu": gpu.index,
                    "pid": pid,
                    "user": process_user(pid),
                    "name": process_name(pid),
                    "bytes": used,
                }
