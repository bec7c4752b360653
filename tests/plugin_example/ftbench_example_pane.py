"""A pane of the bench: shows the steps of the watched run and the keys that were pressed in it."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Static

from tui.widgets.pane import BenchState


class StepsPane(Static, can_focus=True):
    """One line: `step 3 of 40`, or that no run is watched."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("x", "mark", "mark")]
    pane_name: ClassVar[str] = "steps"
    letter: ClassVar[str] = "s"
    marks = 0

    def show_state(self, state: BenchState) -> None:
        step = state.run.step if state.run else None
        self.update(f"step {step.step} of {step.steps}" if step else "no step yet")

    def action_mark(self) -> None:
        self.marks += 1
