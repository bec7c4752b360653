"""Screens about the selection: presets, methods side by side, effective configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tui.screens.base import BaseScreen
from tui.widgets.choosing import ChoosingPane


class SelectionScreens:
    """Opens them; they are imported when they are first opened."""

    def __init__(self, screen: BaseScreen[Any], get_choosing: Callable[[], ChoosingPane]) -> None:
        self._screen, self._get_choosing = screen, get_choosing

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

    def open_config(self) -> None:
        """Show every setting of the selection with its origin."""
        from tui.screens.text import TextScreen, config_text

        choosing = self._get_choosing()
        choosing.start()
        if choosing.effective is not None:
            title = f"configuration of {choosing.choice.name}"
            self._screen.app.push_screen(TextScreen(title, config_text(choosing.effective)))
