"""`queue`: who uses each device and who waits, since when, from which directory; other processes on the GPUs."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from engine.config.quantities import duration, size
from engine.runs.folder import short_name
from engine.runs.home import tilde
from engine.runs.queue_list import QueueEntry, others_on_gpus, queue_entries
from tui.format import moment
from tui.output.console import print_json, say, table

COLUMNS = ("device", "place", "run", "since", "for", "process", "started in")


def show(json: bool) -> None:
    """Print the queue of every device, then the processes on GPUs that are not in it."""
    entries = queue_entries()
    others = list(others_on_gpus(entries))
    if json:
        print_json({"queue": [asdict(entry) for entry in entries], "others": others})
        return
    if entries:
        table("", COLUMNS, [cells(entry, time.time()) for entry in entries], right=(4, 5))
    else:
        say("no run uses or waits for a device")
    for other in others:
        say(_described(other), "yellow")


def cells(entry: QueueEntry, now: float) -> list[str]:
    """The cells of COLUMNS: `GPU 0`, `running` or the place in the queue, run, date, duration, process, directory."""
    run = short_name(entry.run) or "another program"
    return [
        entry.title,
        "running" if entry.place == 0 else f"{entry.place} waiting",
        f"ftbench try {run}" if entry.what == "try" else run,
        moment(entry.since, "%H:%M" if now - entry.since < 86400 / 2 else "%m-%d %H:%M"),
        duration(max(0.0, now - entry.since)),
        str(entry.pid or "–"),
        tilde(entry.started_in) if entry.started_in else "–",
    ]


def _described(other: dict[str, Any]) -> str:
    """`GPU 0 is also used by process 17 (python3 of alice), 12.3 GiB`."""
    used = f", {size(other['bytes'])}" if other["bytes"] else ""
    return f"GPU {other['gpu']} is also used by process {other['pid']} ({other['name']}){used}"
