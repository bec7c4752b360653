"""Opens the screens about datasets and about the selection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config.errors import UserError
from engine.config.files import working_directory
from tui.screens.base import BaseScreen
from tui.widgets.selection_pane import ItemPicked, SelectionPane, SelectionRefused

if TYPE_CHECKING:  # imported where they are used: the first frame opens no screen
    from tui.data.preview import Preview
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
        screen = PresetsScreen(selection_pane.selection, selection_pane.effective, selection_pane.presets)
        self._screen.app.push_screen(screen, closed)

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


class DataActions:
    """Opens screens above the lists, and hands the lists what was selected there."""

    def __init__(self, screen: BaseScreen[Any], get_selection_pane: Callable[[], SelectionPane]) -> None:
        self._screen, self._get_selection_pane = screen, get_selection_pane

    def inspect(self, data: str) -> None:
        """Open the inspector; asks first if that downloads a dataset from the Hub."""
        from tui.data.datasets import on_the_hub
        from tui.screens.dialogs import ConfirmScreen

        if not on_the_hub(data):
            self._open_inspector(data)
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._open_inspector(data)

        what = f"Inspecting {data} downloads it from the Hub, which requires network access. Offline, only "
        self._screen.app.push_screen(
            ConfirmScreen(f"{what}sets in the local Hub cache can be read. Continue?"), answered
        )

    def suggest(self, data: str, preview: Preview) -> None:
        """Show the columns, the suggested settings and rows with them; enter takes them."""
        from tui.screens.dialogs import SuggestionScreen

        def answered(yes: bool | None) -> None:
            pane = self._get_selection_pane()
            selection = pane.selection
            if yes and selection.data == data:
                for key, value in preview.suggested.items():
                    selection = selection.with_setting(f"data.{key}", value)
                pane.select(selection)

        columns = [column["name"] for column in preview.columns]
        self._screen.app.push_screen(SuggestionScreen(data, columns, preview.suggested, preview.examples), answered)

    def _open_inspector(self, data: str) -> None:
        from tui.data.datasets import NOT_TEXT, is_utf8
        from tui.screens.inspector import InspectorScreen

        def answered(selected: bool | None) -> None:
            if selected:
                self._get_selection_pane().select_data(data)
                self._screen.post_message(ItemPicked())

        if not is_utf8(data):
            self._screen.post_message(SelectionRefused(NOT_TEXT))
            return
        try:
            effective = self._get_selection_pane().selection.with_data(data).effective()
        except UserError as error:
            self._screen.post_message(SelectionRefused(error.line))
            return
        self._screen.app.push_screen(InspectorScreen(effective), answered)

    def add(self) -> None:
        """Open the file picker in the working directory."""
        from tui.screens.picker import PickerScreen

        try:
            folder = working_directory()
        except UserError:
            folder = Path.home()

        def answered(data: str | None) -> None:
            if data is not None:
                self._get_selection_pane().select_data(data)

        self._screen.app.push_screen(PickerScreen(folder), answered)
