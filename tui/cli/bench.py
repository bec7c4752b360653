"""`ftbench` alone: the workbench."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.config.errors import Notice

CANNOT = ("dumb", "unknown")
"""Terminals, by $TERM, that text cannot be placed on."""
INSTEAD = "set TERM to what it is, or go without: `ftbench run`, `runs`, `attach`; `ftbench --help` has them all"


def open_bench(runs: Path, ascii_only: bool, mouse: bool, hints: bool = True) -> int:
    """Until it is left; then says what goes on without it.

    Raises UserError where the terminal cannot show it, and where runs or locks cannot be looked at: everything on
    the screen would be wrong.
    """
    from engine.config.errors import UserError
    from engine.runs import folder, locks

    if (term := os.environ.get("TERM", "").lower()) in CANNOT:
        raise UserError(f"the bench needs a terminal with a cursor, and this one says TERM={term}", do=INSTEAD)
    locks.lock_folder()
    next(folder.holding(runs, "run.toml"), None)
    from tui.app import Workbench  # Textual takes a moment to import, and no other verb needs it

    def notices() -> list[Notice]:
        from tui.cli import home_notes  # after the first paint: it imports what reads runs

        return home_notes.notices(runs, hints)

    app = Workbench(runs, ascii_only=ascii_only, notices=notices)
    said = app.run(mouse=mouse and app.settings.mouse)
    if said:
        from tui.output.console import say

        say(said)
    return app.return_code or 0
