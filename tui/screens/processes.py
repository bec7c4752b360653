"""The processes on each GPU, the workers of ftbench, and the queues of all devices."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import OptionList, Static

from engine.config.errors import UserError
from engine.config.quantities import duration, share_percent, size
from engine.config.text import visible
from engine.hardware.devices import queue_of
from engine.runs.queue.device_queue import QueuePlace, titled_places
from engine.runs.run.folder import short_name
from tui.commands import bindings
from tui.format import Column, TableRow
from tui.history.queue_table import queue_lines
from tui.live.machine import GpuSample, ProcessSample
from tui.screens.base import BaseScreen, Dialog
from tui.screens.live_runs import MachineContext
from tui.selection import MARK
from tui.widgets.table import Table
from tui.widgets.text_rows import KeyLine

COLUMNS = (
    Column("GPU", 3, right=True),
    Column("pid", 5, right=True),
    Column("user", 4),
    Column("GPU memory", 8, right=True),
    Column("util", 4, right=True),
    Column("CPU", 4, right=True),
    Column("resident", right=True),
    Column("time", right=True),
    Column("command", 12),
)
SORTS: Sequence[tuple[str, Callable[[ProcessSample], float]]] = (
    ("GPU memory", lambda process: process.bytes or 0),
    ("GPU utilization", lambda process: process.load or 0),
    ("CPU", lambda process: process.cpu or 0.0),
    ("resident memory", lambda process: process.rss or 0),
)
"""Name of an order, and the key of it; the largest first."""
REFRESH_SECONDS = 1.0


class ProcessesScreen(BaseScreen[None]):
    BINDINGS: ClassVar[list[BindingType]] = bindings("processes")
    AUTO_FOCUS = "Lines"
    CSS = "ProcessesScreen Table { padding: 0 1; }"

    def __init__(self, machine: MachineContext) -> None:
        super().__init__()
        self.machine = machine
        self.order = 0

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield Table(COLUMNS, id="table")
        yield KeyLine()

    def on_mount(self) -> None:
        self._show()
        self.set_interval(REFRESH_SECONDS, self._show)

    def _show(self) -> None:
        sample, (name, key) = self.machine.sample, SORTS[self.order]
        processes: list[tuple[ProcessSample, GpuSample | None]] = []
        if sample is not None:
            processes += [(process, gpu) for gpu in sample.gpus for process in gpu.processes]
            processes += [(worker, None) for worker in sample.workers]
        processes.sort(key=lambda row: key(row[0]), reverse=True)
        self.query_one(Table).show_rows([table_row(process, gpu) for process, gpu in processes])
        count = f"{len(processes)} process{'' if len(processes) == 1 else 'es'}"
        self.set_text("title", f"{count} on GPUs and of ftbench, sorted by {name}")

    def action_sort(self) -> None:
        self.order = (self.order + 1) % len(SORTS)
        self._show()


def table_row(process: ProcessSample, gpu: GpuSample | None) -> TableRow:
    """One line, a dash for what is not known; `gpu` is None for a worker on the CPU."""
    label = gpu.label if gpu else "–"
    share = f" {share_percent(process.bytes / gpu.total)}" if gpu and gpu.total and process.bytes else ""
    cells = (
        label,
        str(process.pid),
        process.user or "–",
        f"{size(process.bytes)}{share}" if process.bytes else "–",
        "–" if process.load is None else f"{process.load}%",
        "–" if process.cpu is None else f"{process.cpu:.0f}%",
        size(process.rss),
        duration(process.seconds),
        process.command or process.name,
    )
    return TableRow(f"{label} {process.pid}", tuple((text, "") for text in cells))


DEVICE_COLUMNS = (Column("device", 8), Column("memory", 13), Column("load"), Column("run"), Column("others"))
DEVICE_TEXTS = {
    "auto": "the GPU with the most free memory, else the CPU",
    "all": "all GPUs",
    "cpu": "CPU",
    "cpu:2": "half of the CPU",
}
MAX_LINES = 100


class DevicesScreen(Dialog[str]):
    """Closes with the device for the next run, as a value of `hardware.device`. Below the list is the queue."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("devices")
    CSS = """
    DevicesScreen > Vertical { width: 100%; max-width: 120; max-height: 90%; }
    DevicesScreen Table { height: auto; max-height: 14; }
    DevicesScreen Table Lines { height: auto; max-height: 12; }
    DevicesScreen Static { text-wrap: nowrap; text-overflow: ellipsis; }
    """

    def __init__(self, selected: str, machine: MachineContext) -> None:
        super().__init__()
        self.selected, self.machine = selected, machine
        self.entries: Sequence[QueuePlace] = ()

    def compose(self) -> ComposeResult:
        with Vertical() as box:
            box.border_title = "device of the next run"
            box.border_subtitle = "enter select   escape back"
            yield Table(DEVICE_COLUMNS)
            yield Static(id="queue")

    def on_mount(self) -> None:
        self.refresh_queue()
        self.query_one(Table).focus()
        self.set_interval(REFRESH_SECONDS, self.refresh_queue)

    def refresh_queue(self) -> None:
        """Read the queue again; an unreadable lock folder is shown instead."""
        try:
            self.entries = titled_places()
            shown = queue_lines(list(self.entries), time.time(), MAX_LINES)
        except (UserError, OSError) as error:
            self.entries = ()
            shown = Content.styled(visible(f"cannot read the device queue: {error}", 400), "$text-error")
        self.set_text("queue", Content.assemble(("queue\n", "bold"), shown))
        rows = [self._row(device, gpu) for device, gpu in self.machine.devices().items()]
        self.query_one(Table).show_rows(rows, cursor="" if self.query_one(Table).rows else self.selected)

    def _row(self, device: str, gpu: GpuSample | None) -> TableRow:
        """Device, memory in use, load, the run of ftbench that has it, other processes."""
        mark, style = (MARK, "bold") if device == self.selected else (" ", "")
        if gpu is None:
            what = DEVICE_TEXTS.get(device, device)
            cells = [(f"{mark}{device}", ""), ("", ""), ("", ""), ("", ""), (what, "$foreground-muted")]
            return TableRow(device, tuple(cells))
        ours = [entry for entry in self.entries if queue_of(entry.device) in gpu.queues and not entry.place]
        known = {entry.pid for entry in ours}
        others = [
            f"{process.user} {process.name} {size(process.bytes)}"
            for process in gpu.processes
            if process.pid not in known
        ]
        runs = ", ".join(short_name(entry.name) for entry in ours)
        free = "free" if gpu.total and not ours and not others else ""
        cells = [
            (f"{mark}{gpu.label if device == gpu.uuid else device}", style),
            (f"{size(gpu.used)} of {size(gpu.total)}" if gpu.total else "", ""),
            ("–" if gpu.load is None else f"{gpu.load}%", ""),
            (runs or free, "$text-success"),
            (", ".join(others) if gpu.total else visible(gpu.name), "$text-warning"),
        ]
        return TableRow(device, tuple(cells))

    @on(OptionList.OptionSelected)
    def action_select(self) -> None:
        self.dismiss(self.query_one(Table).key or None)
