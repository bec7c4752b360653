"""Stops, pauses and resumes a run, on the bench and in the list of runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, TypeVar

from tui.screens.base import BaseScreen
from tui.settings import app_keys

if TYPE_CHECKING:  # imported where they are used: the first frame shows no run
    from engine.runs.run.run_dir import RunDir

R = TypeVar("R")


class RunActions(BaseScreen[R]):
    """A screen with keys that act on a run."""

    resume_command: ClassVar[str]
    """Id of the command that resumes a run."""

    def selected_run(self) -> RunDir | None:
        """The run that keys act on."""
        raise NotImplementedError

    def run_to_resume(self) -> RunDir | None:
        return self.selected_run()

    def show_run(self, run: RunDir) -> None:
        """Show a run that was started or resumed."""
        raise NotImplementedError

    def action_stop(self) -> None:
        """Stop after asking; the run may end meanwhile."""
        from engine.runs import start
        from tui.screens.dialogs import confirm

        if run := self._active_run():
            question = f"Stop {run.name}? It finishes its step and saves a checkpoint."
            confirm(self, question, lambda: self._signal(start.stop, run))

    def action_pause(self) -> None:
        """Pause without asking: nothing is lost."""
        from engine.runs import start

        if (run := self._active_run()) is None:
            return
        waits = any(turn.run == run.path and turn.place for turn in self.queue())
        if self._signal(start.pause, run):
            how = "it leaves the queue" if waits else "it finishes its step, saves a checkpoint and releases the GPU"
            self.tell(f"pausing {run.name}: {how}; press {app_keys(self).of(self.resume_command)} to resume")

    def action_resume(self) -> None:
        """Resume from the latest complete checkpoint."""
        from engine.runs.start import resume_run

        if (run := self.run_to_resume()) is None:
            self.tell("no run to resume", severity="warning")
            return
        with self.errors_told():
            resume_run(run)
            self.show_run(run)

    def _active_run(self) -> RunDir | None:
        """The selected run while its worker is running; else a notification."""
        run = self.selected_run()
        if run is not None and run.is_active():
            return run
        self.tell("no active run selected", severity="warning")
        return None

    def _signal(self, send: Callable[[RunDir], None], run: RunDir) -> bool:
        """Whether the worker received the signal; else a notification says why not."""
        with self.errors_told():
            try:
                send(run)
                return True
            except ProcessLookupError:
                self.tell(f"{run.name} has just ended", severity="warning")
        return False
