"""What the workbench's screens share: notes to the user that are never markup."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, TypeVar

from textual.screen import Screen

from engine.config.errors import UserError
from engine.config.text import visible

if TYPE_CHECKING:
    from engine.runs.device_queue import Turn

R = TypeVar("R")
F = TypeVar("F")


class BaseScreen(Screen[R]):
    """A screen that tells the user things in literal text."""

    unread = ""
    """Why the folder of runs could not be read at the last look."""

    unlocked = ""
    """Why the device queue could not be read at the last look."""

    def queue(self) -> list[Turn]:
        """Everybody's place at every device; none while the lock folder cannot be used, which is said once."""
        from engine.runs import device_queue

        try:
            found = device_queue.turns()
        except (UserError, OSError) as error:
            if str(error) != self.unlocked:
                self.tell(f"the device queue cannot be read: {error}", severity="error", timeout=15)
            self.unlocked = str(error)
            return []
        self.unlocked = ""
        return found

    def read_all(self, folders: Iterator[F]) -> list[F]:
        """Runs or ladders of a folder; none while it cannot be read, a network disk that stalls, which is told once."""
        try:
            found = list(folders)
        except UserError as error:
            if error.line != self.unread:
                self.tell(f"{error.line}; it is tried again", severity="error", timeout=15)
            self.unread = error.line
            return []
        self.unread = ""
        return found

    def tell(
        self,
        text: str,
        *,
        title: str = "",
        severity: Literal["information", "warning", "error"] = "information",
        timeout: float | None = None,
    ) -> None:
        """A note at the corner; control characters made visible, brackets left alone."""
        self.notify(visible(text, 400), title=visible(title, 80), severity=severity, timeout=timeout, markup=False)
