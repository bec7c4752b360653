"""The commands of the bench: one method per key, which a controller carries out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tui.screens.base import BaseScreen
from tui.screens.live_runs import LiveRuns, RunFollower
from tui.screens.machine_context import MachineContext
from tui.screens.run_actions import RunActions, RunLauncher
from tui.screens.selection_actions import SelectionScreens
from tui.widgets.log_pane import LogPane
from tui.widgets.selection_pane import SelectionPane

if TYPE_CHECKING:  # imported where they are used: the first frame shows no run
    from engine.runs.run.run_dir import RunDir


class BenchActions(BaseScreen[None]):
    """Base class of the bench's screen."""

    runs: Path
    follower: RunFollower
    live_runs: LiveRuns
    actions: RunActions
    launcher: RunLauncher
    selection_screens: SelectionScreens
    machine: MachineContext
    lists_open: bool
    """Whether the user has opened the lists while a run is live."""

    def redraw(self) -> None:
        """Show the present state in all panes."""
        raise NotImplementedError

    def get_selection_pane(self) -> SelectionPane:
        return self.query_one(SelectionPane)

    selection_pane = property(get_selection_pane)

    @property
    def log_pane(self) -> LogPane:
        return self.query_one(LogPane)

    def leave(self) -> None:
        """The bench is closed: what has ended so far was shown."""
        from tui.history.endings import remember_visit

        remember_visit()

    def watch_run(self, run: RunDir) -> None:
        """Show this run from its first event."""
        raise NotImplementedError

    def refresh_live_runs(self) -> None:
        """Read again which runs are live and in which order they wait for the GPU."""
        raise NotImplementedError

    def take_preset(self, name: str) -> None:
        """Select a preset; the focus goes to the log, so that enter starts a run also where a list had it."""
        self.selection_pane.select(self.selection_pane.selection.with_preset(name))
        self.log_pane.focus()

    def run_to_resume(self) -> RunDir | None:
        """The run that the key resumes now."""
        raise NotImplementedError

    def open_lists(self) -> None:
        """Open the lists to select from."""
        raise NotImplementedError

    def action_method(self) -> None:
        self.selection_pane.next_method()
        self.log_pane.focus()

    def action_device(self) -> None:
        """List the devices with who uses and who waits for each, and take one."""
        from tui.screens.processes import DevicesScreen

        def closed(device: str | None) -> None:
            if device is not None:
                self.selection_pane.select_device(device)

        self.selection_pane.start()
        devices = self.machine.devices
        self.app.push_screen(DevicesScreen(devices, str(self.selection_pane.device), self.machine), closed)

    def action_data(self) -> None:
        self.open_lists()
        self.set_focus(self.query_one("#data"))  # at once: keys typed ahead are meant for the list

    def action_new(self) -> None:
        """Prepare a new run; while a search is active, go to its next match."""
        if self.log_pane.find_word:
            self.log_pane.action_next()
        else:
            self.action_start()

    def action_start(self) -> None:
        self.selection_pane.start()
        if self.selection_pane.effective is not None:
            self.launcher.open_run(self.selection_pane.selection)

    def action_run_ladder(self) -> None:
        self.launcher.open_ladder(self.selection_pane.selection)

    def action_stop(self) -> None:
        self.actions.stop(self.follower.run)

    def action_pause(self) -> None:
        self.actions.pause(self.follower.run)

    def action_resume(self) -> None:
        self.actions.resume(self.run_to_resume())

    def action_watch_next(self) -> None:
        """Watch the next live run: the one that uses the GPU, then those that wait, then timing probes of ladders."""
        self.refresh_live_runs()
        runs, watched = [*self.live_runs.in_order(), *self.live_runs.probes()], self.follower.run
        if not runs:
            self.tell(f"No active runs in this folder. {self.live_runs.elsewhere()}".rstrip(), severity="warning")
            return
        if runs == [watched]:
            self.tell("no other active run")
            return
        position = runs.index(watched) if watched in runs else -1
        self.watch_run(runs[(position + 1) % len(runs)])

    def action_presets(self) -> None:
        self.selection_screens.open_presets()

    def action_models(self) -> None:
        self.selection_screens.open_models()

    def action_methods(self) -> None:
        self.selection_screens.open_methods()

    def action_config(self) -> None:
        self.selection_screens.open_config()

    def action_charts(self) -> None:
        """Show all curves of the watched run, of several earlier runs, and what the model answers."""
        from tui.screens.charts import ChartsScreen

        self.app.push_screen(ChartsScreen(self.runs, lambda: self.follower.state))

    def action_processes(self) -> None:
        """List the processes on each GPU, and the workers of ftbench."""
        from tui.screens.processes import ProcessesScreen

        self.app.push_screen(ProcessesScreen({turn.pid: turn.run.name for turn in self.live_runs.turns}))

    def action_runs(self) -> None:
        from tui.screens.runs import ContinueFrom, RunsScreen

        def closed(run: RunDir | ContinueFrom | None) -> None:
            if isinstance(run, ContinueFrom):
                self.launcher.continue_run(self.selection_pane.selection, run.run)
            elif run is not None:
                self.watch_run(run)

        self.app.push_screen(RunsScreen(self.runs), closed)

    def _finished_run(self) -> RunDir | None:
        """The watched run if it has finished; else a notification."""
        run, state = self.follower.run, self.follower.state
        if run is not None and state is not None and state.end is not None and state.end.status == "finished":
            return run
        self.tell("watch a finished run first", severity="warning")
        return None

    def action_try_run(self) -> None:
        """Answer prompts with the watched run and its base."""
        from engine.runs.chat_client import OpenSession
        from tui.screens.trying import TryScreen

        if run := self._finished_run():
            self.app.push_screen(TryScreen(OpenSession(runs=[str(run.path)])))

    def action_export(self) -> None:
        """Export the watched run's model."""
        from tui.screens.exporting import ExportScreen, exportable

        if (run := self._finished_run()) and (offered := exportable(run.name, run)):
            self.app.push_screen(ExportScreen([offered]))

    def action_clear(self) -> None:
        """Close the lists, else end the search and the filter of the log."""
        if self.lists_open:
            self.lists_open = False
            self.log_pane.focus()
            self.redraw()
            return
        self.log_pane.find("")
        self.log_pane.filter("")
        for line in self.query("WordInput"):
            line.remove()

    def action_zoom(self) -> None:
        """Show only the pane with the focus, and return."""
        if self.maximized is not None:
            self.minimize()
        elif self.focused is not None:
            self.maximize(self.focused, container=False)

    def action_jump(self) -> None:
        """Ask for the letter of a pane, and focus it."""
        from tui.screens.dialogs import JumpScreen

        panes = {"d": "data", "m": "method", "p": "preset", "l": "loss", "o": "log", "v": "memory"}

        def closed(letter: str | None) -> None:
            if letter in panes:
                if letter in "dmp":
                    self.open_lists()
                self.set_focus(self.query_one(f"#{panes[letter]}"))

        self.app.push_screen(JumpScreen(panes), closed)

    def action_ladder(self) -> None:
        self.show_ladder()

    def show_ladder(self, index: int = 0) -> None:
        """Show a ladder of this folder, counted from the latest."""
        from tui.screens.ladder import LadderScreen

        self.app.push_screen(LadderScreen(self.runs, index))

    async def action_ask_word(self, purpose: str) -> None:
        """Open the word input, which is created when it is first needed."""
        from tui.widgets.inputs import WordInput

        if not self.query(WordInput):
            await self.mount(WordInput(), before="#next")
            self.redraw()
        self.query_one(WordInput).ask(purpose)

    def action_pane(self, name: str, what: str) -> None:
        """Call the method `action_WHAT` of a pane."""
        getattr(self.query_one(f"#{name}"), f"action_{what}")()
