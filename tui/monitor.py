"""The app of `ftbench monitor`: one screen with the machine."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import BindingType

from tui.base_app import BaseApp
from tui.commands import EVERYWHERE
from tui.screens.monitor import MonitorScreen

KEYS = ("app.quit", "app.theme", "app.redraw")


class Monitor(BaseApp):
    """Shows the machine until it is left."""

    BINDINGS: ClassVar[list[BindingType]] = [command.binding() for command in EVERYWHERE if command.id in KEYS]

    # Here, because Textual does not read the CSS of a default screen.
    CSS = (
        BaseApp.CSS
        + """
    MonitorScreen { layout: vertical; }
    MonitorScreen #host { height: 1; text-wrap: nowrap; }
    MonitorScreen #machine { height: 1fr; border: round $surface-lighten-2; padding: 0 1; }
    MonitorScreen #machine:focus { border: round $primary; }
    MonitorScreen #queue { height: auto; max-height: 7; padding: 0 2; text-wrap: nowrap; text-overflow: ellipsis; }
    """
    )

    def get_default_screen(self) -> MonitorScreen:
        return MonitorScreen()

    def on_mount(self) -> None:
        self.prepare_screen()

    def on_unmount(self) -> None:
        self.restore_handlers()
