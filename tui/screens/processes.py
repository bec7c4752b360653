"""The processes on each GPU, the workers of ftbench, and the queues of all devices."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from engine.config.errors import UserError
from engine.config.quantities import duration, share_percent, size
from engine.config.text import visible
from engine.runs.queue.device_queue import queue_entries
from tui.charts.columns import Column, TableRow
from tui.commands import bindings
from tui.history.queue_table import queue_lines
from tui.live.machine import ProcessRow, ProcessTable
from tui.screens.base import BaseScreen
from tui.widgets.rows import KeyLine
from tui.widgets.table import Table

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
    CSS = """
    ProcessesScreen { layout: vertical; }
    ProcessesScreen #title { height: 1; text-style: bold; padding: 0 1; }
    ProcessesScreen Table { padding: 0 1; }
    """

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
            self.run_worker(self._read, thread=True, exclusive=True, group="processes")

    def _read(self) -> None:
        """In a thread: NVML and /proc may take a while."""
        self._table = self._table or ProcessTable(self.runs)
        self.app.call_from_thread(self._take, self._table.look())

    def _take(self, rows: list[ProcessRow]) -> None:
        self.rows = rows
        self._show()

    def _show(self) -> None:
        name, key = SORTS[self.order]
        rows = sorted(self.rows, key=key, reverse=True)
        self.query_one(Table).show_rows([table_row(row) for row in rows])
        count = f"{len(rows)} process{'' if len(rows) == 1 else 'es'}"
        title = f"{count} on GPUs and of ftbench, sorted by {name}"
        self.query_one("#title", Static).update(Content(visible(title)))

    def action_sort(self) -> None:
        self.order = (self.order + 1) % len(SORTS)
        self._show()

    def action_back(self) -> None:
        self.dismiss()


def table_row(row: ProcessRow) -> TableRow:
    """One line, a dash for what is not known."""
    share = f" {share_percent(row.gpu_bytes / row.gpu_total)}" if row.gpu_bytes and row.gpu_total else ""
    cells = (
        "–" if row.gpu is None else str(row.gpu),
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


MAX_LINES = 100
REFRESH_SECONDS = 1.0


class QueueScreen(BaseScreen[None]):
    """Updated once per second; escape or q closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,Q", "back", "back")]
    CSS = """
    QueueScreen { align: center middle; }
    QueueScreen VerticalScroll { width: 95%; max-width: 140; height: 60%; border: round $primary; padding: 0 1; }
    QueueScreen Static { text-wrap: nowrap; text-overflow: ellipsis; }
    """

    def compose(self) -> ComposeResult:
        with VerticalScroll() as box:
            box.border_title = "device queue"
            box.border_subtitle = "escape back"
            yield Static()

    def on_mount(self) -> None:
        self.refresh_queue()
        self.set_interval(REFRESH_SECONDS, self.refresh_queue)

    def refresh_queue(self) -> None:
        """Read the queue again; an unreadable lock folder is shown instead."""
        try:
            shown = queue_lines(queue_entries(), time.time(), MAX_LINES)
        except (UserError, OSError) as error:
            shown = Content.styled(visible(f"cannot read the device queue: {error}", 400), "$text-error")
        self.query_one(Static).update(shown)

    def action_back(self) -> None:
        self.dismiss()
