"""The keys of the main screen: one method per key, which acts on the watched run or opens a screen."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.binding import BindingType
from textual.widget import Widget

from engine.runs.run.folder import running_elsewhere
from tui.commands import bindings
from tui.screens.base import RunActions
from tui.screens.bench import BenchView
from tui.selection import DATA, DEVICE
from tui.widgets.data_list import DataList, SettingsSuggested
from tui.widgets.selection_pane import ItemPicked, SelectionChanged

if TYPE_CHECKING:  # imported where they are used: the first frame shows no run
    from engine.runs.run.run_dir import RunDir
    from tui.preview.launches import Launch
    from tui.selection import Selection


WORD_PLACEHOLDERS = {"filter": "show only lines that contain …", "find": "find a word, from the latest line up …"}
"""What a word is asked for -> what the input line shows while it is empty."""


REPEATED_SECONDS = 1.0
"""After a start: enter still means the launch screen, which has closed."""


class BenchScreen(BenchView, RunActions[None]):
    """The main screen with its keys. Screens above it are imported when they are opened."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("bench")
    resume_command = "bench.resume"

    def select_preset(self, name: str) -> None:
        self.selection_pane.select(self.selection_pane.selection.with_preset(name))

    def take_preset(self, name: str) -> None:
        """Select a preset; the focus goes to the log, so that enter starts a run also where a list had it."""
        self.select_preset(name)
        self.log_pane.focus()

    def select(self, selection: Selection | None) -> None:
        """Take a selection that was changed on another screen; None for none."""
        if selection is not None and selection != self.selection_pane.selection:
            self.selection_pane.select(selection)

    def action_method(self) -> None:
        if fitting := self.fitting()[1:]:  # as the status line says
            self.select(fitting[0].selection)
            self.action_prepare()
            return
        self.selection_pane.next_method()
        self.log_pane.focus()

    def action_next_device(self) -> None:
        """Select the next GPU with enough free memory for the selected run; without another one list all devices."""
        pane = self.selection_pane
        pane.select_initial()
        fitting = self.machine.fitting_devices(pane.effective.config, pane.longest) if pane.effective else []
        used = self.machine.selected_device
        if not [device for device in fitting if device != used]:
            self.action_devices()
            return
        at = fitting.index(used) + 1 if used in fitting else 0
        device = fitting[at % len(fitting)]
        pane.select(pane.selection.with_setting(DEVICE, device))
        self.log_pane.focus()

    def action_devices(self) -> None:
        from tui.screens.processes import DevicesScreen

        def closed(device: str | None) -> None:
            if device is not None:
                self.selection_pane.select(self.selection_pane.selection.with_setting(DEVICE, device))

        self.selection_pane.select_initial()
        self.app.push_screen(DevicesScreen(str(self.selection_pane.device), self.machine), closed)

    def action_data(self) -> None:
        self.open_lists()
        self.set_focus(self.query_one("#data"))  # at once: keys typed ahead are meant for the list

    def action_new(self) -> None:
        if self.log_pane.find_word:
            self.log_pane.action_next()
        else:
            self.action_prepare()

    def action_start(self) -> None:
        """Prepare a run; after one that ran out of memory, start what fits. Not just after a start."""
        if time.monotonic() - self.started_at < REPEATED_SECONDS:
            return
        if not (fitting := self.fitting()):
            self.action_prepare()
            return
        from engine.runs.start import start_run
        from tui.preview.launches import run_command

        selection = fitting[0].selection
        if self.is_starting:
            return
        with self.errors_told():
            start = partial(start_run, command=run_command(selection, self.runs, wait=True))
            self.start_in_thread(partial(start, self.runs, selection.name, selection.effective()), self.show_run)

    def action_prepare(self) -> None:
        from tui.preview.launches import RunLaunch

        self.selection_pane.select_initial()
        if self.selection_pane.effective is not None and not self.is_starting:
            self._open_launch(RunLaunch)

    def action_run_ladder(self) -> None:
        """Show what a ladder of all methods with one seed will do; start it on enter."""
        from tui.preview.launches import LadderLaunch

        self._open_launch(LadderLaunch)

    def _open_launch(self, kind: type[Launch]) -> None:
        """Open the launch screen; the options that were changed there stay in the selection."""
        from tui.preview.launches import LadderLaunch, run_command
        from tui.screens.launching import LaunchAnswer, LaunchScreen

        def answered(closed: LaunchAnswer | None) -> None:
            if closed is None:
                return
            self.select(closed.launch.selection)
            if closed.answer == "back":
                return
            from engine.runs.start import start_ladder, start_run

            launch, wait = closed.launch, closed.answer == "start"
            if isinstance(launch, LadderLaunch):
                self.start_in_thread(partial(start_ladder, self.runs, launch.plan), lambda ladder: self.action_ladder())
                return
            name, command = launch.selection.name, run_command(launch.selection, self.runs, wait)
            fingerprint = screen.report.fingerprint  # '' if the data was not checked
            start = partial(start_run, wait=wait, data_fingerprint=fingerprint, command=command)
            self.start_in_thread(partial(start, self.runs, name, launch.effective), self.show_run)

        with self.errors_told():
            shown = kind.of(self.selection_pane.selection, self.runs, self.machine.launch_context)
            screen = LaunchScreen(shown, self.checks)
            self.app.push_screen(screen, answered)

    def action_watch_next(self) -> None:
        """Watch the next live run: the one that uses the GPU, then those that wait, then timing probes of ladders."""
        from engine.runs.queue.device_queue import is_timing_probe
        from engine.runs.run.run_dir import RunDir

        self.refresh_live_runs()
        probes = [turn for turn in self.live_runs.turns if is_timing_probe(turn.run)]
        runs = [*self.live_runs.live(), *(RunDir(turn.run) for turn in probes if turn.home == self.runs)]
        watched = self.follower.run
        if not runs:
            self.tell(f"No active runs in this folder. {running_elsewhere(self.runs)}".rstrip(), severity="warning")
            return
        if runs == [watched]:
            self.tell("no other active run")
            return
        position = runs.index(watched) if watched in runs else -1
        self.watch_run(runs[(position + 1) % len(runs)])

    def action_presets(self) -> None:
        from tui.screens.presets import PresetsScreen

        pane = self.selection_pane

        def closed(name: str | None) -> None:
            if name:
                self.select_preset(name)
            else:
                pane.reload()

        pane.select_initial()
        self.app.push_screen(PresetsScreen(pane.selection, pane.effective, pane.presets), closed)

    def action_models(self) -> None:
        from tui.screens.models import ModelsScreen

        pane = self.selection_pane
        pane.select_initial()
        if pane.effective is not None:
            self.app.push_screen(ModelsScreen(pane.selection, pane.budget), self.select)

    def action_config(self) -> None:
        from tui.screens.configuration import ConfigurationScreen

        pane = self.selection_pane
        pane.select_initial()
        if pane.effective is not None:
            screen = ConfigurationScreen(pane.selection, self.runs, self.machine.launch_context, self.checks)
            self.app.push_screen(screen, self.select)

    def action_charts(self) -> None:
        from tui.screens.charts import ChartsScreen

        self.app.push_screen(ChartsScreen(self.runs, lambda: self.follower.state))

    def action_processes(self) -> None:
        from tui.screens.processes import ProcessesScreen

        self.app.push_screen(ProcessesScreen(self.machine))

    def action_compare(self) -> None:
        """List the runs with the watched one marked, to mark those that it is compared with."""
        if runs := self.finished_runs("compare"):
            self.action_runs(runs[0].name)

    def action_runs(self, marked: str = "") -> None:
        from tui.screens.runs import ContinueFrom, RunsScreen

        def closed(run: RunDir | ContinueFrom | None) -> None:
            if isinstance(run, ContinueFrom):
                from tui.preview.launches import selection_from_run

                with self.errors_told():  # select it, and show what the next run will do
                    self.select(selection_from_run(self.selection_pane.selection, run.run))
                    self.action_prepare()
            elif run is not None:
                self.watch_run(run)

        self.app.push_screen(RunsScreen(self.runs, marked), closed)

    def has_finished_run(self) -> bool:
        state = self.follower.state
        return state is not None and state.end is not None and state.end.status == "finished"

    def finished_runs(self, purpose: str) -> list[RunDir]:
        """The watched run."""
        if self.follower.run is not None and self.has_finished_run():
            return [self.follower.run]
        self.tell("watch a finished run first", severity="warning")
        return []

    def action_export(self) -> None:
        from tui.screens.exporting import ExportScreen, exportable

        if offered := [target for run in self.finished_runs("export") if (target := exportable(run.name, run))]:
            self.app.push_screen(ExportScreen(offered))

    def action_clear(self) -> None:
        self.query("#path").set(display=False)
        self.query_one(DataList).suggest()
        if self.lists_open:
            self.lists_open = False
            self.log_pane.focus()
            self.redraw()
            return
        self.log_pane.find("")
        self.log_pane.filter("")
        self.query("#word").remove()

    def action_zoom(self) -> None:
        if self.maximized is not None:
            self.minimize()
        elif self.focused is not None:
            self.maximize(self.focused, container=False)

    def action_jump(self) -> None:
        from tui.screens.dialogs import JumpScreen

        panes: dict[str, Widget] = {}
        for pane in (*self.selection_pane.children, *self.query(".pane")):
            letters = (getattr(pane, "letter", ""), *(pane.id or ""))
            free = next((letter for letter in letters if letter and letter not in panes), "")
            if free and pane.can_focus and pane not in panes.values():
                panes[free] = pane

        def closed(letter: str | None) -> None:
            if (pane := panes.get(letter or "")) is not None:
                if pane.parent is self.selection_pane:
                    self.open_lists()
                self.set_focus(pane)

        self.app.push_screen(JumpScreen({letter: pane.id or "" for letter, pane in panes.items()}), closed)

    def action_ladder(self, index: int = 0) -> None:
        """Show a ladder of this folder, counted from the latest."""
        from tui.screens.ladder import LadderScreen

        self.app.push_screen(LadderScreen(self.runs, index))

    async def action_ask_word(self, purpose: str) -> None:
        """Ask for a word to filter the log by or to find in it; the input is created when it is first needed."""
        from tui.screens.table_screen import ValueInput

        log = self.log_pane
        if not self.query("#word"):
            await self.mount(ValueInput(partial(self._input_hidden, log.focus), id="word"), before="#next")
            self.redraw()
        text, take = (log.filter_word, log.filter) if purpose == "filter" else (log.find_word, log.find)
        typed = log.filter if purpose == "filter" else None
        self.query_one("#word", ValueInput).ask(text, WORD_PLACEHOLDERS[purpose], take, typed, escape="")

    def action_pane(self, name: str, what: str) -> None:
        getattr(self.query_one(f"#{name}"), f"action_{what}")()

    @on(SelectionChanged)
    def _selection_changed(self) -> None:
        self.machine.device = self.selection_pane.device
        self.show_head()

    @on(ItemPicked)
    def action_focus_log(self) -> None:
        """Return from the lists, so that the next enter starts a run."""
        self.log_pane.focus()

    @on(SettingsSuggested)
    def _settings_suggested(self, message: SettingsSuggested) -> None:
        """Show the columns, the suggested settings and rows with them; enter takes them."""
        from tui.screens.dialogs import SuggestionScreen

        data, preview, pane = message.data, message.preview, self.selection_pane
        if not self.is_current or self.is_input_shown:
            self.query_one(DataList).offered.discard(data)  # so that it is offered again
            return

        def answered(yes: bool | None) -> None:
            selection = pane.selection
            if yes and selection.data == data:
                for key, value in preview.suggested.items():
                    selection = selection.with_setting(f"data.{key}", value)
                pane.select(selection)
                self.log_pane.focus()  # the next enter starts a run

        self.app.push_screen(SuggestionScreen(data, preview), answered)

    def action_inspect_data(self) -> None:
        """Inspect the dataset under the cursor; asks first if that downloads it from the Hub. One whose columns have to
        be chosen is selected, which asks for them.
        """
        listed = self.query_one(DataList)
        if (dataset := listed.current) is None:
            return
        data = dataset.id
        if (preview := listed.previews.get(data)) is not None and preview.suggested:
            listed.offered.discard(data)
            if data == listed.selected_id:
                listed.suggest()
            else:
                self.selection_pane.select_data(data)
            return
        if not dataset.on_the_hub:
            self._open_inspector(data)
            return

        what = f"Inspecting {data} downloads it from the Hub, which requires network access. Offline, only "
        question = f"{what}sets in the local Hub cache can be read. Continue?"
        self.confirm(question, lambda: self._open_inspector(data))

    def _open_inspector(self, data: str) -> None:
        from tui.data.datasets import NOT_TEXT, is_utf8
        from tui.screens.inspector import InspectorScreen

        def answered(selected: bool | None) -> None:
            if selected:
                self.selection_pane.select_data(data)
                self.log_pane.focus()

        if not is_utf8(data):
            self.tell(NOT_TEXT, severity="error")
            return
        with self.errors_told():
            effective = self.selection_pane.selection.with_setting(DATA, data).effective()
            self.app.push_screen(InspectorScreen(effective), answered)

    async def action_add_data(self) -> None:
        """Ask for a path or a Hub id; the input is created when it is first needed."""
        from tui.screens.adding import PathInput

        if not self.query(PathInput):
            await self.mount(PathInput(partial(self._input_hidden, self.action_data)), before="#next")
        self.query_one(PathInput).open(self._add_data)

    def _add_data(self, data: str) -> bool:
        """Select the dataset; False if it cannot be selected, with a notification."""
        self.selection_pane.select_data(data)
        return self.selection_pane.selection.data == data

    def _input_hidden(self, focus: Callable[[], object]) -> None:
        """Move the focus, and offer settings that a dataset needs: they were not offered while a text was typed."""
        focus()
        self.query_one(DataList).suggest()
