"""A ladder as it is climbed: rungs, bars with intervals, costs, verdict; fills in as runs finish."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, NamedTuple

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from engine.config.errors import RunFailed, UserError
from engine.config.text import visible
from engine.runs import ladder_dir, launch
from engine.runs.folder import working_directory
from engine.runs.follow import Follower
from engine.runs.home import tilde
from engine.runs.ladder import Ladder
from engine.runs.ladder_dir import LadderDir
from engine.runs.run_dir import RunDir
from tui.commands import bindings
from tui.history import ladder_view
from tui.live.run_state import RunState
from tui.screens.ask import AskScreen
from tui.screens.base import BaseScreen
from tui.widgets.key_line import KeyLine
from tui.widgets.status_line import status

POLL_SECONDS = 0.5
PARTS = ("progress", "doing", "bars", "costs", "verdict", "notes")


class Live(NamedTuple):
    """The run that a ladder waits for, read as far as it has come."""

    follower: Follower
    state: RunState


def following(before: Live | None, folder: LadderDir, ladder: Ladder) -> Live | None:
    """That run, read on where it is the same as before; None where the ladder waits for none."""
    run = next((entry.run for entry in ladder.entries if entry.status == "live" and entry.run), None)
    if run is None or not folder.is_live():
        return None
    path = RunDir(folder.runs / run).events_file
    return before if before and before.follower.path == path else Live(Follower(path), RunState(run))


class LadderScreen(BaseScreen[None]):
    """One ladder of the runs folder at a time, the newest first."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("ladder")
    CSS = """
    LadderScreen { layout: vertical; }
    #headline { height: auto; padding: 0 1; text-style: bold; }
    #body { height: 1fr; padding: 0 1; }
    #body Static { height: auto; margin-bottom: 1; }
    """

    def __init__(self, runs: Path, ascii_only: bool = False) -> None:
        super().__init__()
        self.runs, self.ascii_only = runs, ascii_only
        self.number = 0
        self.shown: tuple[str, float, int, bool] | None = None
        self.live: Live | None = None

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
        self.shown = None
        self.refresh_ladder()

    def ladders(self) -> list[LadderDir]:
        """The newest first."""
        return sorted(self.read_all(ladder_dir.iterate(self.runs)), key=lambda ladder: ladder.name, reverse=True)

    def current(self) -> LadderDir | None:
        known = self.ladders()
        return known[self.number % len(known)] if known else None

    def refresh_ladder(self) -> None:
        """Draw again where the file, the ladder, the life of its process or the width has changed."""
        folder = self.current()
        if folder is None:
            self._say_only(_empty())
            return
        with contextlib.suppress(FileNotFoundError):
            mark = (folder.name, folder.state_file.stat().st_mtime, self.size.width, folder.is_live())
            if mark == self.shown:
                self._say_doing()
                return
            self.shown = mark
        try:
            state = folder.state()
        except UserError as error:
            self._say_only(Content.styled(visible(error.line), "$text-error"))
            return
        if state is None:
            self._say_only(Content(visible(f"{folder.name}: not begun")))
            return
        self._draw(folder, state)

    def _say_only(self, headline: Content) -> None:
        """Where there is no ladder to draw: nothing of the one before stays."""
        self.shown, self.live = None, None
        for name in PARTS:
            self.query_one(f"#{name}").display = False
        self.query_one("#headline", Static).update(headline)

    def _say_doing(self) -> None:
        """What the run does that the ladder waits for: its phase, its step, or whose turn it waits for."""
        line = Content("")
        if self.live is not None:
            for portion in self.live.follower.portions():
                self.live.state.feed(portion)
            if self.live.state.counted and self.live.state.end is None:
                line = status(self.live.state, True, None, self.size.width - 4, ascii_only=self.ascii_only)
        part = self.query_one("#doing", Static)
        if line != part.visual:
            part.update(line)
        part.display = bool(line.plain)

    def _draw(self, folder: LadderDir, state: Ladder) -> None:
        self.live = following(self.live, folder, state)
        self._say_doing()
        columns = max(40, self.size.width - 4)
        ascii_only = self.ascii_only
        parts = {
            "headline": Content(ladder_view.headline(state)),
            "progress": _joined(ladder_view.progress_lines(state, ascii_only)),
            "bars": _joined(ladder_view.score_bars(state, columns, ascii_only)),
            "costs": Content("\n".join(ladder_view.cost_lines(state))),
            "verdict": _joined(ladder_view.verdict_lines(state)),
            "notes": Content.styled("\n".join(self._notes(folder, state)), "$foreground-muted"),
        }
        for name, text in parts.items():
            part = self.query_one(f"#{name}", Static)
            part.update(text)
            part.display = bool(text.plain)

    def _notes(self, folder: LadderDir, state: Ladder) -> list[str]:
        notes = [f"warning: {visible(text)}" for text in state.warnings]
        if folder.page.exists():
            notes.append(visible(f"page: {folder.page}"))
        if state.started_in not in ("", working_directory()):
            notes.append(visible(f"started in {tilde(state.started_in)}"))
        if state.status == "running" and not folder.is_live():
            notes.append("its process is gone: press u to go on where it was")
        return notes

    def action_back(self) -> None:
        self.dismiss()

    def action_next(self) -> None:
        if len(self.ladders()) < 2:
            self.tell("there is no other ladder")
        self.number += 1
        self.refresh_ladder()

    def action_stop(self) -> None:
        folder = self.current()
        if folder is None or not folder.is_live():
            self.tell("no ladder is climbing", severity="warning")
            return

        def answered(yes: bool | None) -> None:
            if yes:
                with contextlib.suppress(UserError, ProcessLookupError):  # it ended while we asked
                    launch.stop(folder)
                self.tell("stopping after this step; u goes on later")

        self.app.push_screen(AskScreen(f"Stop {folder.name} and its run, with a checkpoint?"), answered)

    def action_resume(self) -> None:
        folder = self.current()
        if folder is None or folder.is_live():
            self.tell("nothing to resume", severity="warning")
            return
        try:
            launch.launch_ladder(folder)
        except (UserError, RunFailed) as error:
            self.tell(visible(str(error)), severity="error")

    def action_report(self) -> None:
        folder = self.current()
        if folder is None or not folder.page.exists():
            self.tell("no page yet: it is written when the ladder is done", severity="warning")
            return
        self.app.copy_to_clipboard(str(folder.page))
        self.tell(f"{folder.page} (copied)")


def _empty() -> Content:
    return Content(
        "No ladder here yet: escape, then L on the bench climbs one with what is chosen there. A ladder trains with "
        "each method on the same work and tells what each kept and cost."
    )


def _joined(lines: Iterable[Content]) -> Content:
    return Content("\n").join(lines)
