"""A ladder while it runs and after: what to ship, then rungs with their scores and costs, then why."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from engine.config.errors import UserError
from engine.config.quantities import size
from engine.config.text import visible
from engine.runs import start
from engine.runs.home import tilde
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.ladder.report_hooks import extended, report_hooks
from engine.runs.run.event_log import Follower
from engine.runs.run.folder import current_directory, sort_by_start
from engine.runs.run.run_dir import RunDir
from engine.runs.start import resume_ladder
from tui.charts import ChartStyle
from tui.commands import bindings
from tui.history import ladder_view
from tui.live.curves import loss_rows, loss_values, rate_values
from tui.live.run_state import RunState
from tui.screens.base import BaseScreen
from tui.settings import app_keys, app_settings
from tui.widgets.status_line import status
from tui.widgets.text_rows import KeyLine

POLL_SECONDS = 0.5
PARTS = ("left", "summary", "figure", "current", "progress", "working", "verdict", "tasks", "notes")
"""From top to bottom: the time left of all runs, table and figure, the live run's curve, the runs of each rung,
sentences."""
BESIDE = 140
"""Columns from which the figure is beside the table."""
MAX_FIGURE = 56
"""Columns of the figure there."""
CURVE_ROWS, OTHER_ROWS = 9, 24
"""Rows of the live run's curve, at least, and of what is shown with it."""


