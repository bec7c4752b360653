"""Actions on datasets: open the inspector and the file picker, and select what they return.

The screens are imported when they are opened: the first frame does not wait for them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.config.errors import UserError
from engine.config.files import working_directory
from tui.screens.base import BaseScreen
from tui.widgets.selection_pane import ItemPicked, SelectionPane, SelectionRefused


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
