"""Stops, pauses, resumes and repeats a run, on the bench and in the list of runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.config.errors import RunFailed, UserError
from tui.screens.base import BaseScreen
from tui.screens.dialogs import ConfirmScreen
from tui.settings import app_keys

if TYPE_CHECKING:  # imported where they are used: the first frame shows no run
    from engine.runs.run.run_dir import RunDir


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
        except (UserError, RunFailed) as error:
            self._screen.tell(str(error), severity="error", timeout=10)
            return False
        return True

    def _signal(self, send: Callable[[RunDir], None], run: RunDir) -> bool:
        """Whether the worker received the signal; else a notification says why not."""
        try:
            return self.report_errors(lambda: send(run))
        except ProcessLookupError:
            self._screen.tell(f"{run.name} has just ended", severity="warning")
            return False
