"""`ftbench` alone: the workbench."""

from __future__ import annotations

from pathlib import Path


def open_bench(runs: Path, ascii_only: bool, mouse: bool) -> int:
    """Until it is left; then says what goes on without it.

    Raises UserError where runs or locks cannot be looked at: everything on the screen would be wrong.
    """
    from engine.contract import locks, rundir

    locks.card_locks()
    next(rundir.iterate(runs), None)
    from tui.app import Workbench  # Textual takes a moment to import, and no other verb needs it

    app = Workbench(runs, ascii_only=ascii_only)
    said = app.run(mouse=mouse and app.settings.mouse)
    if said:
        from tui.show import say

        say(said)
    return app.return_code or 0
