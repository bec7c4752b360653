"""The runs of the home: attach, sort, filter, mark, compare, pause, resume, repeat or delete."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from textual import on
from textual.binding import BindingType
from textual.widgets import OptionList

from engine.config.quantities import duration, size
from engine.config.text import amount
from engine.runs.home import tilde
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir
from engine.runs.start import repeat_run
from tui.commands import bindings
from tui.format import Column, TableRow, last_part, moment
from tui.history.comparison import ComparedRun, compare, read
from tui.history.run_list import SETTLED, RunSummary, describe, model, score
from tui.screens.base import RunActions
from tui.screens.dialogs import TextScreen
from tui.screens.table_screen import TableScreen
from tui.settings import app_keys, app_settings
from tui.widgets.table import Table

REFRESH_SECONDS = 1.0
STYLES = {
    "finished": "$text-success",
    "paused": "$text-warning",
    "stopped": "$text-warning",
    "failed": "$text-error",
    "out_of_memory": "$text-error",
    "diverged": "$text-error",
    "died": "$text-error",
    "damaged": "$text-error",
}


@dataclass(frozen=True)
class Field:
    """A column: the text of a run, and what to sort by if not by this text: a number, or several."""

    column: Column
    text: Callable[[RunSummary], str]
    number: Callable[[RunSummary], float | tuple[float, ...] | None] | None = None


FIELDS = (
    Field(
        Column("when", 11),
        lambda line: moment(line.created, "%m-%d %H:%M") if line.created else "–",
        lambda line: (line.number, line.created),
    ),
    Field(Column("run", 14), lambda line: undated(line.name)),
    Field(Column("state", 9), lambda line: line.state.replace("_", " ")),
    Field(Column("score", 12), score, lambda line: line.after),
    Field(Column("time", 6, right=True), lambda line: duration(line.seconds), lambda line: line.seconds),
    Field(Column("peak", right=True), lambda line: size(line.peak), lambda line: line.peak),
    Field(Column("method"), lambda line: line.method),
    Field(Column("model"), model),
    Field(Column("data"), lambda line: last_part(line.data)),
)
TABLE = (Column("", 1), *(field.column for field in FIELDS))


def row(line: RunSummary, marked: bool) -> TableRow:
    style = STYLES.get(line.state, "bold $primary")
    cells = [(field.text(line), style if field.column.name == "state" else "") for field in FIELDS]
    return TableRow(line.name, (("*" if marked else "", "bold $accent"), *cells))


def undated(name: str) -> str:
    """`20261125-192205-demo-lora-lora-3f2a` -> `demo-lora-lora-3f2a`; any other name unchanged."""
    parts = name.split("-", 2)
    return parts[2] if len(parts) == 3 and parts[0].isdigit() and parts[1].isdigit() else name


class ContinueFrom(NamedTuple):
    """The next run starts from this finished one."""

    run: RunDir


class RunsScreen(TableScreen[RunDir | ContinueFrom | None], RunActions[RunDir | ContinueFrom | None]):
    """Closes with the run to show on the bench, with one to start from, or with None."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("runs")
    CSS = "RunsScreen #detail { height: 3; border: none; color: $foreground-muted; }"
    columns = TABLE
    resume_command = "runs.resume"
    row_name = "runs"

    def __init__(self, runs: Path, marked: str = "") -> None:
        super().__init__()
        self.runs = runs
        self.lines: dict[str, RunSummary] = {}
        self.marked = {marked} if marked else set[str]()
        self.sort_column, self.reverse = 0, True

    def on_mount(self) -> None:
        self.read()
        self.set_interval(REFRESH_SECONDS, self._refresh_live)

    def _places(self) -> dict[Path, int]:
        """Position in the queue of every waiting run."""
        return {turn.run: turn.place for turn in self.queue() if turn.place}

    def read(self, cursor: str = "") -> None:
        """Read all runs again; the cursor stays on its run, or goes to `cursor`."""
        places = self._places()
        self.lines = {run.name: describe(run, places) for run in self.read_all(RunDir.iterate(self.runs))}
        self.fill(cursor)

    def _refresh_live(self) -> None:
        """Read again only runs that can change: new ones, resumed ones, and those without an outcome."""
        if self.app.screen is not self:
            return
        places = self._places()
        known = {run.name: run for run in self.read_all(RunDir.iterate(self.runs))}
        stale = [name for name in known if self._can_change(known[name])]
        fresh = {name: describe(known[name], places) for name in stale}
        gone = set(self.lines) - set(known)
        self.marked -= gone
        if gone or any(self.lines.get(name) != line for name, line in fresh.items()):
            self.lines = {name: line for name, line in {**self.lines, **fresh}.items() if name not in gone}
            self.fill()

    def _can_change(self, run: RunDir) -> bool:
        line = self.lines.get(run.name)
        if line is not None and line.state == "died":  # it changes only if it is resumed
            return run.is_active() or run.result_file.exists()
        return line is None or line.state not in SETTLED or not run.result_file.exists()

    def fill(self, cursor: str = "") -> None:
        sorted_by, word = FIELDS[self.sort_column], self.word.lower()

        def order(line: RunSummary) -> tuple[Any, str]:
            if sorted_by.number is None:
                return sorted_by.text(line), line.name
            number = sorted_by.number(line)
            return float("-inf") if number is None else number, line.name

        def text(line: RunSummary) -> str:
            return " ".join([line.name, line.model, line.data, *(field.text(line) for field in FIELDS)])

        lines = [line for line in self.lines.values() if word in text(line).lower()]
        rows = [row(line, line.name in self.marked) for line in sorted(lines, key=order, reverse=self.reverse)]
        arrow = "↓" if self.reverse else "↑"
        names = [field.column.name + (arrow if field is sorted_by else "") for field in FIELDS]
        self.table.show_rows(rows, ["", *names], cursor)
        matching = f" matching {self.word!r}" if self.word else ""
        marked = f", {len(self.marked)} marked" if self.marked else ""
        runs = f"{amount(len(rows), 'run')}{matching}{marked} in {tilde(self.runs)}"
        self.set_text("title", f"{runs}, sorted by {sorted_by.column.name}")
        self.describe()

    def describe(self) -> None:
        """Full name, method, model, data and reason of the end; or what to press if there is no run."""
        line, keys = self.lines.get(self.key), app_keys(self)
        if line is None:
            first = f"press {keys.of('runs.back')}, then {keys.of('bench.start')} on the bench to start one"
            text = "no run matches" if self.lines else f"no runs yet: {first}"
        else:
            reason = f"paused: press {keys.of('runs.resume')} to resume" if line.state == "paused" else line.reason
            origin = f"started in {tilde(line.started_in)}" if line.started_in else ""
            about = f"{line.name}: {line.method}, {line.model} on {line.data}"
            about += f", continues {line.from_run}" if line.from_run else ""
            text = "\n".join(part for part in (about, reason, origin) if part)
        self.show_detail(text)

    def is_useful(self, command: str) -> bool:
        line = self.lines.get(self.key)
        if line is None:
            return command in ("back", "filter")
        ended = line.state in (*SETTLED, "died")
        match command:
            case "stop" | "pause":
                return not ended
            case "resume":
                return ended and line.state not in ("finished", "damaged")
            case "continue" | "export":
                return self.has_finished_run()
            case "compare":
                return len(self.marked) > 1
            case "delete":
                return ended
        return True

    def selected_run(self) -> RunDir | None:
        """The run under the cursor; a notification if there is none."""
        if not self.key:
            self.tell("no run selected", severity="warning")
            return None
        return RunDir(self.runs / self.key)

    def show_run(self, run: RunDir) -> None:
        self.dismiss(run)

    @on(OptionList.OptionSelected)
    def action_attach(self) -> None:
        if run := self.selected_run():
            self.dismiss(run)

    def action_continue_from(self) -> None:
        if run := self.selected_run():
            if self.lines[run.name].state == "finished":
                self.dismiss(ContinueFrom(run))
            else:
                self.tell("only a finished run can be the start of another one", severity="warning")

    def action_mark(self) -> None:
        """Mark or unmark the run, and go to the next one."""
        table = self.table
        self.marked ^= {table.key} if table.key else set()
        self.fill()
        if table.lines.highlighted != len(table.rows) - 1:
            table.lines.action_cursor_down()

    def action_compare(self) -> None:
        runs = [RunDir(self.runs / name) for name in sorted(self.marked) if name in self.lines]
        if len(runs) < 2:
            self.tell(f"mark two or more runs with {app_keys(self).of('runs.mark')}", severity="warning")
            return
        title, ascii_only = f"comparison of {len(runs)} runs", app_settings(self).ascii

        def show(compared: list[ComparedRun]) -> None:
            if self.is_current:
                self.app.push_screen(TextScreen(title, lambda width: compare(compared, width, ascii_only)))

        def read_all() -> None:  # in a thread: their logs may be long
            self.app.call_from_thread(show, read(runs))

        self.run_worker(read_all, thread=True, exclusive=True, group="compare")

    def finished_runs(self, purpose: str) -> list[RunDir]:
        """The marked runs, else the selected one."""
        names = sorted(self.marked & set(self.lines)) or ([run.name] if (run := self.selected_run()) else [])
        unfinished = [name for name in names if self.lines[name].state != "finished"]
        if unfinished:
            self.tell(f"not finished, nothing to {purpose}: {', '.join(unfinished)}", severity="warning")
        return [] if unfinished else [RunDir(self.runs / name) for name in names]

    def has_finished_run(self) -> bool:
        """Whether the run under the cursor has finished."""
        return self.key in self.lines and self.lines[self.key].state == "finished"

    def action_again(self) -> None:
        if run := self.selected_run():
            self.start_in_thread(partial(repeat_run, run), self.show_run)

    def action_export(self) -> None:
        from tui.screens.exporting import ExportScreen, exportable  # imported when it is opened

        if run := self.selected_run():
            if offered := exportable(run.name, run):
                self.app.push_screen(ExportScreen([offered]))
            else:
                self.tell("only a finished run can be exported", severity="warning")

    def action_delete(self) -> None:
        run = self.selected_run()
        if run is None:
            return
        if reason := _not_deletable(run):
            self.tell(reason, severity="warning")
            return

        names = [row.key for row in self.table.rows]
        index = names.index(run.name)
        neighbor = (names[index + 1 :] or names[:index][-1:] or [""])[0]

        def delete() -> None:
            if _not_deletable(run):
                return
            try:
                run_dir.delete(run)
            except OSError as error:
                self.tell(f"cannot delete {run.path} completely: {error.strerror}", severity="error", timeout=10)
            self.marked.discard(run.name)
            self.read(neighbor)

        self.confirm(f"Delete {run.name} with its model and checkpoints? This cannot be undone.", delete)

    def action_sort(self) -> None:
        self._sort_by((self.sort_column + 1) % len(FIELDS))

    def action_reverse(self) -> None:
        self.reverse = not self.reverse
        self.fill()

    @on(Table.NameClicked)
    def _name_clicked(self, message: Table.NameClicked) -> None:
        """Sort by the clicked column; a second click reverses the order."""
        if message.column - 1 == self.sort_column:
            self.action_reverse()
        elif message.column:
            self._sort_by(message.column - 1)

    def _sort_by(self, column: int) -> None:
        """Sort by a column: numbers and dates descending, words ascending."""
        self.sort_column = column
        self.reverse = FIELDS[column].number is not None
        self.fill()


def _not_deletable(run: RunDir) -> str:
    """Why a run cannot be deleted now; '' if it can be."""
    if run.state() in run_dir.ACTIVE:
        return "cannot delete a running run; stop it first"
    return "cannot delete this run: a process is using it" if locks.is_in_use(run.path) else ""
