"""Follow a run without a screen: events as lines, steps as a progress bar; Ctrl+C asks whether to detach or stop."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from engine.config.errors import RunFailed, UserError
from engine.config.quantities import duration
from engine.config.text import visible
from engine.executors.slurm_queue import JobState, queue
from engine.runs import end_record, events, launch
from engine.runs.follow import Follower, last_line
from engine.runs.ladder_dir import LadderDir
from engine.runs.rpc_client import rows_done
from engine.runs.run_dir import RunDir
from tui.format import throughput
from tui.live.event_lines import lines
from tui.live.run_state import moving_average
from tui.output.console import console, say

POLL_SECONDS = 0.1
DEAD_SECONDS = 1.0
"""Seconds without a lock and without new events after which a run counts as dead."""

F = TypeVar("F", RunDir, LadderDir)
T = TypeVar("T")


class Detached(Exception):
    """Raised when the user detaches; the run continues."""


def follow(run: RunDir, offset: int = 0, quiet: bool = False) -> events.End:
    """Show the run until it ends; returns its end.

    Raises Detached where the user chose to detach, and RunFailed where the worker exited without an end.
    """
    follower = Follower(run.events_file, offset)
    with progress_bar(quiet) as bar:
        view = RunView(bar, quiet)

        def poll() -> tuple[events.End | None, bool]:
            news = False
            for fresh in follower.portions(thin=True):  # a long log is shown in portions
                view.end, news = view.show(fresh), True
            job = run.job_state()
            if job is not None and job.is_active:  # at its time limit the run stops, and its job is queued again
                view.show_job(job)
                return None, True
            alive = news or run.is_live()
            return (view.end, True) if alive or view.end else (view.unwritten(run), False)

        return wait_for_end(run, bar, poll, run_exited_message)


def wait_for_end(
    folder: F, bar: Progress | None, poll: Callable[[], tuple[T | None, bool]], exited_message: Callable[[F], str]
) -> T:
    """Call `poll` until it returns an outcome; it also returns whether there was a sign of life.

    Raises Detached where the user chose to detach, and RunFailed with `exited_message` after DEAD_SECONDS without one.
    """
    silent_since = time.monotonic()
    while True:
        try:
            outcome, alive = poll()
            if outcome is not None:
                return outcome
            if alive:
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since > DEAD_SECONDS:
                raise RunFailed(exited_message(folder), "run.process_died")
            time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            ask_to_leave(folder, bar)


def run_exited_message(run: RunDir) -> str:
    """Error message for a worker that exited without an end."""
    what = "worker exited unexpectedly (killed, or the machine ran out of memory)"
    if (job := run.job()) is not None:
        what = queue.final_state(job).text
    return f"{what}{last_log_line(run)}; `ftbench resume {run.name}` resumes from the latest checkpoint"


def last_log_line(folder: RunDir | LadderDir) -> str:
    """`. Last log line: …`, '' where the process printed nothing."""
    last = last_line(folder.log_file)
    return f". Last log line: {visible(last, 200)}" if last else ""


class RunView:
    """Prints events as lines above one progress bar."""

    def __init__(self, bar: Progress | None, quiet: bool) -> None:
        self.bar, self.quiet = bar, quiet
        self.task = bar.add_task("starting", total=None, detail="") if bar else None
        self.pace: float | None = None
        self.refused = False
        self.end: events.End | None = None
        """The last event, if it is an end."""
        self.job: JobState | None = None
        """The state of its Slurm job that was shown last."""

    def show(self, fresh: list[events.Event]) -> events.End | None:
        """Show new events. Returns the end where it is the last event; one before others was followed by a resume."""
        for event in fresh:
            self._apply(event)
        if fresh and isinstance(fresh[-1], events.End):
            return fresh[-1]
        return None

    def show_job(self, job: JobState) -> None:
        """Show the state of a Slurm job, once until it changes."""
        if job != self.job and not self.quiet:
            say(job.text)
        self.job = job

    def unwritten(self, run: RunDir) -> events.End | None:
        """Show the end of a run that could not log it because the disk was full."""
        record = end_record.read(run.end_file)
        if record is None:
            return None
        return self.show([events.End(status=record.status, reason=record.reason, t=record.t)])

    def _apply(self, event: events.Event) -> None:
        if self.quiet:
            return
        if isinstance(event, events.Error):
            self.refused = event.user
        if self.refused and isinstance(event, events.End):
            return  # the command prints this error on stderr
        for text in lines(event):
            say(text, "yellow" if isinstance(event, events.Warning) else "")
        if self.bar is None or self.task is None:
            return
        remaining = ""
        if isinstance(event, events.Step):
            self.pace = moving_average(self.pace, event.seconds)
            remaining = f"  {duration(self.pace * (event.steps - event.step))} left"
        move_bar(self.bar, self.task, event, remaining=remaining)


def move_bar(bar: Progress, task: TaskID, event: events.Event, prefix: str = "", remaining: str = "") -> None:
    """Update a progress bar for an event; `prefix` precedes the phase, `remaining` follows the step's figures."""
    match event:
        case events.Phase():
            bar.update(task, description=f"{prefix}{event.name}", total=None, detail="")
        case events.Progress():
            detail = f"{event.text} {rows_done(event.done, event.total)}"
            bar.update(task, completed=event.done, total=event.total, detail=detail)
        case events.Plan():
            bar.update(task, completed=event.start_step, total=event.steps)
        case events.Step():
            loss = "–" if event.loss is None else f"{event.loss:.4f}"
            figures = f"{event.step}/{event.steps}  loss {loss}  {throughput(event.tokens_per_second)}"
            bar.update(task, completed=event.step, total=event.steps, detail=figures + remaining)


@contextlib.contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress | None]:
    """A progress bar on a terminal, None in a pipe."""
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
    """Ask whether to detach or stop; without a terminal, Ctrl+C detaches. Raises Detached."""
    if bar is not None:
        bar.stop()
    choice = ""
    if sys.stdin.isatty():
        try:
            console.print("\n[d]etach (keeps running), [s]top with a checkpoint, anything else continues: ", end="")
            choice = input().strip().lower()[:1]
        except (KeyboardInterrupt, EOFError):
            console.print()
            choice = "d"
    else:
        choice = "d"
    if choice == "d":
        raise Detached
    if choice == "s":
        with contextlib.suppress(UserError, ProcessLookupError):  # it ended before the user answered
            launch.stop(run)
        say("stopping after the current step …")
    if bar is not None:
        bar.start()
