"""Past and live runs in a table: attach, mark and compare, stop, pause, resume, run again, delete."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.widgets import Input, Static

from engine.config.errors import RunFailed, UserError
from engine.config.preset import Effective
from engine.config.text import visible
from engine.runs import run_dir
from engine.runs.home import tilde
from engine.runs.run_dir import RunDir
from tui.commands import bindings
from tui.history.run_list import SETTLED, Line, describe
from tui.history.run_table import FIELDS, TABLE, names, ordered, row
from tui.screens.acting import ActingScreen
from tui.screens.ask import AskScreen
from tui.widgets.key_line import KeyLine
from tui.widgets.table import Table

if TYPE_CHECKING:
    from tui.app import Workbench

SECONDS = 1.0


class RunsScreen(ActingScreen[RunDir | None]):
    """Closes with the run to attach to, or with nothing."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("runs")
    CSS = """
    RunsScreen { layout: vertical; }
    RunsScreen #title { height: 1; text-style: bold; padding: 0 1; }
    RunsScreen Table { padding: 0 1; }
    RunsScreen #detail { height: 3; padding: 0 1; color: $foreground-muted; }
    RunsScreen Input { height: 1; border: none; display: none; }
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
        yield Table(TABLE, id="table")
        yield Static(id="detail")
        yield Input(placeholder="only runs that hold …", id="word", compact=True)
        yield KeyLine()

    def on_mount(self) -> None:
        self.query_one(Table).focus()
        self.read()
        self.set_interval(SECONDS, self._refresh_live)

    def _places(self) -> dict[Path, int]:
        """Of those that wait."""
        return {turn.run: turn.place for turn in self.queue() if turn.place}

    def read(self, here: str = "") -> None:
        """All runs anew; the cursor stays on its run, or goes to `here`."""
        places = self._places()
        self.lines = {run.name: describe(run, places) for run in self.read_all(run_dir.iterate(self.runs))}
        self._fill(here)

    def _refresh_live(self) -> None:
        """Only what can change is read again: runs without an outcome, resumed ones, and new ones."""
        if self.app.screen is not self:
            return
        places = self._places()
        known = {run.name: run for run in self.read_all(run_dir.iterate(self.runs))}
        stale = [name for name in known if self._can_change(known[name])]
        fresh = {name: describe(known[name], places) for name in stale}
        gone = set(self.lines) - set(known)
        self.marked -= gone
        if gone or any(self.lines.get(name) != line for name, line in fresh.items()):
            self.lines = {name: line for name, line in {**self.lines, **fresh}.items() if name not in gone}
            self._fill()

    def _can_change(self, run: RunDir) -> bool:
        line = self.lines.get(run.name)
        if line is not None and line.state == "died":  # nothing of it is read again until somebody goes on with it
            return run.is_live() or run.result_file.exists()
        return line is None or line.state not in SETTLED or not run.result_file.exists()

    def _fill(self, here: str = "") -> None:
        lines = ordered(self.lines.values(), self.by, self.reverse, self.word)
        rows = [row(line, line.name in self.marked) for line in lines]
        self.query_one(Table).show_rows(rows, names(self.by, self.reverse), here)
        held = f" that hold{'s' * (len(rows) == 1)} {self.word!r}" if self.word else ""
        marked = f", {len(self.marked)} marked" if self.marked else ""
        count = f"{len(rows)} run{'s' * (len(rows) != 1)}"
        title = f"{count}{held}{marked} in {tilde(self.runs)}, by {FIELDS[self.by].column.name}"
        self.query_one("#title", Static).update(Content(visible(title)))
        self._detail()

    @on(Table.Moved)
    def _detail(self) -> None:
        """The whole name, what it was made of and why it ended; or what to press where there is nothing."""
        line = self.lines.get(self.query_one(Table).key)
        if line is None:
            text = "no run holds that word" if self.lines else "no runs yet: escape, then enter on the bench starts one"
        else:
            reason = "paused: u goes on from its checkpoint" if line.state == "paused" else line.reason
            origin = f"\nstarted in {tilde(line.started_in)}" if line.started_in else ""
            text = f"{line.name}: {line.method} of {line.model} on {line.data}\n{reason}{origin}"
        self.query_one("#detail", Static).update(
            Content("\n").join(Content(visible(part)) for part in text.split("\n"))
        )

    def _run(self) -> RunDir | None:
        name = self.query_one(Table).key
        if not name:
            self.tell("no run here", severity="warning")
            return None
        return RunDir(self.runs / name)

    def action_back(self) -> None:
        """Out of the filter first, and all runs again; then to the bench."""
        word = self.query_one("#word", Input)
        if word.display:
            word.value, word.display = "", False
            self.query_one(Table).focus()
            return
        self.dismiss(None)

    @on(Table.Taken)
    def action_attach(self) -> None:
        if run := self._run():
            self.dismiss(run)

    def action_mark(self) -> None:
        name = self.query_one(Table).key
        self.marked ^= {name} if name else set()
        self._fill()

    def action_compare(self) -> None:
        from tui.screens.comparing import CompareScreen

        runs = [RunDir(self.runs / name) for name in sorted(self.marked) if name in self.lines]
        if len(runs) < 2:
            self.tell("mark two or more with space", severity="warning")
            return
        self.app.push_screen(CompareScreen(runs, self.app.settings.ascii))

    def action_stop(self) -> None:
        self.stop_run(self._run())

    def action_pause(self) -> None:
        self.pause_run(self._run())

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
            frozen = run_dir.read_frozen(run)
            new = run_dir.create(self.runs, frozen.preset, Effective(frozen.config, frozen.origins, frozen.notes))
        except (UserError, RunFailed) as error:
            self.tell(str(error), severity="error")
            return
        self.launch_run(new)

    def action_delete(self) -> None:
        run = self._run()
        if run is None:
            return
        if run.state() in ("live", "starting"):
            self.tell("a live run is not deleted: stop it first", severity="warning")
            return

        names = [row.key for row in self.query_one(Table).rows]
        place = names.index(run.name)
        below = (names[place + 1 :] or names[:place][-1:] or [""])[0]

        def answered(yes: bool | None) -> None:
            if not yes or run.is_live():
                return
            try:
                run_dir.delete(run)
            except OSError as error:
                self.tell(f"{run.path} could not be deleted whole: {error.strerror}", severity="error", timeout=10)
            self.marked.discard(run.name)
            self.read(below)

        self.app.push_screen(AskScreen(f"Delete {run.name} with its model and checkpoints, for good?"), answered)

    def action_sort(self) -> None:
        self._sort_by((self.by + 1) % len(FIELDS))

    def action_turn(self) -> None:
        self.reverse = not self.reverse
        self._fill()

    @on(Table.NameClicked)
    def _name_clicked(self, message: Table.NameClicked) -> None:
        """A column by the mouse; the same once more turns it round."""
        if message.column - 1 == self.by:
            self.action_turn()
        elif message.column:
            self._sort_by(message.column - 1)

    def _sort_by(self, column: int) -> None:
        """Figures and dates the highest first, words from a on."""
        self.by = column
        self.reverse = FIELDS[column].column.name in ("when", "score", "time", "peak")
        self._fill()

    def action_filter(self) -> None:
        word = self.query_one("#word", Input)
        word.display = True
        self.set_focus(word)  # at once: what is typed ahead is meant for it

    @on(Input.Changed, "#word")
    def _typed(self, event: Input.Changed) -> None:
        self.word = event.value
        self._fill()

    @on(Input.Submitted, "#word")
    def _entered(self) -> None:
        self.query_one("#word").display = False
        self.query_one(Table).focus()
