"""`ftbench` without a subcommand: open the bench.

Imports are inside `open_bench`, because `ftbench --help` and the first paint must not wait for them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from textual.screen import Screen

    from engine.config.errors import Notice

UNSUPPORTED = ("dumb", "unknown")
"""Values of $TERM for terminals without cursor addressing."""


def check_terminal() -> None:
    """Raise UserError for a terminal without cursor addressing."""
    from engine.config.errors import UserError  # not needed for the first frame

    if (term := os.environ.get("TERM", "").lower()) in UNSUPPORTED:
        hint = "set TERM to your terminal's type, or use a subcommand (`ftbench --help`)"
        raise UserError(
            f"unsupported terminal TERM={term}: it has no cursor addressing", hint=hint, code="cli.terminal"
        )


def open_bench(runs: Path, ascii_only: bool, mouse: bool, opened: Callable[[], Screen[None]] | None = None) -> int:
    """Run the bench until it is closed; then print which runs continue. Returns the exit status.

    `opened` creates a screen to show instead of the bench.

    Raises UserError where the terminal is unsupported, and where runs or locks cannot be read: everything on the
    screen would be wrong.
    """
    from engine.runs.queue import locks
    from engine.runs.run import folder

    check_terminal()
    locks.lock_folder()
    next(folder.directories_with_file(runs, "run.toml"), None)
    from tui.app import Workbench  # Textual is slow to import, and no other subcommand needs it

    def notices() -> list[Notice]:
        from engine.runs.home import home_warnings  # after the first paint

        return home_warnings(runs)

    app = Workbench(runs, ascii_only=ascii_only, notices=notices, opened=opened)
    message = app.run(mouse=mouse and app.settings.mouse)
    if message:
        from tui.output.console import say  # Rich is not needed before the first paint

        say(message)
    return app.return_code or int(app.has_failed)
