"""The bench: choose data, method and preset; start; watch loss, machine and log."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Footer, Static

from engine.contract import ladderdir, launch, rundir
from engine.contract.errors import RunFailed, UserError
from engine.contract.ladder import Plan
from engine.contract.ladderplan import make_plan
from engine.contract.preset import Effective
from engine.contract.rundir import RunDir
from engine.contract.text import visible
from tui.commands import bindings
from tui.machine import MachineSample, Sampled
from tui.runstate import RunState
from tui.screens.acting import ActingScreen
from tui.screens.ask import AskScreen
from tui.watcher import Fresh, Liveness, Opened, Printed, Watcher
from tui.widgets.choosing import ChoosingPane, Chosen, Picked, Refused
from tui.widgets.log_pane import LogPane
from tui.widgets.loss_pane import LossPane
from tui.widgets.machine_pane import MachinePane
from tui.widgets.status_line import status
from tui.widgets.word_input import Word, WordInput

if TYPE_CHECKING:
    from tui.app import Workbench


class BenchScreen(ActingScreen[None]):
    """Everything on one screen."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("bench")
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]
    CSS_PATH = "bench.tcss"

    app: Workbench

    def __init__(self, runs: Path, ascii_only: bool = False) -> None:
        super().__init__()
        self.runs, self.ascii_only = runs, ascii_only
        self.watcher: Watcher | None = None
        self.state: RunState | None = None
        self.live: bool | None = None
        self.died = ""
        self.sample: MachineSample | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        with Horizontal(id="body"):
            yield ChoosingPane(id="left")
            with Vertical(id="middle"):
                yield LossPane(self.runs, self.ascii_only, id="loss")
                yield LogPane(id="log")
                yield WordInput()
            yield MachinePane(self.ascii_only, id="machine")
        yield Static(id="status")
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        for name in ("data", "method", "preset", "loss", "log", "machine"):
            self.query_one(f"#{name}").border_title = name
        self.query_one(LogPane).focus()  # enter starts; tab goes to the lists
        self.set_interval(1.0, self._second)
        last = max(rundir.iterate(self.runs), key=lambda run: run.name, default=None)
        if last is not None and last.is_live():
            self.watch_run(last)

    def on_resize(self) -> None:
        self.call_after_refresh(self._redraw)

    @property
    def choosing(self) -> ChoosingPane:
        return self.query_one(ChoosingPane)

    @on(Chosen)
    def _chosen(self, message: Chosen) -> None:
        """Say where we are, and what the choice changed in the whole configuration."""
        self._head()
        if message.changed:
            more = f" and {len(message.changed) - 3} more" if len(message.changed) > 3 else ""
            title = message.effective.config.title or message.name
            self.tell(", ".join(message.changed[:3]) + more, title=title)

    def _head(self) -> None:
        """Host, choice, and how many runs live."""
        chosen, name = self.choosing.effective, self.choosing.choice.name
        if chosen is None:
            return
        config = chosen.config
        what = f"{config.title or name} · {config.method} · {config.model.id} on {config.data.id}"
        live = sum(run.is_live() for run in rundir.iterate(self.runs))
        runs = f"  ·  {live} live" if live else ""
        line = Content.assemble((" ftbench ", "bold reverse"), visible(f" {socket.gethostname()} · {what}{runs}"))
        self.query_one("#head", Static).update(line)

    @on(Refused)
    def _refused(self, message: Refused) -> None:
        self.tell(message.why, severity="error")

    @on(Picked)
    def _picked(self) -> None:
        self.query_one(LogPane).focus()  # so that the next enter starts

    def action_preset(self, slot: int) -> None:
        self.choosing.choose_slot(slot)

    def action_method(self) -> None:
        self.choosing.next_method()

    def action_data(self) -> None:
        self.query_one("#data").focus()

    def action_start(self) -> None:
        """Ask, then launch and watch."""
        chosen = self.choosing.effective
        if chosen is None:
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self.start(chosen)

        self.app.push_screen(AskScreen(self._what_will_happen(chosen)), answered)

    def _what_will_happen(self, chosen: Effective) -> str:
        config = chosen.config
        length = f"{config.train.steps} steps" if config.train.steps else f"{config.train.epochs:g} epochs"
        others = [card.others for card in self.sample.cards if card.others] if self.sample else []
        foreign = (
            f"\n{sum(map(len, others))} other processes are on the card: its figures will not be this run's alone."
        )
        notes = "".join(f"\n{note}" for note in chosen.notes)
        return (
            f"Start {config.method} of {config.model.id} on {config.data.id}: {length}, batch {config.train.batch}, "
            f"learning rate {config.train.learning_rate:g}?{foreign if others else ''}{notes}"
        )

    def start(self, chosen: Effective) -> None:
        try:
            run = rundir.create(self.runs, self.choosing.choice.name, chosen)
        except (UserError, RunFailed) as error:
            self.tell(str(error), severity="error", timeout=10)
            return
        self.launch_run(run)

    def show_run(self, run: RunDir) -> None:
        self.watch_run(run)

    def watch_run(self, run: RunDir) -> None:
        """Show this run from its first event on."""
        if self.watcher:
            self.watcher.leave()
        self.state, self.live, self.died = None, None, ""
        self.watcher = Watcher(run, self.post_message)
        self.watcher.start()
        self.query_one("#loss").border_subtitle = visible(run.name, 60)
        self.query_one(LogPane).begin(run.name)

    @property
    def watched(self) -> RunDir | None:
        return self.watcher.watched if self.watcher else None

    @on(Opened)
    def _opened(self, message: Opened) -> None:
        if message.run == self.watched:
            self.state = message.state
            self._redraw()

    @on(Fresh)
    def _fresh(self, message: Fresh) -> None:
        if message.run == self.watched and self.state is not None:
            self.state.feed(message.events)
            self._log()
            if any(type(event).__name__ in ("Phase", "End", "Hello", "Plan") for event in message.events):
                self._redraw()

    @on(Liveness)
    def _liveness(self, message: Liveness) -> None:
        if message.run != self.watched:
            return
        self.live = message.live
        log = self.query_one(LogPane)
        self.died = log.last_words() if message.died else ""
        if message.died and len(log.views["output"]):
            log.see("output")
        self._redraw()
        self._head()

    @on(Printed)
    def _printed(self, message: Printed) -> None:
        if message.run == self.watched:
            self.query_one(LogPane).printed(message.piece)
            self._log()

    @on(Sampled)
    def _sampled(self, message: Sampled) -> None:
        self.sample = message.sample
        self.query_one(MachinePane).feed(message.sample)

    def _second(self) -> None:
        if self.live and self.state is not None:
            self._redraw()

    def _redraw(self) -> None:
        """Curves, log and status; the machine pane draws itself once a second."""
        loss = self.query_one(LossPane)
        loss.state = self.state
        loss.redraw()
        self._log()
        self.query_one("#status", Static).update(status(self.state, self.live, self.died, self.ascii_only))

    def _log(self) -> None:
        log = self.query_one(LogPane)
        if self.state is not None:
            log.views["events"] = self.state.log
        log.redraw()

    def worker(self) -> int | None:
        """The watched worker's process, for the sampler's thread."""
        run = self.watched
        return run.pid() if run else None

    def action_stop(self) -> None:
        self.stop_run(self.watched)

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

    def action_climb(self) -> None:
        """A ladder of the three methods with what is chosen, one seed."""
        choice = self.choosing.choice
        try:
            plan = make_plan(choice.preset, [], choice.overrides(), command="ftbench, key L")
        except UserError as error:
            self.tell(error.line, severity="error")
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._climb(plan)

        rungs = ", ".join(rung.name for rung in plan.rungs)
        what = f"Climb a ladder of base, {rungs} with {choice.name}, one seed?"
        self.app.push_screen(AskScreen(f"{what} A few steps of each are measured first."), answered)

    def _climb(self, plan: Plan) -> None:
        try:
            launch.launch_ladder(ladderdir.create(self.runs, plan))
        except (UserError, RunFailed) as error:
            self.tell(str(error), severity="error")
            return
        self.action_ladder()

    def action_ask_word(self, what: str) -> None:
        self.query_one(WordInput).ask(what)

    @on(Word)
    def _word(self, message: Word) -> None:
        log = self.query_one(LogPane)
        {"filter": log.filter, "find": log.find}[message.what](message.word)
        if message.done:
            log.focus()

    def action_config(self) -> None:
        from tui.screens.text import TextScreen, config_text

        chosen = self.choosing.effective
        if chosen is not None:
            self.app.push_screen(TextScreen(f"configuration of {self.choosing.choice.name}", config_text(chosen)))

    def action_pane(self, name: str, what: str) -> None:
        """What a pane itself does on a key of the bench: its method `action_WHAT`."""
        getattr(self.query_one(f"#{name}"), f"action_{what}")()
