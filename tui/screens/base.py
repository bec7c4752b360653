"""What the workbench's screens share: notes to the user that are never markup."""

from __future__ import annotations

from typing import Literal, TypeVar

from textual.screen import Screen

from engine.contract.text import visible

R = TypeVar("R")


class BaseScreen(Screen[R]):
    """A screen that tells the user things in literal text."""

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
