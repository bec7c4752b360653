"""The base classes of full screens and dialogs: keys, literal notifications, reads and actions that may fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

from textual.binding import BindingType
from textual.screen import ModalScreen, Screen

from engine.config.errors import RunFailed, UserError
from tui.commands import bindings
from tui.settings import tell
from tui.widgets.text_rows import KeyLine, Rows

if TYPE_CHECKING:
    from engine.runs.queue.device_queue import QueuePlace

R = TypeVar("R")
F = TypeVar("F")


class BaseScreen(Screen[R]):
    """Reports actions that fail, and files that cannot be read, once per error."""

    tell = tell
    _read_errors: Mapping[str, str] = {}
    """What could not be read the last time, and why."""

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

        return self._read_reported(device_queue.queue_places, "cannot read the device queue: ")

    def read_all(self, folders: Iterator[F]) -> list[F]:
        """Runs or ladders of a folder; empty while it cannot be read (a stalled network disk), reported once."""
        return self._read_reported(lambda: folders)

    def _read_reported(self, read: Callable[[], Iterable[F]], what: str = "") -> list[F]:
        """The complete device queue; empty while it cannot be read."""
        items, text = list[F](), ""
        try:
            items = list(read())
        except (UserError, OSError) as error:
            text = f"{what}{error}; ftbench will retry"
            if text != self._read_errors.get(what):
                self.tell(text, severity="error", timeout=15)
        self._read_errors = {**self._read_errors, what: text}
        return items

    @contextmanager
    def errors_told(self, severity: Literal["warning", "error"] = "error") -> Iterator[None]:
        """A context in which a UserError or RunFailed ends the block and becomes a notification."""
        try:
            yield
        except (UserError, RunFailed) as error:
            self.tell(str(error), severity=severity, timeout=10)


class Dialog(ModalScreen[R], BaseScreen[R]):
    """A screen over another one, with the keys that work everywhere: Textual hides the app's from a modal screen."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("app")
    DEFAULT_CSS = """
    Dialog { align: center middle; }
    Dialog > Vertical { height: auto; border: round $primary; padding: 0 1; background: $background; }
    Dialog Static { height: auto; }
    """
