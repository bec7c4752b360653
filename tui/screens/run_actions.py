"""Starts, stops, pauses, resumes and repeats runs, and opens the launch screen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config.errors import RunFailed, UserError
from tui.screens.base import BaseScreen
from tui.screens.dialogs import ConfirmScreen
from tui.selection import Selection
from tui.settings import app_keys

if TYPE_CHECKING:  # imported where they are used: the first frame shows no run
    from engine.runs.run.run_dir import RunDir
    from tui.preview.launch_context import DataCheckCache, LaunchContext
    from tui.preview.launches import RunLaunch


NOTHING_RUNNING = "no active run selected"


class RunActions:
    """Acts on the run that a screen gives."""

    def __init__(self, screen: BaseScreen[Any], show: Callable[[RunDir], object], resume: str) -> None:
        """show: shows a started run to the user. resume: id of the screen's command that resumes a run."""
        self._screen, self._show, self._resume = screen, show, resume

    def stop(self, run: RunDir | None) -> None:
        """Stop after asking; the run may end meanwhile."""
        from engine.runs import launch

        if run is None or not run.is_active():
            self._screen.tell(NOTHING_RUNNING, severity="warning")
            return

        def answered(yes: bool | None) -> None:
            if yes and run.is_active():
                self._signal(launch.stop, run)

        question = f"Stop {run.name}? It finishes its step and saves a checkpoint."
        self._screen.app.push_screen(ConfirmScreen(question), answered)

    def pause(self, run: RunDir | None) -> None:
        """Pause without asking: nothing is lost."""
        from engine.runs import launch

        if run is None or not run.is_active():
            self._screen.tell(NOTHING_RUNNING, severity="warning")
            return
        waits = any(turn.run == run.path and turn.place for turn in self._screen.queue())
        if self._signal(launch.pause, run):
            how = "it leaves the queue" if waits else "it finishes its step, saves a checkpoint and releases the GPU"
            key = app_keys(self._screen).of(self._resume)
            self._screen.tell(f"pausing {run.name}: {how}; press {key} to resume")

    def resume(self, run: RunDir | None) -> None:
        """Resume from the latest complete checkpoint."""
        from engine.runs.start import resume_run

        if run is None:
            self._screen.tell("no run to resume", severity="warning")
        elif self.report_errors(lambda: resume_run(run)):
            self._show(run)

    def repeat(self, run: RunDir) -> None:
        """Run the same frozen configuration in a new directory."""
        from engine.runs.start import repeat_run

        self.report_errors(lambda: self._show(repeat_run(run)))

    def report_errors(self, action: Callable[[], object]) -> bool:
        """Run an action; an error becomes a notification and False."""
        try:
            action()
        except UserError as error:
            self._screen.tell(error.line, severity="error", timeout=10)
        except RunFailed as error:
            self._screen.tell(str(error), severity="error", timeout=10)
        else:
            return True
        return False

    def _signal(self, send: Callable[[RunDir], None], run: RunDir) -> bool:
        """Whether the worker received the signal; else a notification says why not."""
        try:
            return self.report_errors(lambda: send(run))
        except ProcessLookupError:
            self._screen.tell(f"{run.name} has just ended", severity="warning")
            return False


class RunLauncher:
    """Starts what is selected.

    `context` returns the state of the machine, `show_run` and `show_ladders` bring what was started before the user,
    `changed` takes the selection with the options that were changed on the launch screen, `checked` is called when
    data was checked, so that the length of its longest row is known.
    """

    def __init__(
        self,
        screen: BaseScreen[Any],
        runs: Path,
        context: Callable[[], LaunchContext],
        show_run: Callable[[RunDir], object],
        show_ladders: Callable[[], object],
        changed: Callable[[Selection], object],
        checked: Callable[[], object],
    ) -> None:
        self._screen, self._runs, self._context = screen, runs, context
        self._show_run, self._show_ladders, self._changed = show_run, show_ladders, changed
        self._checked = checked
        self._checks: DataCheckCache | None = None

    @property
    def checks(self) -> DataCheckCache:
        """Data checks of earlier launches."""
        from tui.preview.launch_context import DataCheckCache

        self._checks = self._checks or DataCheckCache(self._checked)
        return self._checks

    def open_run(self, selection: Selection) -> None:
        """Show what a run of this selection will do; start it on enter."""
        from tui.preview.launches import RunLaunch
        from tui.screens.launching import LaunchAnswer, LaunchScreen

        def answered(closed: LaunchAnswer | None) -> None:
            if closed is None or not isinstance(closed.launch, RunLaunch):
                return
            self._changed(closed.launch.selection)
            if closed.answer != "back":
                self._start_run(closed.launch, closed.answer == "start", screen.report.fingerprint)

        try:
            launch = RunLaunch.of(selection, self._runs, self._context)
        except UserError as error:
            self._screen.tell(error.line, severity="error")
            return
        screen = LaunchScreen(launch, self.checks)
        self._screen.app.push_screen(screen, answered)

    def continue_run(self, selection: Selection, run: RunDir) -> None:
        """Select a finished run as the start of the next one, and show what that one will do."""
        from tui.preview.launches import selection_from_run

        try:
            selection = selection_from_run(selection, run)
        except UserError as error:
            self._screen.tell(error.line, severity="error")
            return
        self._changed(selection)
        self.open_run(selection)

    def open_ladder(self, selection: Selection) -> None:
        """Show what a ladder of all methods with one seed will do; start it on enter."""
        from engine.runs.start import start_ladder
        from tui.preview.launches import LadderLaunch
        from tui.screens.launching import LaunchAnswer, LaunchScreen

        try:
            launch = LadderLaunch.of(selection, self._runs, self._context)
        except UserError as error:
            self._screen.tell(error.line, severity="error")
            return

        def answered(closed: LaunchAnswer | None) -> None:
            if closed is None or not isinstance(closed.launch, LadderLaunch):
                return
            self._changed(closed.launch.selection)
            plan = closed.launch.plan
            if closed.answer != "back" and self._start(lambda: start_ladder(self._runs, plan)) is not None:
                self._show_ladders()

        self._screen.app.push_screen(LaunchScreen(launch, self.checks), answered)

    def _start_run(self, launch: RunLaunch, wait: bool, data_fingerprint: str) -> None:
        """Start a run on the rows with this fingerprint, '' where they were not checked; show it."""
        from engine.runs.start import start_run
        from tui.command_line import run_command

        command = run_command(launch.selection, self._runs, wait)
        run = self._start(
            lambda: start_run(
                self._runs,
                launch.selection.name,
                launch.effective,
                wait=wait,
                data_fingerprint=data_fingerprint,
                command=command,
            )
        )
        if run is not None:
            self._show_run(run)

    def _start(self, start: Callable[[], Any]) -> Any:
        """What was started; None, with a notification, where it was not."""
        try:
            return start()
        except (UserError, RunFailed) as error:
            self._screen.tell(str(error), severity="error", timeout=10)
            return None
