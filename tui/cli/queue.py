"""`queue`: who uses each device and who waits, since when, from which directory; other processes on the GPUs."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from engine.config.quantities import size
from engine.runs.queue.device_queue import others_on_gpus, queue_entries
from tui.history.queue_table import COLUMNS, EMPTY_QUEUE, cells
from tui.output.console import print_json, say, table


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
        say(EMPTY_QUEUE)
    for other in others:
        say(_described(other), "yellow")


def _described(other: dict[str, Any]) -> str:
    """`GPU 0 is also used by process 17 (python3 of alice), 12.3 GiB`."""
    used = f", {size(other['bytes'])}" if other["bytes"] else ""
    return f"GPU {other['gpu']} is also used by process {other['pid']} ({other['name']}){used}"
