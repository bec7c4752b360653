"""Screens about the selection: presets, methods side by side, effective configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tui.screens.base import BaseScreen
from tui.widgets.choosing import ChoosingPane

if TYPE_CHECKING:  # imported where they are used: the first frame opens no screen
    from tui.choice import Choice
    from tui.preview.launch_context import DataCheckCache, LaunchContext


class SelectionScreens:
    """Opens them; they are imported when they are first opened."""

    def __init__(
        self,
        screen: BaseScreen[Any],
        runs: Path,
        get_choosing: Callable[[], ChoosingPane],
        context: Callable[[], LaunchContext],
        get_checks: Callable[[], DataCheckCache],
        choose: Callable[[Choice], None],
    ) -> None:
        self._screen, self._runs, self._get_choosing = screen, runs, get_choosing
        self._context, self._get_checks, self._choose = context, get_checks, choose

    def open_presets(self) -> None:
        """Let the user select, edit or save a preset."""
        from tui.screens.presets import PresetsScreen

        choosing = self._get_choosing()

        def closed(name: str | None) -> None:
            if name:
                choosing.choose(choosing.choice.with_preset(name))
            else:
                choosing.choose_again()

        choosing.start()
        self._screen.app.push_screen(PresetsScreen(choosing.choice, choosing.effective), closed)

    def open_methods(self) -> None:
        """Show all methods side by side with the present selection."""
        from tui.preview.method_table import methods_text
        from tui.screens.text import TextScreen

        choosing = self._get_choosing()
        choosing.start()
        if choosing.effective is not None:
            text = methods_text(choosing.choice, choosing.forecasts, choosing.budget)
            self._screen.app.push_screen(TextScreen("methods", text))

    def open_models(self) -> None:
        """Let the user select or download a model."""
        from tui.screens.models import ModelsScreen

        choosing = self._get_choosing()
        choosing.start()
        if choosing.effective is not None:
            self._screen.app.push_screen(ModelsScreen(choosing.choice, choosing.budget), self._take)

    def open_config(self) -> None:
        """Show every setting of the selection with its origin, and edit them."""
        from tui.screens.configuration import ConfigurationScreen

        choosing = self._get_choosing()
        choosing.start()
        if choosing.effective is not None:
            screen = ConfigurationScreen(choosing.choice, self._runs, self._context, self._get_checks())
            self._screen.app.push_screen(screen, self._take)

    def _take(self, choice: Choice | None) -> None:
        if choice is not None:
            self._choose(choice)
