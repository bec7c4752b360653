"""The machine pane alone, with the device queue below it."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Static

from engine.config.text import visible
from engine.runs.queue_list import QueueEntry, queue_entries
from tui.history.queue_table import cells
from tui.live.machine import Sampled, Sampler, WatchedProcess
from tui.screens.base import BaseScreen
from tui.widgets.machine_pane import MachinePane

MAX_LINES = 6
"""Lines of the queue."""


class MonitorScreen(BaseScreen[None]):
    """Samples the machine once a second; the run that uses the device is `this run` of the pane."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("q,escape,ctrl+c", "app.detach", "leave", priority=True)]

    if TYPE_CHECKING:
        sampler: Sampler

    def compose(self) -> ComposeResult:
        yield Static(id="host")
        pane = MachinePane(id="machine")
        pane.border_title = "machine"
        yield pane
        yield Static(id="queue")

    def on_mount(self) -> None:
        self.entries: list[QueueEntry] = []
        self.query_one(MachinePane).focus()
        self.query_one("#host", Static).update(host_line())
        self.sampler = Sampler(self.post_message, self._active_run)
        self.sampler.start()

    def on_unmount(self) -> None:
        self.sampler.leave()

    @on(Sampled)
    def show_sample(self, message: Sampled) -> None:
        """Show the sample and the queue as of now."""
        self.query_one(MachinePane).feed(message.sample)
        self.query_one("#queue", Static).update(queue_lines(self.entries, time.time()))

    def _active_run(self) -> WatchedProcess:
        """The process that uses a device; called in the sampler's thread."""
        try:
            self.entries = queue_entries()
        except Exception as error:  # noqa: BLE001 - the queue is an addition: without it the machine is still shown
            self.log(error)
            self.entries = []
        pid = next((entry.pid for entry in self.entries if entry.place == 0 and entry.pid), None)
        return WatchedProcess(pid, pid)


def host_line() -> Content:
    """`ftbench monitor  box   q leave`."""
    host = visible(socket.gethostname(), 40)
    return Content.assemble((" ftbench monitor ", "bold reverse"), f" {host}   ", ("q", "$primary"), " leave")


def queue_lines(entries: list[QueueEntry], now: float) -> Content:
    """One line per run in the queue; how many more there are."""
    if not entries:
        return Content.styled("no run uses or waits for a device", "$foreground-muted")
    shown = entries if len(entries) <= MAX_LINES else entries[: MAX_LINES - 1]
    rows = [list(map(visible, cells(entry, now))) for entry in shown]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for entry, row in zip(shown, rows, strict=True):
        text = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        lines.append(Content.styled(text, "$text-success" if entry.place == 0 else "$text-warning"))
    if len(entries) > len(shown):
        lines.append(Content.styled(f"{len(entries) - len(shown)} more waiting", "$text-warning"))
    return Content("\n").join(lines)
