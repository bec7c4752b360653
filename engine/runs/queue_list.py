"""Who uses each device and who waits for it: since when, and started from which directory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engine.hardware.devices import CPU, queue_of, slot_of
from engine.hardware.nvml import Nvml, process_name, process_user
from engine.runs import folder
from engine.runs.device_queue import COMMANDS, QueuePlace, queue_places


@dataclass(frozen=True)
class QueueEntry:
    """One process in the queue of a device."""

    device: str
    """UUID or index of a GPU or MIG instance, `cpu`, or `cpu-1of2` for a slot."""
    title: str
    """`CPU`, `CPU slot 1 of 2`, `GPU 0`, `MIG instance 5c1b2a3d`."""
    place: int
    """0 uses the device, 1 is next."""
    run: str
    """Name of the run; '' if it is not known."""
    what: str
    """`run`, `try` for a chat session with the run, or `export`."""
    pid: int
    since: float
    """Unix seconds: when it got the device, or when it joined the queue."""
    started_in: str
    """The directory it was started from, '' where it was not recorded."""
    home: str
    """The runs home of the run."""


def queue_entries() -> list[QueueEntry]:
    """The queues of all devices of this machine, per device with its user first.

    Raises UserError if the lock folder cannot be used.
    """
    places = queue_places()
    nvml = Nvml() if any(queue_of(turn.device) != CPU for turn in places) else None
    return [_entry(turn, device_title(turn.device, nvml)) for turn in places]


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


def _entry(turn: QueuePlace, title: str) -> QueueEntry:
    is_command = turn.run.name in COMMANDS
    path = turn.run.parent if is_command else turn.run
    started_in = folder.started_in(path / "run.toml") if path.name else ""
    home = str(folder.runs_of(turn.run)) if path.name else ""
    return QueueEntry(
        turn.device,
        title,
        turn.place,
        path.name,
        turn.run.name if is_command else "run",
        turn.pid,
        turn.since,
        started_in,
        home,
    )


def others_on_gpus(entries: list[QueueEntry]) -> Iterator[dict[str, object]]:
    """Processes on the GPUs that are not in the queue, as NVML reports them: GPU, pid, user, name, bytes."""
    ours = {entry.pid for entry in entries}
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
