"""`queue`: who uses each device and who waits; `monitor`: the same with the machine's memory, as they change."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from engine.config.errors import UserError
from engine.config.quantities import size
from engine.config.text import visible
from engine.runs.queue.device_queue import QueuePlace, others_on_gpus, queue_places, titled_places
from tui.cli import options
from tui.history.queue_table import COLUMNS, EMPTY_QUEUE, cells, queue_lines
from tui.output import streams
from tui.output.console import console, print_json, say, table

if TYPE_CHECKING:
    from tui.live.machine import MachineSample

SECONDS = 1.0
LOAD_SECONDS = 0.5
"""Interval over which the CPU load and that of each process are measured for the first sample."""
MAX_WIDTH = 100
QUEUE_LINES = 6


def queue(json: options.Json = False) -> None:
    """Print the queue of every device, then the processes on GPUs that are not in it."""
    entries = titled_places()
    others: list[dict[str, Any]] = list(others_on_gpus(entries))
    if json:
        print_json({"queue": [_as_json(entry) for entry in entries], "others": others})
        return
    if entries:
        table("", COLUMNS, [cells(entry, time.time()) for entry in entries], right=(4, 5))
    else:
        say(EMPTY_QUEUE)
    for other in others:
        used = f", {size(other['bytes'])}" if other["bytes"] else ""
        say(f"GPU {other['gpu']} is also used by process {other['pid']} ({other['name']}){used}", "yellow")


def _as_json(entry: QueuePlace) -> dict[str, Any]:
    return {
        "device": entry.device,
        "title": entry.title,
        "place": entry.place,
        "run": entry.name,
        "what": entry.what,
        "pid": entry.pid,
        "since": entry.since,
        "started_in": entry.started_in,
        "home": str(entry.home) if entry.name else "",
    }


def monitor(ascii_only: options.Ascii = False, json: options.Json = False) -> None:
    """Show the machine every second until Ctrl+C, in a pipe or with --json once."""
    from tui.live.machine import MachineSampler, SampleRequest  # Textual, which they import, is slow to import

    workers = dict[int, str]()
    with contextlib.suppress(UserError, OSError):  # the queue cannot be read, which `ftbench queue` reports
        workers = {place.pid: str(place) for place in queue_places()}
    sampler, request = MachineSampler(), SampleRequest(workers=workers, command_lines=False)
    sampler.look(request)
    time.sleep(LOAD_SECONDS)
    sample = sampler.look(request)
    if json:
        print_json(asdict(sample))
    elif console.is_dumb_terminal or not streams.is_terminal():
        for text in lines(sample):
            say(text)
    else:
        from rich.live import Live  # noqa: TID251 - on the console that escapes
        from rich.text import Text

        with contextlib.suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
            while True:
                shown = [*lines(sample), "", *queue_now(), "", "Ctrl+C to leave"]
                live.update(Text("\n".join(shown), no_wrap=True, overflow="ellipsis"), refresh=True)
                time.sleep(SECONDS)
                sample = sampler.look(request)


def lines(sample: MachineSample) -> Iterator[str]:
    """Each GPU with its use, its processes and its load; system memory without a GPU."""
    from tui.widgets.memory_pane import all_lines

    for line in all_lines(sample, min(MAX_WIDTH, console.width - 1)):
        if text := line.plain.rstrip():
            yield text


def queue_now() -> list[str]:
    """Which run uses each device and who waits, or why that is unknown."""
    try:
        text = queue_lines(titled_places(), time.time(), QUEUE_LINES).plain
    except (UserError, OSError) as error:
        text = visible(f"cannot read the device queue: {error}", 400)
    return text.split("\n")
