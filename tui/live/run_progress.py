"""Follow a run without a screen: events as lines above a progress line; Ctrl+C asks whether to detach or stop."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

from engine.config.errors import RunFailed
from engine.config.text import visible
from engine.executors.slurm_queue import JobState, queue
from engine.runs import end_record, events, launch
from engine.runs.follow import Follower, last_line
from engine.runs.ladder_dir import LadderDir
from engine.runs.run_dir import RunDir
from engine.runs.sweep_dir import SweepDir
from tui.live.event_lines import lines
from tui.live.progress_line import ProgressDisplay, progress_display
from tui.output.console import console, say

POLL_SECONDS = 0.1
DEAD_SECONDS = 1.0
"""Seconds without a lock and without new events after which a run counts as dead."""

F = TypeVar("F", RunDir, LadderDir, SweepDir)
T = TypeVar("T")


class Detached(Exception):
    """Raised when the user detaches; the run continues."""


def follow(run: RunDir, offset: int = 0, quiet: bool = False) -> events.End:
    """Show the run until it ends; returns its end.

    Raises Detached where the user chose to detach, and RunFailed where the worker exited without an end.
    """
    follower = Follower(run.events_file, offset)
    with progress_display(quiet) as display:
        view = RunView(display, quiet)

        def poll() -> tuple[events.End | None, bool]:
            news = False
            for fresh in follower.portions(thin=True):  # a long log is shown in portions
                view.end, news = view.show(fresh), True
            job = run.job_state()
            if job is not None and job.is_active:  # at its time limit the run stops, and its job is queued again
                view.show_job(job)
                return None, True
            alive = news or run.is_active()
            return (view.end, True) if alive or view.end else (view.unwritten(run), False)

        return wait_for_end(run, display, poll, run_exited_message)


def wait_for_end(
    folder: F,
    display: ProgressDisplay | None,
    poll: Callable[[], tuple[T | None, bool]],
    exited_message: Callable[[F], str],
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
            ask_to_leave(folder, display)


def run_exited_message(run: RunDir) -> str:
    """Error message for a worker that exited without an end."""
    what = "worker exited unexpectedly (killed, or the machine ran out of memory)"
    if (job := run.job()) is not None:
        what = queue.final_state(job).text
    return f"{what}{last_log_line(run)}; `ftbench resume {run.name}` resumes from the latest checkpoint"


def last_log_line(folder: RunDir | LadderDir | SweepDir) -> str:
    """`. Last log line: …`, '' where the process printed nothing."""
    last = last_line(folder.log_file)
    return f". Last log line: {visible(last, 200)}" if last else ""


class RunView:
    """Prints events as lines above the progress line."""

    def __init__(self, display: ProgressDisplay | None, quiet: bool) -> None:
        self.display, self.quiet = display, quiet
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
        if self.display is not None:
            self.display.line.add(event)


def ask_to_leave(run: RunDir | LadderDir | SweepDir, display: ProgressDisplay | None) -> None:
    """Ask whether to detach or stop; without a terminal, Ctrl+C detaches. Raises Detached."""
    if display is not None:
        display.stop()
    choice = ""
    if sys.stdin.isatty():
        try:
            console.print("\n[d]etach (runs continue), [s]top with a checkpoint, else keep following: ", end="")
            choice = input().strip().lower()[:1]
        except (KeyboardInterrupt, EOFError):
            console.print()
            choice = "d"
    else:
        choice = "d"
    if choice == "d":
        raise Detached
    if choice == "s":
        asked = launch.try_to_stop(run)
        say("stopping after the current step …" if asked else "not stopped: Slurm does not respond; try again")
    if display is not None:
        display.resume()
