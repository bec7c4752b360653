"""The app of `ftbench monitor`: one screen with the machine."""

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
from engine.runs.queue.device_queue import QueueEntry, queue_entries
from tui.base_app import BaseApp
from tui.commands import EVERYWHERE
from tui.history.queue_table import queue_lines
from tui.live.machine import MachineSampled, SamplerThread, WatchedProcess
from tui.screens.base import BaseScreen
from tui.widgets.memory_pane import MemoryPane

MAX_LINES = 6
"""Lines of the queue."""
KEYS = ("app.quit", "app.theme", "app.redraw")


class MonitorScreen(BaseScreen[None]):
    """Samples the machine once a second; the run that uses the device is `this run` of the pane."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("q,escape,ctrl+c", "app.detach", "leave", priority=True)]

    if TYPE_CHECKING:
        sampler: SamplerThread

    def compose(self) -> ComposeResult:
        yield Static(id="host")
        pane = MemoryPane(id="machine")
        yield pane
        yield Static(id="queue")

    def on_mount(self) -> None:
        self.entries: list[QueueEntry] = []
        self.query_one(MemoryPane).focus()
        self.query_one("#host", Static).update(host_line())
        self.sampler = SamplerThread(self.post_message, self._active_run)
        self.sampler.start()

    def on_unmount(self) -> None:
        self.sampler.leave()

    @on(MachineSampled)
    def show_sample(self, message: MachineSampled) -> None:
        """Show the sample and the queue as of now."""
        self.query_one(MemoryPane).feed(message.sample)
        self.query_one("#queue", Static).update(queue_lines(self.entries, time.time(), MAX_LINES))

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


class Monitor(BaseApp):
    """Shows the machine until it is left."""

    BINDINGS: ClassVar[list[BindingType]] = [command.binding() for command in EVERYWHERE if command.id in KEYS]

    # Here, because Textual does not read the CSS of a default screen.
    CSS = (
        BaseApp.CSS
        + """
    MonitorScreen { layout: vertical; }
    MonitorScreen #host { height: 1; text-wrap: nowrap; }
    MonitorScreen #machine { height: 1fr; border: round $surface-lighten-2; padding: 0 1; }
    MonitorScreen #machine:focus { border: round $primary; }
    MonitorScreen #queue { height: auto; max-height: 7; padding: 0 2; text-wrap: nowrap; text-overflow: ellipsis; }
    """
    )

    def get_default_screen(self) -> MonitorScreen:
        return MonitorScreen()

    def on_mount(self) -> None:
        self.prepare_screen()

    def on_unmount(self) -> None:
        self.restore_handlers()
