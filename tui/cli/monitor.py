"""`monitor`: memory of the machine and the device queue, every second on a terminal; in a pipe or with --json once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from engine.config.errors import UserError
from engine.config.text import visible
from engine.runs.queue.device_queue import queue_entries
from tui.output import streams
from tui.output.console import console, print_json, say

if TYPE_CHECKING:
    from tui.live.machine import MachineSample

SECONDS = 1.0
LOAD_SECONDS = 0.5
"""Interval over which the CPU load of the first sample is measured."""
MAX_WIDTH = 100
QUEUE_LINES = 6


def monitor(json: bool) -> int:
    """Show the machine until Ctrl+C; returns the exit status."""
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
