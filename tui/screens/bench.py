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
from textual.widgets import Footer, Input, OptionList, Static
from textual.widgets.option_list import Option

from engine.contract import ladderdir, launch, library, rundir
from engine.contract.errors import RunFailed, UserError
from engine.contract.ladder import Plan
from engine.contract.ladderplan import make_plan
from engine.contract.preset import Effective
from engine.contract.rundir import RunDir
from engine.contract.schema import METHODS
from engine.contract.text import visible
from tui.choice import Choice, changes
from tui.commands import bindings
from tui.machine import MachineSample, Sampled
from tui.runstate import RunState
from tui.screens.ask import AskScreen
from tui.screens.base import BaseScreen
from tui.watcher import Fresh, Liveness, Opened, Watcher
from tui.widgets.log_pane import LogPane
from tui.widgets.loss_pane import LossPane
from tui.widgets.machine_pane import MachinePane
from tui.widgets.status_line import status

if TYPE_CHECKING:
    from tui.app import Workbench

ABOUT = {"qlora": "adapters, 4 bits", "lora": "adapters", "full": "every weight"}
EMBEDDED = ("tickets",)
"""Data sets that come along."""
MOST_FILES = 200


class BenchScreen(BaseScreen[None]):
    """Everything on one screen."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("bench")
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]
    CSS_PATH = "bench.tcss"

    app: Workbench

    def __init__(self, runs: Path, ascii_only: bool = False) -> None:
        super().__init__()
        self.runs, self.ascii_only = runs, ascii_only
        self.choice = Choice()
        self.chosen: Effective | None = None
        self.watcher: Watcher | None = None
        self.state: RunState | None = None
        self.live: bool | None = None
        self.died = ""
        self.sample: MachineSample | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        with Horizontal(id="body"):
            with Vertical(id="left"):
                yield OptionList(id="data", compact=True)
                yield OptionList(id="method", compact=True)
                yield OptionList(id="preset", compact=True)
            with Vertical(id="middle"):
                yield LossPane(self.ascii_only, id="loss")
                yield LogPane(id="log")
                yield Input(placeholder="only log lines that hold …", id="word", compact=True)
            yield MachinePane(self.ascii_only, id="machine")
        yield Static(id="status")
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        for name in ("data", "method", "preset", "loss", "log", "machine"):
            self.query_one(f"#{name}").border_title = name
        self._list_data()
        self._list_presets()
        self._choose(self.choice)
        self.query_one(LogPane).focus()  # enter starts; tab goes to the lists
        self.set_interval(1.0, self._second)
        last = max(rundir.iterate(self.runs), key=lambda run: run.name, default=None)
        if last is not None and last.is_live():
            self.watch_run(last)

    def on_resize(self) -> None:
        self.call_after_refresh(self._redraw)

    # What is chosen

    def _choose(self, choice: Choice) -> None:
        """Another choice, and what it changes in the whole configuration; a refused one leaves the old."""
        try:
            chosen = choice.effective()
        except UserError as error:
            self.tell(visible(error.line), severity="error")
            return
        changed = changes(self.chosen, chosen)
        self.choice, self.chosen = choice, chosen
        self._list_methods()
        self._head()
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            self.tell(visible(", ".join(changed[:3]) + more, 300), title=visible(chosen.config.title or choice.name))

    def _list_data(self) -> None:
        options = [Option(Content(name), id=name) for name in EMBEDDED]
        files = sorted(path for path in Path.cwd().iterdir() if path.suffix in library.DATA_SUFFIXES)
        options += [Option(Content(visible(path.name)), id=str(path)) for path in files[:MOST_FILES]]
        self.query_one("#data", OptionList).set_options(options)

    def _list_methods(self) -> None:
        assert self.chosen is not None
        pane = self.query_one("#method", OptionList)
        pane.set_options([Option(Content(f"{method:<6} {ABOUT[method]}"), id=method) for method in METHODS])
        pane.highlighted = METHODS.index(self.chosen.config.method)

    def _list_presets(self) -> None:
        options = []
        for listed in library.list_presets():
            slot = listed.preset.values.get("slot", " ") if listed.preset else "!"
            title = listed.preset.values.get("title", listed.name) if listed.preset else f"{listed.name}: broken"
            options.append(Option(Content(visible(f"{slot} {title}")), id=listed.name, disabled=listed.preset is None))
        self.query_one("#preset", OptionList).set_options(options)

    def _head(self) -> None:
        assert self.chosen is not None
        config = self.chosen.config
        what = f"{config.title or self.choice.name} · {config.method} · {config.model.id} on {config.data.id}"
        live = sum(run.is_live() for run in rundir.iterate(self.runs))
        runs = f"  ·  {live} live" if live else ""
        host = socket.gethostname()
        line = Content.assemble((" ftbench ", "bold reverse"), f" {visible(host)} · {visible(what)}{runs}")
        self.query_one("#head", Static).update(line)

    @on(OptionList.OptionSelected, "#data")
    def _data_selected(self, event: OptionList.OptionSelected) -> None:
        self._choose(self.choice.with_data(event.option_id))
        self.query_one(LogPane).focus()  # so that the next enter starts

    @on(OptionList.OptionSelected, "#method")
    def _method_selected(self, event: OptionList.OptionSelected) -> None:
        self._choose(self.choice.with_method(next(m for m in METHODS if m == event.option_id)))
        self.query_one(LogPane).focus()

    @on(OptionList.OptionSelected, "#preset")
    def _preset_selected(self, event: OptionList.OptionSelected) -> None:
        self._choose(self.choice.with_preset(event.option_id or self.choice.preset))
        self.query_one(LogPane).focus()

    def action_preset(self, slot: int) -> None:
        for listed in library.list_presets():
            if listed.preset and listed.preset.values.get("slot") == slot:
                self._choose(self.choice.with_preset(listed.name))
                return
        self.tell(f"no preset asked for key {slot}", severity="warning")

    def action_method(self) -> None:
        assert self.chosen is not None
        number = METHODS.index(self.chosen.config.method)
        self._choose(self.choice.with_method(METHODS[(number + 1) % len(METHODS)]))

    # What runs

    def action_start(self) -> None:
        """Ask, then launch and watch."""
        assert self.chosen is not None
        chosen = self.chosen

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
            run = rundir.create(self.runs, self.choice.name, chosen)
            launch.wait_for_hello(run, launch.launch(run))
        except (UserError, RunFailed) as error:
            self.tell(visible(str(error)), severity="error", timeout=10)
            return
        self.watch_run(run)

    def watch_run(self, run: RunDir) -> None:
        """Show this run from its first event on."""
        if self.watcher:
            self.watcher.leave()
        self.state, self.live, self.died = None, None, ""
        self.watcher = Watcher(run, self.post_message)
        self.watcher.start()
        self.query_one("#loss").border_subtitle = visible(run.name, 60)

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
        words = f"its last words: {message.words}" if message.words else "without a word (killed, or out of memory)"
        self.died = words if message.died else ""
        self._redraw()
        self._head()

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
        log.source = self.state.log if self.state else ()
        log.redraw()

    def worker(self) -> int | None:
        """The watched worker's process, for the sampler's thread."""
        run = self.watched
        return run.pid() if run else None

    def action_stop(self) -> None:
        run = self.watched
        if run is None or not run.is_live():
            self.tell("nothing runs here", severity="warning")
            return

        def answered(yes: bool | None) -> None:
            if yes and run.is_live():
                launch.stop(run)

        self.app.push_screen(AskScreen(f"Stop {run.name} after its step, with a checkpoint?"), answered)

    def action_resume(self) -> None:
        run = self.watched
        if run is None or run.state() in ("live", "starting", "finished"):
            self.tell("nothing to resume", severity="warning")
            return
        size = run.events_file.stat().st_size if run.events_file.exists() else 0
        try:
            launch.wait_for_hello(run, launch.launch(run), size)
        except (UserError, RunFailed) as error:
            self.tell(visible(str(error)), severity="error")
            return
        self.watch_run(run)

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
        try:
            plan = make_plan(self.choice.preset, [], self.choice.overrides(), command="ftbench, key L")
        except UserError as error:
            self.tell(error.line, severity="error")
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._climb(plan)

        what = (
            f"Climb a ladder of base, {', '.join(rung.name for rung in plan.rungs)} with {self.choice.name}, one seed?"
        )
        self.app.push_screen(AskScreen(f"{what} A few steps of each are measured first."), answered)

    def _climb(self, plan: Plan) -> None:
        try:
            launch.launch_ladder(ladderdir.create(self.runs, plan))
        except (UserError, RunFailed) as error:
            self.tell(str(error), severity="error")
            return
        self.action_ladder()

    def action_filter(self) -> None:
        word = self.query_one("#word", Input)
        word.display = True
        word.focus()

    @on(Input.Changed, "#word")
    def _typed(self, event: Input.Changed) -> None:
        self.query_one(LogPane).filter(event.value)

    @on(Input.Submitted, "#word")
    def _entered(self) -> None:
        self.query_one("#word").display = False
        self.query_one(LogPane).focus()

    def action_config(self) -> None:
        from tui.screens.text import TextScreen, config_text

        assert self.chosen is not None
        self.app.push_screen(TextScreen(f"configuration of {self.choice.name}", config_text(self.chosen)))

    def action_view(self) -> None:
        self.query_one(LossPane).next_view()

    def action_log_scale(self) -> None:
        self.query_one(LossPane).toggle_log()

    def action_smooth(self) -> None:
        self.query_one(LossPane).next_smooth()
