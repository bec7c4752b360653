"""From the selection on the bench to a run or a ladder: open the launch screen, then start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config.errors import RunFailed, UserError
from tui.choice import Choice
from tui.screens.base import BaseScreen

if TYPE_CHECKING:  # imported where they are used: the first frame launches nothing
    from engine.config.preset import Effective
    from engine.runs.run_dir import RunDir
    from tui.preview.launch_context import DataCheckCache, LaunchContext


class RunLauncher:
    """Starts what is selected.

    `context` returns the state of the machine, `show_run` and `show_ladders` bring what was started before the user.
    """

    def __init__(
        self,
        screen: BaseScreen[Any],
        runs: Path,
        context: Callable[[], LaunchContext],
        show_run: Callable[[RunDir], object],
        show_ladders: Callable[[], object],
    ) -> None:
        self._screen, self._runs, self._context = screen, runs, context
        self._show_run, self._show_ladders = show_run, show_ladders
        self._checks: DataCheckCache | None = None

    @property
    def checks(self) -> DataCheckCache:
        """Data checks of earlier launches."""
        from tui.preview.launch_context import DataCheckCache

        self._checks = self._checks or DataCheckCache()
        return self._checks

    def open_run(self, choice: Choice, effective: Effective) -> None:
        """Show what a run of this selection will do; start it on enter."""
        from tui.preview.launch_preview import run_preview
        from tui.screens.launching import LaunchScreen

        def answered(yes: bool | None) -> None:
            if yes:
                self._start_run(choice.name, effective, screen.report.fingerprint)

        screen = LaunchScreen(
            effective.config,
            lambda report: run_preview(choice.name, effective, self._context(), report),
            self.checks,
        )
        self._screen.app.push_screen(screen, answered)

    def open_ladder(self, choice: Choice) -> None:
        """Show what a ladder of all methods with one seed will do; start it on enter."""
        from engine.runs.ladder_plan import make_plan
        from engine.runs.start import start_ladder
        from tui.preview.launch_preview import ladder_preview
        from tui.screens.launching import LaunchScreen

        try:
            plan = make_plan(choice.preset, [], choice.overrides(), command="ftbench, key L")
        except UserError as error:
            self._screen.tell(error.line, severity="error")
            return

        def answered(yes: bool | None) -> None:
            if yes and self._start(lambda: start_ladder(self._runs, plan)) is not None:
                self._show_ladders()

        screen = LaunchScreen(
            plan.rungs[0].config, lambda report: ladder_preview(plan, self._context(), report), self.checks
        )
        self._screen.app.push_screen(screen, answered)

    def _start_run(self, name: str, effective: Effective, data_fingerprint: str) -> None:
        """Start a run on the rows with this fingerprint, '' where they were not checked; show it."""
        from engine.runs.start import start_run

        run = self._start(lambda: start_run(self._runs, name, effective, data_fingerprint=data_fingerprint))
        if run is not None:
            self._show_run(run)

    def _start(self, start: Callable[[], Any]) -> Any:
        """What was started; None, with a notification, where it was not."""
        try:
            return start()
        except (UserError, RunFailed) as error:
            self._screen.tell(str(error), severity="error", timeout=10)
            return None
