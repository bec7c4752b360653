"""The base classes of full screens and dialogs: keys, literal notifications, reads of runs and queue that may fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, TypeVar

from textual.binding import BindingType
from textual.screen import ModalScreen, Screen

from engine.config.errors import UserError
from tui.commands import bindings
from tui.settings import tell
from tui.widgets.text_rows import KeyLine, Rows

if TYPE_CHECKING:
    from engine.runs.queue.device_queue import QueuePlace

R = TypeVar("R")
F = TypeVar("F")


class Dialog(ModalScreen[R]):
    """A screen over another one, with the keys that work everywhere: Textual hides the app's from a modal screen."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("app")
    DEFAULT_CSS = """
    Dialog { align: center middle; }
    Dialog > Vertical { height: auto; border: round $primary; padding: 0 1; background: $background; }
    Dialog Static { height: auto; }
    """
    tell = tell

    def action_back(self) -> None:
        self.dismiss()


class BaseScreen(Screen[R]):
    """Reports what it cannot read, once per error."""

    tell = tell

    runs_error = ""
    """Why the folder of runs could not be read the last time."""

    queue_error = ""
    """Why the device queue could not be read the last time."""

    def action_back(self) -> None:
        self.dismiss()

    def on_screen_suspend(self) -> None:
        """Clear the line of keys: a dialog lists its own, and the screen behind it takes none."""
        for keys in self.query(KeyLine):
            keys.redraw()

    def on_screen_resume(self) -> None:
        """Draw the rows that changed while another screen was above."""
        for rows in self.query(Rows):
            rows.refresh()
        for keys in self.query(KeyLine):
            keys.redraw()

    def queue(self) -> list[QueuePlace]:
        """Who uses each device and who waits; empty while the lock folder cannot be used, which is reported once."""
        from engine.runs.queue import device_queue

        try:
            turns = device_queue.queue_places()
        except (UserError, OSError) as error:
            if str(error) != self.queue_error:
                self.tell(f"cannot read the device queue: {error}", severity="error", timeout=15)
            self.queue_error = str(error)
            return []
        self.queue_error = ""
        return turns

    def read_all(self, folders: Iterator[F]) -> list[F]:
        """Runs or ladders of a folder; empty while it cannot be read (a stalled network disk), reported once."""
        try:
            read = list(folders)
        except UserError as error:
            if error.line != self.runs_error:
                self.tell(f"{error.line}; ftbench will retry", severity="error", timeout=15)
            self.runs_error = error.line
            return []
        self.runs_error = ""
        return read
