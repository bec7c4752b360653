"""A ladder while it runs and after: rungs, scores with intervals, costs, verdict."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from engine.config.errors import UserError
from engine.config.text import visible
from engine.runs import start
from engine.runs.home import tilde
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.ladder.preferences import JudgePlan
from engine.runs.preference.judge_dir import (
    create_judge,
    expected_lines,
    judges,
    named_judge,
    preferences_changed,
    progress_text,
    with_preferences,
)
from engine.runs.run.event_log import Follower
from engine.runs.run.folder import current_directory, sort_by_start
from engine.runs.run.run_dir import RunDir
from engine.runs.start import resume_ladder
from tui.background import BackgroundRequest
from tui.charts import ChartStyle
from tui.commands import bindings
from tui.history import ladder_view
from tui.live.curves import loss_rows, loss_values, rate_values
from tui.live.run_state import RunState
from tui.screens.base import BaseScreen
from tui.screens.dialogs import NameScreen
from tui.settings import app_keys, app_settings
from tui.widgets.status_line import status
from tui.widgets.text_rows import KeyLine

POLL_SECONDS = 0.5
PARTS = ("left", "summary", "current", "progress", "judges", "verdict", "benchmarks", "notes")
"""From top to bottom: the time left of all runs, the table, the live run's curve, the runs of each rung, sentences."""


CURVE_ROWS, OTHER_ROWS = 9, 24
"""Rows of the live run's curve, at least, and of what is shown with it."""


class LadderScreen(BaseScreen[None]):
    """Shows one ladder of the runs folder at a time, the latest first."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("ladder")
    CSS = """
    LadderScreen #headline { height: auto; padding: 0 1; text-style: bold; }
    LadderScreen #body { height: 1fr; padding: 0 1; }
    LadderScreen #body Static { height: auto; margin-bottom: 1; }
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

    def compose(self) -> ComposeResult:
        yield Static(id="headline")
        with VerticalScroll(id="body"):
            for name in PARTS:
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

    def _chosen(self, purpose: str) -> LadderDir | None:
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
            changed = max(folder.state_file.stat().st_mtime, preferences_changed(folder))
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
        self._draw(folder, with_preferences(folder, state))

    def _show_only(self, headline: str | Content) -> None:
        """Show one line where there is no ladder to draw, and hide what was drawn of another."""
        self.drawn, self.follower, self.ladder = None, None, None
        for name in PARTS:
            self.query_one(f"#{name}").display = False
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
                rows, style = max(CURVE_ROWS, self.size.height - OTHER_ROWS), ChartStyle(ascii=app_settings(self).ascii)
                curve = _joined([title, *loss_rows(run, width, rows, style)])
        self._show("left", line)
        self._show("current", curve)

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

        judging: list[str] = []  # the progress of the judges that are at work, and why the last one failed
        for judge in judges(folder):
            with contextlib.suppress(UserError):  # damaged: a warning of the ladder
                if (judge_state := judge.state()) is None:
                    continue
                failed = judge_state.status == "failed"
                if (active := judge.is_active()) or failed:
                    why = f": {judge_state.reason}" if failed and not active else ""
                    judging.append(visible(f"judge {judge_state.title}: {progress_text(judge_state)}{why}"))

        notes = [f"warning: {visible(text)}" for text in state.warnings]
        if folder.page.exists():
            notes.append(visible(f"report: {folder.page}"))
        directory = folder.started_in()
        if directory not in ("", current_directory()):
            notes.append(visible(f"started in {tilde(directory)}"))
        if state.status == "running" and not self._active:
            notes.append(f"the ladder's process has ended: press {app_keys(self).of('ladder.resume')} to resume")

        self.set_text("headline", Content(ladder_view.headline(state)))
        self._show("progress", _joined(ladder_view.progress_lines(state)))
        self._show("judges", Content("\n".join(judging)))
        self._show("summary", _joined(ladder_view.summary_view(state, max(40, self.size.width - 4))))
        self._show("benchmarks", Content("\n".join(ladder_view.benchmark_lines(state))))
        self._show("verdict", _joined(ladder_view.verdict_lines(state)))
        self._show("notes", Content.styled("\n".join(notes), "$foreground-muted"))
        self.query_one(KeyLine).redraw()

    def is_useful(self, command: str) -> bool:
        state, active = self.ladder, self._active
        match command:
            case "stop":
                return active
            case "resume":
                return state is not None and not active and state.status != "finished"
            case "export" | "rate" | "judge":
                return self.has_finished_run()
            case "next":
                return self._has_others
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
        if (folder := self._chosen("resume")) is None:
            return
        with self.errors_told():
            if (state := folder.state()) is not None and state.status == "finished":
                self.tell(f"already finished: {folder.name}", severity="warning")
            else:
                resume_ladder(folder)

    def finished_runs(self, purpose: str) -> list[RunDir]:
        """A finished run of each rung. Raises UserError if there is none."""
        folder = self._chosen(purpose)
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

    def action_rate(self) -> None:
        """Rate the answers of two rungs, with the user's login as the name of the rater."""
        from engine.runs.preference.ratings import RatingSession, login  # imported when it is opened
        from tui.screens.rating import RatingScreen

        if (folder := self._chosen("rate")) is None:
            return
        with self.errors_told("warning"):
            self.app.push_screen(RatingScreen(RatingSession(folder, [], login(), [])))

    def action_judge(self) -> None:
        """Ask for a judge, show what it takes, and start it."""
        if (folder := self._chosen("judge")) is None:
            return
        if running := next((judge for judge in judges(folder) if judge.is_active()), None):

            def stop() -> None:
                with contextlib.suppress(ProcessLookupError, PermissionError):  # it ended before the answer
                    if (pid := running.pid()) is not None:
                        os.kill(pid, signal.SIGTERM)

            self.confirm(f"Stop the judge {running.name}? Its verdicts are kept.", stop)
            return

        def named(judge: str | None) -> None:
            if judge is not None:
                plan = JudgePlan(judge=named_judge(judge, "judge"), rubric="", pairs=[])
                arguments = {"path": str(folder.path), "plan": msgspec.to_builtins(plan)}
                if self.request is not None:
                    self.request.cancel()
                self.request = BackgroundRequest(self, "judge.plan", arguments, self._judge_planned)

        question = "Judge: http://HOST:PORT/v1#NAME of a served model, or a model on this machine"
        self.app.push_screen(NameScreen(question, "", lambda text: named_judge(text, "judge")), named)

    def _judge_planned(self, prepared: Any, error: str) -> None:
        folder = self.current()
        if folder is None:
            return
        if error:
            self.tell(error, severity="error", timeout=15)
            return
        plan = msgspec.convert(prepared["plan"], JudgePlan)
        tokens = prepared["prompt_tokens"], prepared["completion_tokens"]
        lines = expected_lines(plan, prepared["items"], prepared["requests"], prepared["reused"], tokens)

        def start_judge() -> None:
            judge = create_judge(folder, plan)
            start.start_process("engine.judge", judge.path, judge.log_file)

        self.confirm("Start the " + "; ".join(lines) + "?", start_judge)

    def action_report(self) -> None:
        folder = self.current()
        if folder is None or not folder.page.exists():
            self.tell("no report yet: it is written when the ladder has finished", severity="warning")
            return
        self.app.copy_to_clipboard(str(folder.page))
        self.tell(f"{folder.page} (copied)")


def _joined(lines: Iterable[Content]) -> Content:
    return Content("\n").join(lines)
