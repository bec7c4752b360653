"""How the command line shows what extensions make of several ladders (`ftbench.comparison_views`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from engine.config.hooks import hooks
from engine.runs.ladder.ladder_dir import ComparisonDir
from tui.cli.progress import ProgressDisplay


class ComparisonView(Protocol):
    """A module or an object with these."""

    COLUMNS: Sequence[str]
    """Of `ftbench runs`: the third counts to the right."""

    def cells(self, folder: Any) -> list[str]:
        """Its line there."""

    def follower(self, folder: Any, display: ProgressDisplay | None, quiet: bool) -> Callable[[Any], None]:
        """What is called with each state while its process works."""

    def show(self, folder: Any, state: Any) -> None:
        """Print the results, and the path of the report where there is one."""


def view_of(folder: ComparisonDir) -> ComparisonView:
    """Raises UserError if it cannot be imported."""
    return cast(ComparisonView, hooks("ftbench.comparison_views")[folder.KIND].load())