class LadderScreen(BaseScreen[None]):
    """Shows one ladder of the runs folder at a time, the latest first."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("ladder")
    CSS = """
    LadderScreen #decision, LadderScreen #headline { height: auto; padding: 0 1; }
    LadderScreen #headline { color: $foreground-muted; }
    LadderScreen #body { height: 1fr; padding: 0 1; scrollbar-size-vertical: 1; }
    LadderScreen #body Static { height: auto; margin-bottom: 1; }
    LadderScreen #results { height: auto; layout: vertical; }
    LadderScreen #results.-beside { layout: horizontal; }
    LadderScreen .-beside #summary { width: 1fr; }
    LadderScreen .-beside #figure { width: auto; }
    """

    def __init__(self, runs: Path, index: int = 0) -> None:
        super().__init__()
        self.runs = runs
        self.index = index
        """Of the ladder that is shown, counted from the latest."""
        self.drawn: tuple[str, float, int, bool] | None = None
        """Name, modification time, width and liveness as they were drawn last."""
        self.follower: Follower | None = None
        """Reads the events of the live run of the ladder; None if there is none."""
        self.run_state = RunState()
        """State of the run that `follower` reads."""
        self.ladder: Ladder | None = None
        """As it was drawn last."""
        self._has_others = False
        self.is_open = False
        """Whether sentences are shown completely, not in one line each."""

    def compose(self) -> ComposeResult:
        yield Static(id="decision")
        yield Static(id="headline")
        with VerticalScroll(id="body"):
            first, *results = (Static(id=name) for name in PARTS[:3])
            yield first
            yield Container(*results, id="results")
            for name in PARTS[3:]:
                yield Static(id=name)
        yield KeyLine()

    def on_mount(self) -> None:
        self.set_interval(POLL_SECONDS, self.refresh_ladder)
        self.refresh_ladder()

    def on_resize(self) -> None:
        self.drawn = None
        self.refresh_ladder()

    def ladders(self) -> list[LadderDir]:
        """The latest first."""
        return sort_by_start(self.read_all(LadderDir.iterate(self.runs)), latest_first=True)

    @property
    def _active(self) -> bool:
        """Whether the process of the ladder was running when it was drawn last."""
        return self.drawn is not None and self.drawn[3]

    def current(self) -> LadderDir | None:
        known = self.ladders()
        self._has_others = len(known) > 1
        return known[self.index % len(known)] if known else None

    def chosen(self, purpose: str) -> LadderDir | None:
        """The ladder that is shown; a notification if there is none."""
        if (folder := self.current()) is None:
            self.tell(f"no ladder to {purpose}", severity="warning")
        return folder

    def refresh_ladder(self) -> None:
        """Draw again if the ladder, its file, its process or the width has changed."""
        folder = self.current()
        if folder is None:
            keys = app_keys(self)
            first = f"press {keys.of('ladder.back')}, then {keys.of('bench.run_ladder')} on the bench to run one"
            self._show_only(
                f"No ladder yet: {first} with the selected preset. A ladder trains the same model on the same data "
                "with every method and reports what each method gains and costs."
            )
            return
        with contextlib.suppress(FileNotFoundError):
            changed = max(folder.state_file.stat().st_mtime, *(hooks.changed(folder) for hooks in report_hooks()))
            now = (folder.name, changed, self.size.width, folder.is_active())
            if now == self.drawn:
                self._show_current_run()
                return
            self.drawn = now
        try:
            state = folder.state()
        except UserError as error:
            self._show_only(Content.styled(visible(error.line), "$text-error"))
            return
        if state is None:
            self._show_only(f"{folder.name}: not started")
            return
        self._draw(folder, extended(folder, state))

    def _show_only(self, headline: str | Content) -> None:
        """Show one line where there is no ladder to draw, and hide what was drawn of another."""
        self.drawn, self.follower, self.ladder = None, None, None
        for name in PARTS:
            self.query_one(f"#{name}").display = False
        self._show("decision", Content())
        self.set_text("headline", headline)
        self.query_one(KeyLine).redraw()

    def _show(self, name: str, text: Content) -> None:
        """Show one of the parts, which is hidden while it is empty."""
        part = self.query_one(f"#{name}", Static)
        before = part.visual
        if not isinstance(before, Content) or (before.plain, before.spans) != (text.plain, text.spans):
            part.update(text)
        part.display = bool(text.plain)

    def _show_current_run(self) -> None:
        """Show how far all runs are with the time left, and the loss of the current one."""
        line, curve, run = Content(""), Content(""), self.run_state
        for portion in self.follower.portions() if self.follower else ():
            run.feed(portion)
        if self.follower and run.counted and run.end is None:
            width = self.size.width - 4
            line = status(run, True, None, width, ladder=self.ladder)
            if run.loss.buckets:
                title = Content.assemble(("loss  ", "bold"), f"{loss_values(run)}  {rate_values(run)}")
                if memory := run.memory:
                    used, peak = memory.reserved or memory.rss, memory.reserved_peak or memory.rss_peak
                    title += Content.assemble(("   memory  ", "bold"), f"{size(used)}, peak {size(peak)}")
                rows, style = max(CURVE_ROWS, self.size.height - OTHER_ROWS), ChartStyle(ascii=app_settings(self).ascii)
                curve = _joined([title, *loss_rows(run, width, rows, style)])
        self._show("left", line)
        self._show("current", curve)
        if self.ladder is not None:
            lines = [*ladder_view.stage_lines(self.ladder, time.time(), run), *ladder_view.progress_lines(self.ladder)]
            self._show("progress", _joined(lines))

    def _draw(self, folder: LadderDir, state: Ladder) -> None:
        self.ladder = state
        live = (entry.run for entry in state.entries if entry.status == "live" and entry.kind != "export")
        run = next(filter(None, live), "") if self._active else ""
        events = RunDir(folder.runs / run).events_file
        if not run:
            self.follower = None
        elif self.follower is None or self.follower.path != events:
            self.follower, self.run_state = Follower(events), RunState(run)
        self._show_current_run()

        notes = [f"warning: {visible(text)}" for text in state.warnings]
        if folder.page.exists():
            notes.append(visible(f"report: {folder.page}"))
        directory = folder.started_in()
        if directory not in ("", current_directory()):
            notes.append(visible(f"started in {tilde(directory)}"))
        if state.status == "running" and not self._active:
            notes.append(f"the ladder's process has ended: press {app_keys(self).of('ladder.resume')} to resume")

        width = max(40, self.size.width - 4)
        is_beside = self.size.width >= BESIDE and bool(state.summary and state.summary.tradeoffs[1:])
        figure = min(MAX_FIGURE, width // 3) if is_beside else 0
        self.query_one("#results").set_class(is_beside, "-beside")
        folded = None if self.is_open else width
        self._show("decision", ladder_view.decision(state, app_keys(self).of("ladder.export")))
        self.set_text("headline", Content(ladder_view.headline(state)).truncate(self.size.width - 2, ellipsis=True))
        working = [line for hooks in report_hooks() for line in hooks.progress(folder)]
        self._show("working", Content("\n".join(working)))
        self._show("summary", _joined(ladder_view.summary_view(state, width - (figure + 3 if figure else 0))))
        self._show("figure", _joined(ladder_view.tradeoff_view(state, figure or width)))
        self._show("tasks", Content("\n".join(ladder_view.task_lines(state))))
        self._show("verdict", _joined(ladder_view.verdict_lines(state, folded)))
        shown = [Content(note).truncate(folded, ellipsis=True) if folded else Content(note) for note in notes]
        self._show("notes", _joined(shown).stylize("$foreground-muted"))
        self.query_one(KeyLine).redraw()

    def action_open(self) -> None:
        """Show sentences completely, or in one line each again."""
        self.is_open, self.drawn = not self.is_open, None
        self.refresh_ladder()
        if self.is_open:
            self.query_one("#verdict").scroll_visible(top=True, animate=False)

    def is_useful(self, command: str) -> bool:
        state, active = self.ladder, self._active
        match command:
            case "stop":
                return active
            case "resume":
                return state is not None and not active and state.status != "finished"
            case "export":
                return self.has_finished_run()
            case "next":
                return self._has_others
            case "open":
                return state is not None and bool(state.verdict or state.warnings)
            case "report":
                return state is not None and state.status == "finished"
        return True

    def action_next(self) -> None:
        if len(self.ladders()) < 2:
            self.tell("no other ladder")
        self.index += 1
        self.refresh_ladder()

    def action_stop(self) -> None:
        folder = self.current()
        if folder is None or not folder.is_active():
            self.tell("no ladder is running", severity="warning")
            return

        def stop() -> None:
            with contextlib.suppress(UserError, ProcessLookupError):  # it ended before the answer
                start.stop(folder)
            self.tell(f"stopping after this step; press {app_keys(self).of('ladder.resume')} to resume later")

        self.confirm(f"Stop {folder.name}? Its run finishes its step and saves a checkpoint.", stop)

    def action_resume(self) -> None:
        if (folder := self.chosen("resume")) is None:
            return
        with self.errors_told():
            if (state := folder.state()) is not None and state.status == "finished":
                self.tell(f"already finished: {folder.name}", severity="warning")
            else:
                self.start_in_thread(partial(resume_ladder, folder))

    def finished_runs(self, purpose: str) -> list[RunDir]:
        """A finished run of each rung. Raises UserError if there is none."""
        folder = self.chosen(purpose)
        return folder.finished_runs() if folder else []

    def has_finished_run(self) -> bool:
        return self.ladder is not None and any(e.kind == "run" and e.status == "finished" for e in self.ladder.entries)

    def action_export(self) -> None:
        from tui.screens.exporting import ExportScreen, exportable  # imported when it is opened

        folder = self.current()
        state = folder.state() if folder else None
        runs = [entry for entry in state.entries if entry.kind == "run" and entry.run] if state else []
        offered = [
            target
            for entry in runs
            if folder and (target := exportable(f"{entry.rung}, seed {entry.seed}", RunDir(folder.runs / entry.run)))
        ]
        if offered:
            self.app.push_screen(ExportScreen(offered))
        else:
            self.tell("no finished run to export", severity="warning")

    def action_report(self) -> None:
        folder = self.current()
        if folder is None or not folder.page.exists():
            self.tell("no report yet: it is written when the ladder has finished", severity="warning")
            return
        self.app.copy_to_clipboard(str(folder.page))
        self.tell(f"{folder.page} (copied)")


def _joined(lines: Iterable[Content]) -> Content:
    return Content("\n").join(lines)
