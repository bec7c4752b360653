"""Screens about the selection: presets, methods side by side, effective configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tui.screens.base import BaseScreen
from tui.widgets.selection_pane import SelectionPane

if TYPE_CHECKING:  # imported where they are used: the first frame opens no screen
    from tui.preview.launch_context import DataCheckCache, LaunchContext
    from tui.selection import Selection


class SelectionScreens:
    """Opens them; they are imported when they are first opened."""

    def __init__(
        self,
        screen: BaseScreen[Any],
        runs: Path,
        get_selection_pane: Callable[[], SelectionPane],
        context: Callable[[], LaunchContext],
        get_checks: Callable[[], DataCheckCache],
        select: Callable[[Selection], None],
    ) -> None:
        self._screen, self._runs, self._get_selection_pane = screen, runs, get_selection_pane
        self._context, self._get_checks, self._select = context, get_checks, select

    def open_presets(self) -> None:
        """Let the user select, edit or save a preset."""
        from tui.screens.presets import PresetsScreen

        selection_pane = self._get_selection_pane()

        def closed(name: str | None) -> None:
            if name:
                selection_pane.select(selection_pane.selection.with_preset(name))
            else:
                selection_pane.reload()

        selection_pane.start()
        self._screen.app.push_screen(PresetsScreen(selection_pane.selection, selection_pane.effective), closed)

    def open_methods(self) -> None:
        """Show all methods side by side with the present selection."""
        from tui.preview.method_table import methods_text
        from tui.screens.dialogs import TextScreen

        selection_pane = self._get_selection_pane()
        selection_pane.start()
        if selection_pane.effective is not None:
            text = methods_text(selection_pane.selection, selection_pane.estimates, selection_pane.budget)
            self._screen.app.push_screen(TextScreen("methods", text))

    def open_models(self) -> None:
        """Let the user select or download a model."""
        from tui.screens.models import ModelsScreen

        selection_pane = self._get_selection_pane()
        selection_pane.start()
        if selection_pane.effective is not None:
            self._screen.app.push_screen(ModelsScreen(selection_pane.selection, selection_pane.budget), self._take)

    def open_config(self) -> None:
        """Show every setting of the selection with its origin, and edit them."""
        from tui.screens.configuration import ConfigurationScreen

        selection_pane = self._get_selection_pane()
        selection_pane.start()
        if selection_pane.effective is not None:
            screen = ConfigurationScreen(selection_pane.selection, self._runs, self._context, self._get_checks())
            self._screen.app.push_screen(screen, self._take)

    def _take(self, selection: Selection | None) -> None:
        if selection is not None:
            self._select(selection)
