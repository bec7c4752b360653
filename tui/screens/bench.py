"""The bench: choose data, method and preset; start; watch loss, machine and log."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from engine.runs.folder import running_elsewhere
from tui.commands import bindings
from tui.header import choice_lines, head_line, live_runs
from tui.screens.watching import WatchingScreen
from tui.widgets.choosing import ChoosingPane, Chosen, Picked, Refused
from tui.widgets.key_line import KeyLine
from tui.widgets.log_pane import LogPane, Word
from tui.widgets.loss_pane import LossPane
from tui.widgets.machine_pane import MachinePane

if TYPE_CHECKING:  # imported where they are needed: the first picture does not wait for what a run takes
    from engine.runs.run_dir import RunDir
    from tui.live.machine import MachineSample, Sampled


NEW_SECONDS = 5.0
"""Within which a run that was made holds its lock."""


class BenchScreen(WatchingScreen[None]):
    """Everything on one screen."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("bench")
    AUTO_FOCUS = "#log"  # enter starts; tab goes to the lists
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (34, "-tall")]

    def __init__(self, runs: Path, ascii_only: bool = False) -> None:
        super().__init__(classes=self._classes_of(shutil.get_terminal_size()))  # nothing is styled twice at first
        self.runs, self.ascii_only = runs, ascii_only
        self.sample: MachineSample | None = None
        self.foreseen: tuple[object, int | None] = None, None
        """What was asked last of the formula, and its answer."""
        self.begun = False
        """Whether it has been looked for runs."""
        self.others: list[RunDir] = []
        """Live runs of this folder that have no place: begun with --now."""

    @classmethod
    def _classes_of(cls, size: tuple[int, int]) -> str:
        """What the breakpoints will give on a terminal of this size."""
        pairs = zip(size, (cls.HORIZONTAL_BREAKPOINTS, cls.VERTICAL_BREAKPOINTS), strict=True)
        return " ".join(max(point for point in points if point[0] <= length)[1] for length, points in pairs)

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        yield Static(id="about")
        with Horizontal(id="body"):
            yield ChoosingPane(id="left")
            with Vertical(id="middle"):
                yield LossPane(self.runs, self.ascii_only, id="loss")
                yield LogPane(id="log")
            yield MachinePane(self.ascii_only, id="machine")
        yield Static(id="status")
        yield KeyLine()

    def on_mount(self) -> None:
        for name in ("data", "method", "preset", "loss", "log", "machine"):
            self.query_one(f"#{name}").border_title = name
        self.set_interval(1.0, self._second)
        self.say_status()
        self.head()
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        """After the first picture: whatever runs."""
        self.begun = True
        self.look_at_runs()
        if live := self.live_runs():
            self.watch_run(live[0])

    def on_resize(self) -> None:
        self.call_after_refresh(self.redraw)
        self.call_after_refresh(self.head)

    def on_screen_resume(self) -> None:
        if self.begun:
            self.look_at_runs()

    @on(Chosen)
    def _chosen(self) -> None:
        """Say where we are, and what the choice changed in the whole configuration."""
        self.head()

    def look_at_runs(self) -> None:
        """Which runs live, and in which order they have the card."""
        from engine.runs import run_dir

        self.places = self.queue()
        placed = {turn.run for turn in self.places}
        self.others = [
            run for run in self.read_all(run_dir.iterate(self.runs)) if run.path not in placed and run.is_live()
        ]
        self.head()

    def live_runs(self) -> list[RunDir]:
        """Of this folder: those that have a card, those that wait in their order, those without a place."""
        from engine.runs import run_dir

        placed = [run_dir.RunDir(turn.run) for turn in self.places if turn.run.parent == self.runs]
        placed.sort(key=lambda run: next(turn.place for turn in self.places if turn.run == run.path))
        rest = [run for run in self.read_all(run_dir.iterate(self.runs)) if run not in placed and run.is_live()]
        return placed + sorted(rest, key=lambda run: run.name)

    def head(self) -> None:
        """Host, choice, live runs; below it what the choice is about and what it changed."""
        choosing, width = self.choosing, self.size.width
        watched = self.watched.path if self.watched else None
        live = live_runs(self.places, len(self.others), watched, width - 24)
        name = choosing.choice.name if choosing.effective else ""
        self.query_one("#head", Static).update(head_line(choosing.effective, name, live, width))
        about = choice_lines(choosing.effective, choosing.changed, choosing.before, width) if choosing.begun else []
        self.query_one("#about", Static).update(Content("\n").join(about))

    @on(Refused)
    def _refused(self, message: Refused) -> None:
        self.tell(message.why, severity="error")
        self.head()

    @on(Picked)
    def _picked(self) -> None:
        self.query_one(LogPane).focus()  # so that the next enter starts

    def action_preset(self, slot: int) -> None:
        self.choosing.choose_slot(slot)

    def action_method(self) -> None:
        self.choosing.next_method()

    def action_data(self) -> None:
        self.set_focus(self.query_one("#data"))  # at once: keys that were typed ahead are meant for it

    def show_run(self, run: RunDir) -> None:
        self.watch_run(run)
        self.look_at_runs()

    def on_sampled(self, message: Sampled) -> None:
        from tui.preview.memory_forecast import room_of

        self.sample = message.sample
        self.query_one(MachinePane).feed(message.sample)
        self.choosing.measure(room_of(message.sample, self.on_the_card(), steady=True))
        self.query_one(MachinePane).planned = self._planned()

    def _planned(self) -> int | None:
        """Bytes foreseen, by the formula: of the watched run while it lives, else of what is chosen."""
        choosing = self.choosing
        question = (self.watched if self.live else None, choosing.effective, choosing.room)
        if question != self.foreseen[0]:
            from tui.preview.memory_forecast import foresee

            self.foreseen = question, foresee(*question)
        return self.foreseen[1]

    def _second(self) -> None:
        if self.queue() != self.places or self._is_new() or not all(run.is_live() for run in self.others):
            self.look_at_runs()
        if self.live and self.state is not None:
            self.redraw()

    def _is_new(self) -> bool:
        """Whether a run was made a moment ago: one begun with --now shows in no queue."""
        with contextlib.suppress(OSError):
            return time.time() - self.runs.stat().st_mtime < NEW_SECONDS
        return False

    def action_stop(self) -> None:
        self.stop_run(self.watched)

    def action_pause(self) -> None:
        self.pause_run(self.watched)

    def action_live(self) -> None:
        """Watch the next live run: the one that has the card, then those that wait."""
        self.look_at_runs()
        runs = self.live_runs()
        if not runs:
            self.tell(f"No active runs in this folder. {running_elsewhere(self.runs)}".rstrip(), severity="warning")
            return
        if runs == [self.watched]:
            self.tell("no other run is live")
        here = runs.index(self.watched) if self.watched in runs else -1
        self.watch_run(runs[(here + 1) % len(runs)])

    def action_presets(self) -> None:
        from tui.screens.presets import PresetsScreen

        def chosen(name: str | None) -> None:
            if name:
                self.choosing.choose(self.choosing.choice.with_preset(name))
            else:
                self.choosing.choose_again()

        self.choosing.begin()
        self.app.push_screen(PresetsScreen(self.choosing.choice, self.choosing.effective), chosen)

    def action_methods(self) -> None:
        from tui.preview.method_table import methods_text
        from tui.screens.text import TextScreen

        choosing = self.choosing
        choosing.begin()
        if choosing.effective is not None:
            self.app.push_screen(TextScreen("methods", methods_text(choosing.choice, choosing.found, choosing.room)))

    def action_resume(self) -> None:
        self.resume_run(self.watched)

    def action_runs(self) -> None:
        from tui.screens.runs import RunsScreen

        def chosen(run: RunDir | None) -> None:
            if run is not None:
                self.watch_run(run)

        self.app.push_screen(RunsScreen(self.runs), chosen)

    def action_ladder(self) -> None:
        from tui.screens.ladder import LadderScreen

        self.app.push_screen(LadderScreen(self.runs, self.ascii_only))

    async def action_ask_word(self, what: str) -> None:
        """A line to type a word into, made when it is first asked for."""
        from tui.widgets.word_input import WordInput

        if not self.query(WordInput):
            await self.query_one("#middle").mount(WordInput())
        self.query_one(WordInput).ask(what)

    @on(Word)
    def _word(self, message: Word) -> None:
        log = self.query_one(LogPane)
        {"filter": log.filter, "find": log.find}[message.what](message.word)
        if message.done:
            log.focus()

    def action_config(self) -> None:
        from tui.screens.text import TextScreen, config_text

        self.choosing.begin()
        chosen = self.choosing.effective
        if chosen is not None:
            self.app.push_screen(TextScreen(f"configuration of {self.choosing.choice.name}", config_text(chosen)))

    def action_pane(self, name: str, what: str) -> None:
        """What a pane itself does on a key of the bench: its method `action_WHAT`."""
        getattr(self.query_one(f"#{name}"), f"action_{what}")()
