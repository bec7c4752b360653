"""Follow a run or a ladder without a screen: lines above a progress line; Ctrl+C asks whether to detach or stop."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar

from engine.config.errors import RunFailed
from engine.config.metric_specs import metric_spec
from engine.config.quantities import duration, rate
from engine.config.text import amount, shortened, visible
from engine.executors.jobs import JobState, system_of
from engine.runs import score_format, start
from engine.runs.ladder.ladder_dir import ComparisonDir, LadderDir
from engine.runs.ladder.ladder_state import TIMING_PROBE, WITHOUT_OUTCOME, ComparisonState, Ladder, LadderEntry, is_base
from engine.runs.ladder.rung_results import RungResult
from engine.runs.run import events
from engine.runs.run.event_log import Follower, exit_message
from engine.runs.run.run_dir import RunDir
from engine.runs.stopping import CUDA_ERROR
from tui.cli.comparisons import view_of
from tui.cli.progress import ProgressDisplay, progress_display
from tui.live.event_lines import lines
from tui.live.run_state import RunState
from tui.output.console import console, say

POLL_SECONDS = 0.1
DEAD_SECONDS = 1.0
"""Seconds without a lock and without new events after which a run counts as dead."""

T = TypeVar("T")


class Detached(Exception):
    """Raised when the user detaches; the run continues."""


def follow(run: RunDir, offset: int = 0, quiet: bool = False) -> events.End:
    """Show the run until it ends, its events as lines above the progress line; returns its end.

    Raises Detached where the user chose to detach, and RunFailed where the worker exited without an end.
    """
    follower = Follower(run.events_file, offset)
    end: events.End | None = None
    refused = False
    shown_job: JobState | None = None
    with progress_display(quiet) as display:

        def show(event: events.Event) -> None:
            nonlocal refused
            if isinstance(event, events.Error):
                refused = event.user
            if quiet or (refused and isinstance(event, events.End)):  # the command prints this error on stderr
                return
            for text in lines(event):
                say(text, "yellow" if isinstance(event, events.Warning) else "")
            if display is not None:
                display.run.feed([event])

        def poll() -> tuple[events.End | None, bool]:
            nonlocal end, shown_job
            news = False
            for fresh in follower.portions(thin=True):  # a long log is shown in portions
                for event in fresh:
                    show(event)
                    end = event if isinstance(event, events.End) else None  # one before others: it was resumed
                news = True
            job = run.job_state()
            if job is not None and job.is_active:  # at its time limit the run stops, and its job is queued again
                if job != shown_job and not quiet:
                    say(job.text)
                shown_job = job
                return None, True
            if news or run.is_active() or end:
                return end, True
            if record := run.read_end():  # it could not log its end because the disk was full
                end = events.End(status=record.status, reason=record.reason, t=record.t)
                show(end)
            return end, False

        def exited_message() -> str:
            what = "worker exited unexpectedly"
            if not exit_message(run.log_file).startswith(CUDA_ERROR):
                what += " (killed, or the machine ran out of memory)"
            if (job := run.job()) is not None:
                what = system_of(job).final_state(job).text
            return f"{what}{last_log_line(run)}; `ftbench resume {run.argument}` resumes from the latest checkpoint"

        return wait_for_end(run, display, poll, exited_message)


def wait_for_end(
    folder: RunDir | ComparisonDir,
    display: ProgressDisplay | None,
    poll: Callable[[], tuple[T | None, bool]],
    exited_message: Callable[[], str],
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
                raise RunFailed(exited_message(), "run.process_died")
            time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            ask_to_leave(folder, display)


def last_log_line(folder: RunDir | ComparisonDir) -> str:
    """`. Its log ends: …`, '' where the process printed nothing."""
    last = exit_message(folder.log_file)
    return f". Its log ends: {visible(last, 400)}" if last else ""


def ask_to_leave(run: RunDir | ComparisonDir, display: ProgressDisplay | None) -> None:
    """Ask whether to detach or stop; without a terminal, Ctrl+C detaches. Raises Detached."""
    if display is not None:
        display.live.stop()
    choice = "d"
    if sys.stdin.isatty():
        try:
            console.print("\n[d]etach (runs continue), [s]top with a checkpoint, else keep following: ", end="")
            choice = input().strip().lower()[:1]
        except (KeyboardInterrupt, EOFError):
            console.print()
    if choice == "d":
        raise Detached
    if choice == "s":
        asked = start.try_to_stop(run)
        say("stopping after the current step …" if asked else "not stopped: its batch system does not answer")
    if display is not None:
        display.live.start()


STAGE_TEXTS = {
    "preparing": "reading data and model",
    "probing": "timing probes: a few steps of every rung",
    "tuning": "trying learning rates on the validation split",
    "training": "running the rungs",
    "exporting": "exporting, checking and scoring the artifacts",
    "asking": "asking models that are not trained",
    "analyzing": "computing the verdict",
}


def follow_comparison(folder: ComparisonDir, quiet: bool = False, known: Collection[str] = ()) -> ComparisonState:
    """Show a ladder, or several, until it ends; returns its last state. `known`: texts of warnings that were shown.

    Raises Detached where the user chose to detach, and RunFailed where its process exited unexpectedly.
    """
    with progress_display(quiet) as display:
        if isinstance(folder, LadderDir):
            show: Callable[[Any], None] = LadderView(folder, display, quiet, known).show
        else:
            show = view_of(folder).follower(folder, display, quiet)

        def poll() -> tuple[ComparisonState | None, bool]:
            live, state = folder.is_active(), folder.state()
            if state is not None and (state.status == "running" or not live):  # else: written before the resume
                show(state)
            has_ended = not live and state is not None and state.status != "running"
            return (state if has_ended else None), live

        def exited_message() -> str:
            what = f"{folder.KIND} process exited unexpectedly{last_log_line(folder)}"
            return f"{what}; `ftbench resume {folder.argument}` resumes it"

        return wait_for_end(folder, display, poll, exited_message)


class LadderView:
    """Prints lines above the progress line; each state is complete, so only what is new in it is printed."""

    def __init__(
        self, folder: LadderDir, display: ProgressDisplay | None, quiet: bool, known: Collection[str] = ()
    ) -> None:
        self.folder, self.display, self.quiet = folder, display, quiet
        self.printed: set[object] = set(known)
        """Subjects of the lines that were printed (`ladder_lines`)."""
        self.follower: Follower | None = None
        """Reads the events of the active run."""

    def show(self, ladder: Ladder) -> None:
        if self.quiet:
            return
        for subject, text, style in ladder_lines(ladder):
            if subject not in self.printed:
                self.printed.add(subject)
                print_line(text, style)
        self._updateprint_line(ladder)

    def _updateprint_line(self, ladder: Ladder) -> None:
        """Update the progress line with the active run or export, or with the stage between runs."""
        if self.display is None:
            return
        self.display.ladder = ladder
        live = next((entry for entry in ladder.entries if entry.status == "live" and entry.run), None)
        if live is None or live.kind == "export":
            note = f"{live.rung}: {shortened(live.progress)}" if live else ""
            self.display.run, self.follower = RunState(phase=ladder.stage, note=note), None
            return
        if self.follower is None or live.run != self.display.run.name:
            self.display.run = RunState(live.run)
            self.follower = Follower(RunDir(self.folder.runs / live.run).events_file)
        for portion in self.follower.portions(thin=True):
            self.display.run.feed(portion)


def ladder_lines(ladder: Ladder) -> Iterator[tuple[object, str, str]]:
    """(subject, line, style) for everything to print of a state. A line is printed only once for its subject."""
    if ladder.stage in STAGE_TEXTS:
        yield ladder.stage, STAGE_TEXTS[ladder.stage], ""
    for text in ladder.warnings:
        yield text, f"warning: {text}", "yellow"
    for entry in ladder.entries:
        if entry.status not in WITHOUT_OUTCOME:
            yield (entry.rung, entry.kind, entry.seed, entry.learning_rate, entry.status), _outcome(entry), ""
    for row in ladder.rows:
        if text := _score(row, ladder):
            yield ("score", row.name), text, ""
    if ladder.estimates and ladder.stage in ("tuning", "training"):
        for number, text in enumerate(time_estimates(ladder)):
            yield ("estimate", number), text, ""


def _outcome(entry: LadderEntry) -> str:
    """`lora seed 1 finished in 4:10`, `full trial at 1e-5 failed: …`."""
    finished = entry.status == "finished"
    run, trial = f"seed {entry.seed}", f"trial at {rate(entry.learning_rate)}"
    what = {"probe": TIMING_PROBE, "trial": trial, "run": run, "export": f"export {run}"}[entry.kind]
    took = f" in {duration(entry.seconds)}" if entry.seconds is not None and finished else ""
    loss = "" if entry.validation_loss is None else f", validation loss {entry.validation_loss:.4f}"
    reused = ", reused from an earlier run" if entry.reused else ""
    reason = f": {entry.reason}" if entry.reason and not finished else ""
    disturbed = f", disturbed timing: {entry.disturbed}" if entry.disturbed else ""
    return f"{entry.rung} {what} {entry.status.replace('_', ' ')}{took}{loss}{reused}{reason}{disturbed}"


def _score(row: RungResult, ladder: Ladder) -> str:
    """The score of the base model, or of a rung whose last seed is done; '' for other rows.

    The interval of a trained rung is in the table only: it changes with the seeds of the others.
    """
    entries = [entry for entry in ladder.entries if entry.rung == row.name and entry.kind in ("run", "export")]
    if row.score is None or not all(entry.is_done for entry in entries):
        return ""
    if len(row.seeds) < sum(entry.status == "finished" for entry in entries):
        return ""  # saved by the thread of the run that has just ended, before the rows were computed with it
    metric = ladder.work.metric if ladder.work else ""
    text = f"{row.name}: {metric_spec(metric).title} {score_format.score(row.score.mean, metric)}"
    if not is_base(row.name):
        return f"{text}, {amount(len(row.seeds), 'seed')}"
    bounds = score_format.score_bounds(row.score, metric)
    return f"{text}, 95% CI {bounds}" if bounds else text


def print_line(text: str, style: str = "") -> None:
    """Print a line with the time."""
    say(shortened(f"{time.strftime('%H:%M:%S')} {text}"), style)


def time_estimates(ladder: Ladder) -> Iterator[str]:
    """Remaining runs and their estimated time, from the timing probes."""
    by_rung = {estimate.rung: estimate for estimate in ladder.estimates}
    low = high = 0.0
    for name, estimate in by_rung.items():
        planned = [entry for entry in ladder.entries if entry.rung == name and entry.kind != "probe"]
        left = [entry for entry in planned if not entry.is_done]
        low, high = low + estimate.low * len(left), high + estimate.high * len(left)
        duration_text = f"{between(estimate.low, estimate.high)}{' each' if len(left) != 1 else ''}"
        steps = amount(estimate.steps_measured, "measured step")
        yield f"{name}: {amount(len(left), 'run')}, {duration_text} (from {steps}, {estimate.step_seconds:.2f} s/step)"
    at_once = f", {ladder.runs_at_once} runs at a time" if ladder.runs_at_once > 1 else ""
    total = between(low / ladder.runs_at_once, high / ladder.runs_at_once)
    yield f"total: about {total} (estimated from these steps and the longest answers{at_once})"


def between(low: float, high: float) -> str:
    """`4:10 to 5:30`, or one of them where both print the same."""
    texts = duration(low), duration(high)
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} to {texts[1]}"
