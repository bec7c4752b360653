"""The progress line of the command line: how far a run or ladder is, and the time left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.live import Live  # noqa: TID251 - it gets the console of tui.output
from rich.text import Text

from engine.config.text import visible
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.rpc_client import Counted, rows_done
from tui.live.progress import progress_line, run_progress
from tui.live.run_state import RunState
from tui.output.console import console


class ProgressDisplay:
    """A progress line at the bottom of the terminal: of a run, of a ladder, or of other work."""

    def __init__(self) -> None:
        self.run = RunState()
        """The run that is shown: updated by its events."""
        self.ladder: Ladder | None = None
        """The ladder that it belongs to."""
        self._work: tuple[str, float | None, str] | None = None
        self.live = Live(get_renderable=self._shown, console=console, refresh_per_second=4, transient=True)
        """Draws the line; stopped while a question is asked."""

    def show_work(self, work: str, done: int = 0, total: int | None = None, rows: str = "") -> None:
        """Show work that is no run: preparing data, exporting."""
        self._work = work, done / total if total else None, rows

    def text(self, width: int) -> str:
        if self._work is not None:
            work, share, rows = self._work
            parts = progress_line(work, share, rows, [], width)
        else:
            parts = run_progress(self.run, width, self.ladder, with_metrics=True)
        return "".join(text for text, _ in parts)

    def _shown(self) -> Text:
        return Text(visible(self.text(console.width - 1)), no_wrap=True, overflow="ellipsis")


@contextlib.contextmanager
def progress_display(quiet: bool) -> Iterator[ProgressDisplay | None]:
    """A progress line on a terminal, None in a pipe."""
    if quiet or not console.is_terminal:
        yield None
        return
    display = ProgressDisplay()
    with display.live:
        yield display


@contextlib.contextmanager
def shown_progress(quiet: bool) -> Iterator[tuple[Callable[[str], None], Counted]]:
    """Yield (progress, counted) callbacks that update a progress line; without a terminal they do nothing."""
    with progress_display(quiet) as display:

        def progress(text: str) -> None:
            if display:
                display.show_work(visible(text, 60))

        def counted(text: str, done: int, total: int | None) -> None:
            if display:
                display.show_work(visible(text, 30), done, total, rows_done(done, total))

        yield progress, counted
