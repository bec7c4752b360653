"""From the selection on the bench to a run or a ladder: the launch screen, then the launch."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from textual.screen import ScreenResultType

from engine.config.errors import RunFailed, UserError
from tui.screens.inspecting import InspectingScreen

if TYPE_CHECKING:  # imported where they are needed: the first picture does not wait for what a launch takes
    from engine.config.preset import Effective
    from engine.runs.ladder import LadderPlan
    from tui.live.machine import MachineSample
    from tui.preview.launch_context import LaunchContext, Reports


class StartingScreen(InspectingScreen[ScreenResultType]):
    """A screen with a choice on it."""

    runs: Path
    ascii_only: bool
    sample: MachineSample | None

    @cached_property
    def reports(self) -> Reports:
        """What was found out about data before launches."""
        from tui.preview.launch_context import Reports

        return Reports()

    def scene(self) -> LaunchContext:
        """The machine as it was last looked at, and who waits for it."""
        from tui.preview.launch_context import LaunchContext
        from tui.preview.memory_forecast import foreign, room_of, visible_card

        if self.sample is None:
            return LaunchContext(self.runs)
        places, own = self.queue(), self.own_processes()
        card = visible_card(self.sample.cards)
        return LaunchContext(self.runs, room_of(self.sample, own), foreign(card, own) if card else (), places)

    def action_start(self) -> None:
        """Show the launch screen, then launch and watch."""
        from tui.preview.launch_preview import run_prospect
        from tui.screens.launching import LaunchScreen

        self.choosing.begin()
        chosen, name = self.choosing.effective, self.choosing.choice.name
        if chosen is None:
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self.start(chosen, screen.report.fingerprint)

        screen = LaunchScreen(
            chosen.config, lambda report: run_prospect(name, chosen, self.scene(), report), self.reports
        )
        self.app.push_screen(screen, answered)

    def start(self, chosen: Effective, data_fingerprint: str = "") -> None:
        """Launch a run of this configuration, on the rows of this fingerprint where they were checked; show it."""
        from engine.runs import run_dir

        try:
            name = self.choosing.choice.name
            run = run_dir.create(self.runs, name, chosen, data_fingerprint=data_fingerprint)
        except (UserError, RunFailed) as error:
            self.tell(str(error), severity="error", timeout=10)
            return
        self.launch_run(run)

    def action_climb(self) -> None:
        """A ladder of the three methods with what is chosen, one seed."""
        from engine.runs.ladder_plan import make_plan
        from tui.preview.launch_preview import ladder_prospect
        from tui.screens.launching import LaunchScreen

        choice = self.choosing.choice
        try:
            plan = make_plan(choice.preset, [], choice.overrides(), command="ftbench, key L")
        except UserError as error:
            self.tell(error.line, severity="error")
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._climb(plan)

        screen = LaunchScreen(
            plan.rungs[0].config, lambda report: ladder_prospect(plan, self.scene(), report), self.reports
        )
        self.app.push_screen(screen, answered)

    def _climb(self, plan: LadderPlan) -> None:
        from engine.runs import ladder_dir, launch

        try:
            launch.launch_ladder(ladder_dir.create(self.runs, plan))
        except (UserError, RunFailed) as error:
            self.tell(str(error), severity="error")
            return
        self.action_ladder()

    def action_ladder(self) -> None:
        """Show the ladders."""
        raise NotImplementedError

    def own_processes(self) -> set[int]:
        """Our own runs, as the driver counts processes."""
        raise NotImplementedError
