"""The processes on each GPU, the workers of ftbench, and the queues of all devices."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
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
from tui.live.machine import GpuSample, ProcessRow, ProcessTable
from tui.screens.base import BaseScreen, Dialog
from tui.screens.live_runs import MachineContext
from tui.selection import MARK
from tui.widgets.table import Table
from tui.widgets.text_rows import KeyLine

SECONDS = 2.0
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
SORTS: Sequence[tuple[str, Callable[[ProcessRow], float]]] = (
    ("GPU memory", lambda row: row.gpu_bytes or 0),
    ("GPU utilization", lambda row: row.gpu_load or 0),
    ("CPU", lambda row: row.cpu or 0.0),
    ("resident memory", lambda row: row.rss or 0),
)
"""Name of an order, and the key of it; the largest first."""


class ProcessesScreen(BaseScreen[None]):
    """Escape returns."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("processes")
    AUTO_FOCUS = "Lines"
    CSS = "ProcessesScreen Table { padding: 0 1; }"

    def __init__(self, runs: Mapping[int, str]) -> None:
        """`runs`: the run of each worker of ftbench by process id."""
        super().__init__()
        self.runs = runs
        self.rows: list[ProcessRow] = []
        self.order = 0
        self._table: ProcessTable | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield Table(COLUMNS, id="table")
        yield KeyLine()

    def on_mount(self) -> None:
        self._show()
        self._look()
        self.set_interval(SECONDS, self._look)

    def _look(self) -> None:
        if self.is_current:

            def read() -> None:  # in a thread: NVML and /proc may take a while
                self._table = self._table or ProcessTable(self.runs)
                self.rows = self._table.look()
                self.app.call_from_thread(self._show)

            self.run_worker(read, thread=True, exclusive=True, group="processes")

    def _show(self) -> None:
        name, key = SORTS[self.order]
        rows = sorted(self.rows, key=key, reverse=True)
        self.query_one(Table).show_rows([table_row(row) for row in rows])
        count = f"{len(rows)} process{'' if len(rows) == 1 else 'es'}"
        title = f"{count} on GPUs and of ftbench, sorted by {name}"
        self.set_text("title", title)

    def action_sort(self) -> None:
        self.order = (self.order + 1) % len(SORTS)
        self._show()


def table_row(row: ProcessRow) -> TableRow:
    """One line, a dash for what is not known."""
    share = f" {share_percent(row.gpu_bytes / row.gpu_total)}" if row.gpu_bytes and row.gpu_total else ""
    cells = (
        row.gpu or "–",
        str(row.pid),
        row.user or "–",
        f"{size(row.gpu_bytes)}{share}" if row.gpu_bytes else "–",
        "–" if row.gpu_load is None else f"{row.gpu_load}%",
        "–" if row.cpu is None else f"{row.cpu:.0f}%",
        size(row.rss),
        duration(row.seconds),
        row.command,
    )
    return TableRow(f"{row.gpu} {row.pid}", tuple((text, "") for text in cells))


DEVICE_COLUMNS = (Column("device", 8), Column("memory", 13), Column("load"), Column("run"), Column("others"))
DEVICE_TEXTS = {
    "auto": "the first GPU, else the CPU",
    "all": "all GPUs",
    "cpu": "CPU",
    "cpu:2": "half of the CPU",
}
MAX_LINES = 100
REFRESH_SECONDS = 1.0


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
