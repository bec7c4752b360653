"""A screen with the data list: opens the inspector and the file picker."""

from __future__ import annotations

from pathlib import Path

from textual import on
from textual.screen import ScreenResultType

from engine.config.errors import UserError
from engine.config.files import working_folder
from tui.screens.acting import ActingScreen
from tui.widgets.choosing import ChoosingPane, Picked, Refused
from tui.widgets.data_list import Add, Inspect


class InspectingScreen(ActingScreen[ScreenResultType]):
    """Opens the inspector and the file picker over the lists."""

    @property
    def choosing(self) -> ChoosingPane:
        return self.query_one(ChoosingPane)

    @on(Inspect)
    def _inspect(self, message: Inspect) -> None:
        """Open the inspector; asks first where that downloads a set from the Hub."""
        from tui.data.datasets import on_the_hub
        from tui.screens.ask import AskScreen

        if not on_the_hub(message.data):
            self._look_into(message.data)
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._look_into(message.data)

        what = f"Inspecting {message.data} downloads it from the Hub, which requires network access. Offline, only "
        self.app.push_screen(AskScreen(f"{what}sets in the local Hub cache can be read. Continue?"), answered)

    def _look_into(self, data: str) -> None:
        from tui.data.datasets import NOT_TEXT, is_text
        from tui.screens.inspector import InspectorScreen

        def answered(taken: bool | None) -> None:
            if taken:
                self.choosing.take_data(data)
                self.post_message(Picked())

        if not is_text(data):
            self.post_message(Refused(NOT_TEXT))
            return
        try:
            chosen = self.choosing.choice.with_data(data).effective()
        except UserError as error:
            self.post_message(Refused(error.line))
            return
        self.app.push_screen(InspectorScreen(chosen), answered)

    @on(Add)
    def _add(self) -> None:
        from tui.screens.picker import PickerScreen

        try:
            folder = working_folder()
        except UserError:
            folder = Path.home()

        def answered(data: str | None) -> None:
            if data is not None:
                self.choosing.take_data(data)

        self.app.push_screen(PickerScreen(folder), answered)
