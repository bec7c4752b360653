"""A screen with the number of steps of a ladder's runs, and the key on the ladder screen that opens it."""

from __future__ import annotations

from typing import Any

from tui.command import AddedKey, Command, ScreenKeys


def open_steps(screen: Any) -> None:
    from textual.app import ComposeResult  # what the first frame does not need
    from textual.widgets import Static

    from tui.commands import bindings
    from tui.screens.base import BaseScreen

    class StepsScreen(BaseScreen[None]):
        BINDINGS = bindings("steps")

        def compose(self) -> ComposeResult:
            runs = screen.finished_runs("count steps")
            yield Static(", ".join(f"{result.steps} steps" for run in runs if (result := run.result())))

    screen.app.push_screen(StepsScreen())


KEYS = ScreenKeys(
    "Steps",
    (Command("steps.back", "escape,q", "back", "back", "Return to the ladder."),),
    (AddedKey(Command("ladder.steps", "S", "", "steps", "Show the number of steps."), open_steps),),
)
