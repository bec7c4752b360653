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
from engine.runs.queue.device_queue import others_on_gpus, queue_entries
from tui.output import streams
from tui.output.console import console, print_json, say, table

if TYPE_CHECKING:
    from tui.live.machine import MachineSample

SECONDS = 1.0
LOAD_SECONDS = 0.5
"""Interval over which the CPU load of the first sample is measured."""
MAX_WIDTH = 100
QUEUE_LINES = 6


def monitor(json: bool) -> int:
    """Show the machine every second until Ctrl+C, in a pipe or with --json once; returns the exit status."""
    from tui.live.machine import MachineSampler, WatchedProcess  # Textual, which they import, is slow to import

    sampler = MachineSampler()
    time.sleep(LOAD_SECONDS)
    sample = sampler.look(WatchedProcess())
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
                shown = [*lines(sample), *queue(), "", "Ctrl+C to leave"]
                live.update(Text("\n".join(shown), no_wrap=True, overflow="ellipsis"), refresh=True)
                time.sleep(SECONDS)
                sample = sampler.look(WatchedProcess())
    return 0


def lines(sample: MachineSample) -> Iterator[str]:
    """Each GPU with its use, its processes and its load; system memory without a GPU."""
    from tui.widgets.memory_pane import all_lines

    for line in all_lines(sample, min(MAX_WIDTH, console.width - 1)):
        if text := line.plain.rstrip():
            yield text


def queue() -> Iterator[str]:
    """Which run uses each device and who waits, or why that is unknown."""
    from tui.history.queue_table import queue_lines

    try:
        text = queue_lines(queue_entries(), time.time(), QUEUE_LINES).plain
    except (UserError, OSError) as error:
        text = visible(f"cannot read the device queue: {error}", 400)
    yield from ["", *text.split("\n")]


def show_queue(json: bool) -> None:
    """Print the queue of every device, then the processes on GPUs that are not in it."""
    from tui.history.queue_table import COLUMNS, EMPTY_QUEUE, cells

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
