"""`monitor`: the machine pane alone, on a terminal; in a pipe or with --json one sample."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict

from tui.cli.bench import check_terminal
from tui.output import streams
from tui.output.console import print_json, say

LOAD_SECONDS = 0.5
"""Interval over which the CPU load of a single sample is measured."""


def monitor(ascii_only: bool, mouse: bool, json: bool) -> int:
    """Show the machine until it is left; returns the exit status. Raises UserError for an unsupported terminal."""
    if json or not streams.is_terminal():
        print_sample(json)
        return 0
    check_terminal()
    from tui.monitor import Monitor  # Textual is slow to import

    app = Monitor(ascii_only=ascii_only)
    app.run(mouse=mouse and app.settings.mouse)
    return app.return_code or 0


def print_sample(json: bool) -> None:
    """One sample of GPUs and memory, as text or as JSON."""
    from tui.live.machine import MachineSampler, WatchedProcess  # Textual, which the pane imports, is slow to import
    from tui.widgets.memory_pane import all_lines

    sampler = MachineSampler()
    time.sleep(LOAD_SECONDS)
    sample = sampler.look(WatchedProcess())
    if json:
        print_json(asdict(sample))
        return
    width = min(100, shutil.get_terminal_size().columns)
    for line in all_lines(sample, width):
        if line.plain.strip():
            say(line.plain)
