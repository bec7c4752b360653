"""Past and live runs in a table: attach, mark and compare, stop, resume, run again, delete."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.widgets import DataTable, Footer, Input, Static

from engine.contract import rundir
from engine.contract.errors import UserError
from engine.contract.preset import Effective
from engine.contract.rundir import RunDir
from engine.contract.text import visible
from tui.commands import bindings
from tui.runlist import COLUMNS, Line, cells, describe
from tui.screens.acting import ActingScreen
from tui.screens.ask import AskScreen

if TYPE_CHECKING:
    from tui.app import Workbench

SECONDS = 1.0


class RunsScreen(ActingScreen[RunDir | None]):
    """Closes with the run to attach to, or with nothing."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("runs")
    CSS = """
    RunsScreen { layout: vertical; }
    #title { height: 1; text-style: bold; padding: 0 1; }
    DataTable { height: 1fr; }
    Input { height: 1; border: none; display: none; }
    """

    app: Workbench

    def __init__(self, runs: Path) -> None:
        super().__init__()
        self.runs = runs
        self.lines: dict[str, Line] = {}
        self.marked: set[str] = set()
        self.word, self.by, self.reverse = "", 0, True

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield DataTable(id="table", cursor_type="row", zebra_stripes=False)
        yield Input(placeholder="only runs that hold …", id="word", compact=True)
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        table = self.query_one(DataTable)
        table.add_column("", width=1)
        for name in COLUMNS:
            table.add_column(name)
        self._read()
        self.set_interval(SECONDS, self._refresh_live)

    def _read(self) -> None:
        """All runs anew."""
        self.lines = {run.name: describe(run) for run in rundir.iterate(self.runs)}
        self._fill()

    def _refresh_live(self) -> None:
        """Only what can change is read again: runs without an outcome, and new ones."""
        known = {run.name: run for run in rundir.iterate(self.runs)}
        unsettled = ("finished", "stopped", "failed", "out_of_memory", "diverged", "damaged")
        stale = [name for name in known if name not in self.lines or self.lines[name].state not in unsettled]
        fresh = {name: describe(known[name]) for name in stale}
        gone = set(self.lines) - set(known)
        if gone or any(self.lines.get(name) != line for name, line in fresh.items()):
            self.lines = {name: line for name, line in {**self.lines, **fresh}.items() if name not in gone}
            self._fill()

    def _fill(self) -> None:
        table = self.query_one(DataTable)
        here = self._here()
        rows = [(name, cells(line)) for name, line in self.lines.items()]
        rows = [(name, row) for name, row in rows if self.word.lower() in " ".join(row).lower()]
        rows.sort(key=lambda pair: (pair[1][self.by], pair[0]), reverse=self.reverse)
        table.clear()
        for name, row in rows:
            mark = "*" if name in self.marked else ""
            table.add_row(Content(mark), *(Content(visible(cell)) for cell in row), key=name)
        names = [name for name, _ in rows]
        if here in names:
            table.move_cursor(row=names.index(here), animate=False)
        word = f" that hold {self.word!r}" if self.word else ""
        order = f"by {COLUMNS[self.by]}"
        self.query_one("#title", Static).update(Content(visible(f"{len(rows)} runs{word} in {self.runs}, {order}")))

    def _here(self) -> str:
        table = self.query_one(DataTable)
        if not table.row_count:
            return ""
        return str(table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value)

    def _run(self) -> RunDir | None:
        name = self._here()
        if not name:
            self.tell("no run here", severity="warning")
            return None
        return RunDir(self.runs / name)

    def action_back(self) -> None:
        self.dismiss(None)

    @on(DataTable.RowSelected)
    def action_attach(self) -> None:
        if run := self._run():
            self.dismiss(run)

    def action_mark(self) -> None:
        name = self._here()
        self.marked ^= {name} if name else set()
        self._fill()

    def action_compare(self) -> None:
        from tui.comparing import compare
        from tui.screens.text import TextScreen

        runs = [RunDir(self.runs / name) for name in sorted(self.marked) if name in self.lines]
        if len(runs) < 2:
            self.tell("mark two or more with space", severity="warning")
            return
        self.app.push_screen(
            TextScreen(f"{len(runs)} runs compared", compare(runs, self.size.width, self.app.settings.ascii))
        )

    def action_stop(self) -> None:
        self.stop_run(self._run())

    def action_resume(self) -> None:
        self.resume_run(self._run())

    def show_run(self, run: RunDir) -> None:
        self.dismiss(run)

    def action_again(self) -> None:
        """The same frozen configuration in a new directory."""
        run = self._run()
        if run is None:
            return
        try:
            frozen = rundir.read_frozen(run)
            new = rundir.create(self.runs, frozen.preset, Effective(frozen.config, frozen.origins, frozen.notes))
        except UserError as error:
            self.tell(error.line, severity="error")
            return
        self.launch_run(new)

    def action_delete(self) -> None:
        run = self._run()
        if run is None or run.is_live():
            self.tell("a live run is not deleted: stop it first", severity="warning")
            return

        def answered(yes: bool | None) -> None:
            if yes and not run.is_live():
                shutil.rmtree(run.path, ignore_errors=True)
                self._read()

        self.app.push_screen(AskScreen(f"Delete {run.name} with its model and checkpoints, for good?"), answered)

    def action_sort(self) -> None:
        self.by = (self.by + 1) % len(COLUMNS)
        self.reverse = self.by == 0
        self._fill()

    def action_filter(self) -> None:
        word = self.query_one("#word", Input)
        word.display = True
        word.focus()

    @on(Input.Changed, "#word")
    def _typed(self, event: Input.Changed) -> None:
        self.word = event.value
        self._fill()

    @on(Input.Submitted, "#word")
    def _entered(self) -> None:
        self.query_one("#word").display = False
        self.query_one(DataTable).focus()
