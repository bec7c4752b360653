"""Follows a run on the terminal: its events as lines, its steps as a bar, and Ctrl+C as a question."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from rich.progress import BarColumn, Progress, TextColumn

from engine.config.errors import RunFailed, UserError
from engine.config.text import visible
from engine.runs import end_record, events, launch
from engine.runs.follow import Follower, last_line
from engine.runs.ladder_dir import LadderDir
from engine.runs.rpc_client import rows_done
from engine.runs.run_dir import RunDir
from tui.format import duration
from tui.live.event_lines import lines
from tui.output.console import console, say

POLL_SECONDS = 0.1
DEAD_SECONDS = 1.0
"""A run whose lock is free and whose log is silent this long has died."""

F = TypeVar("F", RunDir, LadderDir)
T = TypeVar("T")


class Detached(Exception):
    """The user left; the run goes on."""


def follow(run: RunDir, offset: int = 0, quiet: bool = False) -> events.End:
    """Show the run until it ends and return its end.

    Raises Detached where the user chose to leave, and RunFailed where the worker died without an end.
    """
    follower = Follower(run.events_file, offset)
    with progress_bar(quiet) as bar:
        view = View(bar, quiet)

        def look() -> tuple[events.End | None, bool]:
            end, news = None, False
            for fresh in follower.portions(thin=True):  # a long log is shown while it is read
                end, news = view.show(fresh), True
            lives = news or run.is_live()
            return (end, True) if lives else (view.unwritten(run), False)

        return wait_for_end(run, bar, look, died)


def wait_for_end(
    folder: F, bar: Progress | None, look: Callable[[], tuple[T | None, bool]], died: Callable[[F], str]
) -> T:
    """Look until there is an outcome, which `look` returns with whether there was a sign of life.

    Raises Detached where the user chose to leave, and RunFailed, with what `died` says, after DEAD_SECONDS without it.
    """
    silent_since = time.monotonic()
    while True:
        try:
            outcome, lives = look()
            if outcome is not None:
                return outcome
            if lives:
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since > DEAD_SECONDS:
                raise RunFailed(died(folder))
            time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            ask_to_leave(folder, bar)


def died(run: RunDir) -> str:
    """What is known of a worker that vanished."""
    last = last_line(run.log_file)
    said = f"; its last words: {visible(last, 200)}" if last else ""
    what = "the worker died without a word (killed, or the machine ran out of memory)"
    return f"{what}{said}; `ftbench resume {run.name}` goes on"


class View:
    """Lines above, one bar below."""

    def __init__(self, bar: Progress | None, quiet: bool) -> None:
        self.bar, self.quiet = bar, quiet
        self.task = bar.add_task("starting", total=None, detail="") if bar else None
        self.rate: float | None = None
        self.refused = False

    def show(self, fresh: list[events.Event]) -> events.End | None:
        """Show what is new. The end counts only where it is the last word: a resume may have followed it."""
        for event in fresh:
            self._one(event)
        if fresh and isinstance(fresh[-1], events.End):
            return fresh[-1]
        return None

    def unwritten(self, run: RunDir) -> events.End | None:
        """Show the end of a run whose disk was too full to log it."""
        record = end_record.read(run.end_file)
        if record is None:
            return None
        return self.show([events.End(status=record.status, reason=record.reason, t=record.t)])

    def _one(self, event: events.Event) -> None:
        if self.quiet:
            return
        if isinstance(event, events.Error):
            self.refused = event.user
        if self.refused and isinstance(event, events.End):
            return  # the command ends with that line, on stderr
        for text in lines(event):
            say(text, "yellow" if isinstance(event, events.Warning) else "")
        if self.bar is None or self.task is None:
            return
        match event:
            case events.Phase():
                self.bar.update(self.task, description=event.name, total=None, detail="")
            case events.Progress():
                detail = f"{event.text} {rows_done(event.done, event.total)}"
                self.bar.update(self.task, completed=event.done, total=event.total, detail=detail)
            case events.Plan():
                self.bar.update(self.task, completed=event.start_step, total=event.steps)
            case events.Step():
                pace = event.seconds
                self.rate = pace if self.rate is None else 0.9 * self.rate + 0.1 * pace
                left = duration(self.rate * (event.steps - event.step))
                loss = "–" if event.loss is None else f"{event.loss:.4f}"
                detail = f"{event.step}/{event.steps}  loss {loss}  {event.tokens_per_second:,.0f} tok/s  {left} left"
                self.bar.update(self.task, completed=event.step, total=event.steps, detail=detail)


@contextlib.contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress | None]:
    """A bar where there is a terminal, none in a pipe."""
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=28),
        TextColumn("{task.fields[detail]}", markup=False),
    )
    with Progress(*columns, console=console, refresh_per_second=4, transient=True) as bar:
        yield bar


def ask_to_leave(run: RunDir | LadderDir, bar: Progress | None) -> None:
    """Detach or stop, asked once; without a terminal to ask on, Ctrl+C detaches."""
    if bar is not None:
        bar.stop()
    choice = ""
    if sys.stdin.isatty():
        try:
            console.print("\n[d]etach and leave it running, [s]top with a checkpoint, anything else goes on: ", end="")
            choice = input().strip().lower()[:1]
        except (KeyboardInterrupt, EOFError):
            console.print()
            choice = "d"
    else:
        choice = "d"
    if choice == "d":
        raise Detached
    if choice == "s":
        with contextlib.suppress(UserError, ProcessLookupError):  # it ended while the question stood
            launch.stop(run)
        say("stopping after this step …")
    if bar is not None:
        bar.start()
