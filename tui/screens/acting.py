"""What one does to a run from whatever screen shows it: stop after asking, resume, launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from textual.screen import ScreenResultType

from engine.config.errors import RunFailed, UserError
from tui.screens.base import BaseScreen

if TYPE_CHECKING:  # imported where they are needed: the first picture does not wait for them
    from engine.runs.run_dir import RunDir


class ActingScreen(BaseScreen[ScreenResultType]):
    """A screen that acts on runs; `show_run` is what follows a launch."""

    def show_run(self, run: RunDir) -> None:
        """Bring the run before the user's eyes."""
        raise NotImplementedError

    def stop_run(self, run: RunDir | None) -> None:
        """Ask first; the run may have ended while we asked."""
        from engine.runs import launch
        from tui.screens.ask import AskScreen

        if run is None or not run.is_live():
            self.tell("nothing runs here", severity="warning")
            return

        def answered(yes: bool | None) -> None:
            if yes and run.is_live():
                self._ask_worker(launch.stop, run)

        self.app.push_screen(AskScreen(f"Stop {run.name} after its step, with a checkpoint?"), answered)

    def pause_run(self, run: RunDir | None) -> None:
        """Without asking: nothing is lost, and `u` goes on. The run may end at this moment."""
        from engine.runs import launch

        if run is None or not run.is_live():
            self.tell("nothing runs here", severity="warning")
            return
        waits = any(turn.run == run.path and turn.place for turn in self.queue())
        if self._ask_worker(launch.pause, run):
            how = "it waits no longer" if waits else "after its step, with a checkpoint, it frees the card"
            self.tell(f"pausing {run.name}: {how}; u goes on")

    def _ask_worker(self, ask: Callable[[RunDir], None], run: RunDir) -> bool:
        """Whether the worker has heard it; else why not is told."""
        try:
            ask(run)
        except UserError as error:
            self.tell(error.line, severity="error", timeout=10)
        except ProcessLookupError:
            self.tell(f"{run.name} has just ended", severity="warning")
        else:
            return True
        return False

    def resume_run(self, run: RunDir | None) -> None:
        """From its newest whole checkpoint."""
        if run is None or run.state() in ("live", "starting", "finished"):
            self.tell("nothing to resume", severity="warning")
            return
        if not run.path.exists():
            self.tell(f"{run.path} has been deleted: nothing is left to resume", severity="warning")
            return
        self.launch_run(run)

    def launch_run(self, run: RunDir) -> None:
        """Start its worker, then show it."""
        from engine.runs import launch

        size = run.events_file.stat().st_size if run.events_file.exists() else 0
        try:
            launch.wait_for_hello(run, launch.launch(run), size)
        except (UserError, RunFailed) as error:
            self.tell(str(error), severity="error", timeout=10)
            return
        self.show_run(run)
