"""Follow a run or a ladder without a screen: lines above a progress line; Ctrl+C asks whether to detach or stop."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

from engine.config.errors import RunFailed
from engine.config.metric_specs import metric_spec
from engine.config.quantities import duration, rate
from engine.config.text import amount, shortened, visible
from engine.executors.slurm import JobState, queue
from engine.runs import score_format, start
from engine.runs.ladder.ladder_dir import LadderDir, SweepDir
from engine.runs.ladder.ladder_state import TIMING_PROBE, WITHOUT_OUTCOME, Ladder, LadderEntry, is_base
from engine.runs.ladder.rung_results import RungResult
from engine.runs.ladder.sweep import Sweep, cell_text
from engine.runs.run import events
from engine.runs.run.event_log import Follower, exit_message
from engine.runs.run.run_dir import RunDir
from engine.runs.stopping import CUDA_ERROR
from tui.cli.progress import ProgressDisplay, progress_display
from tui.live.event_lines import lines
from tui.live.run_state import ladder_left
from tui.output.console import console, say

POLL_SECONDS = 0.1
DEAD_SECONDS = 1.0
"""Seconds without a lock and without new events after which a run counts as dead."""

T = TypeVar("T")


class Detached(Exception):
    """Raised when the user detaches; the run continues."""


def follow(run: RunDir, offset: int = 0, quiet: bool = False) -> events.End:
    """Show the run until it ends; returns its end.

    Raises Detached where the user chose to detach, and RunFailed where the worker exited without an end.
    """
    follower = Follower(run.events_file, offset)
    end: events.End | None = None
    with progress_display(quiet) as display:
        view = RunView(display, quiet)

        def poll() -> tuple[events.End | None, bool]:
            nonlocal end
            news = False
            for fresh in follower.portions(thin=True):  # a long log is shown in portions
                for event in fresh:
                    view.show(event)
                    end = event if isinstance(event, events.End) else None  # one before others: it was resumed
                news = True
            job = run.job_state()
            if job is not None and job.is_active:  # at its time limit the run stops, and its job is queued again
                view.show_job(job)
                return None, True
            if news or run.is_active() or end:
                return end, True
            if record := run.read_end():  # it could not log its end because the disk was full
                end = events.End(status=record.status, reason=record.reason, t=record.t)
                view.show(end)
            return end, False

        return wait_for_end(run, display, poll, partial(run_exited_message, run))


def wait_for_end(
    folder: RunDir | LadderDir | SweepDir,
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


def run_exited_message(run: RunDir) -> str:
    """Error message for a worker that exited without an end."""
    what = "worker exited unexpectedly"
    if not exit_message(run.log_file).startswith(CUDA_ERROR):
        what += " (killed, or the machine ran out of memory)"
    if (job := run.job()) is not None:
        what = queue.final_state(job).text
    return f"{what}{last_log_line(run)}; `ftbench resume {run.argument}` resumes from the latest checkpoint"


def last_log_line(folder: RunDir | LadderDir | SweepDir) -> str:
    """`. Its log ends: …`, '' where the process printed nothing."""
    last = exit_message(folder.log_file)
    return f". Its log ends: {visible(last, 400)}" if last else ""


class RunView:
    """Prints events as lines above the progress line."""

    def __init__(self, display: ProgressDisplay | None, quiet: bool) -> None:
        self.display, self.quiet = display, quiet
        self.refused = False
        self.job: JobState | None = None
        """The state of its Slurm job that was shown last."""

    def show_job(self, job: JobState) -> None:
        """Show the state of a Slurm job, once until it changes."""
        if job != self.job and not self.quiet:
            say(job.text)
        self.job = job

    def show(self, event: events.Event) -> None:
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
        display.live.stop()
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
        asked = start.try_to_stop(run)
        say("stopping after the current step …" if asked else "not stopped: Slurm does not respond; try again")
    if display is not None:
        display.live.start()


STAGE_TEXTS = {
    "preparing": "reading data and model",
    "probing": "timing probes: a few steps of every rung",
    "tuning": "trying learning rates on the validation split",
    "training": "running the rungs",
    "exporting": "exporting, checking and scoring the artifacts",
    "asking": "asking served models",
    "analyzing": "computing the verdict",
}


def follow_comparison(folder: LadderDir | SweepDir, quiet: bool = False, known: Collection[str] = ()) -> Ladder | Sweep:
    """Show a ladder or sweep until it ends; returns its last state. `known`: texts of warnings that were shown before.

    Raises Detached where the user chose to detach, and RunFailed where its process exited unexpectedly.
    """
    with progress_display(quiet) as display:
        if isinstance(folder, LadderDir):
            show: Callable[[Any], None] = LadderView(folder, display, quiet, known).show
        else:
            first = folder.ladder(folder.plan().cells[0].ladder)
            show = SweepView(folder, LadderView(first, display, quiet)).show

        def poll() -> tuple[Ladder | Sweep | None, bool]:
            live, state = folder.is_active(), folder.state()
            if state is not None and (state.status == "running" or not live):  # else: written before the resume
                show(state)
            has_ended = not live and state is not None and state.status != "running"
            return (state if has_ended else None), live

        def exited_message() -> str:
            what = f"{folder.KIND} process exited unexpectedly{last_log_line(folder)}"
            return f"{what}; `ftbench resume {folder.argument}` resumes it"

        return cast(Ladder | Sweep, wait_for_end(folder, display, poll, exited_message))


@dataclass
class LadderView:
    """Prints lines above the progress line; each state is complete, so only changes are printed."""

    folder: LadderDir
    display: ProgressDisplay | None
    quiet: bool
    known: Collection[str] = ()
    stage: str = ""
    printed: set[tuple[str, str, int, float, str]] = field(default_factory=set)
    scored: set[str] = field(default_factory=set)
    """Rows of the ladder's table whose score was printed."""
    printed_warnings: int = 0
    estimated: bool = False
    follower: Follower | None = None
    run: str = ""

    def show(self, ladder: Ladder) -> None:
        if self.quiet:
            return
        if ladder.stage != self.stage:
            self.stage = ladder.stage
            if ladder.stage in STAGE_TEXTS:
                _line(STAGE_TEXTS[ladder.stage])
        for text in ladder.warnings[self.printed_warnings :]:
            if text not in self.known:
                _line(f"warning: {text}", "yellow")
        self.printed_warnings = len(ladder.warnings)
        for entry in ladder.entries:
            self._print_entry(entry)
        for row in ladder.rows:
            self._print_score(row, ladder)
        if ladder.estimates and ladder.stage in ("tuning", "training") and not self.estimated:
            self.estimated = True
            for text in time_estimates(ladder):
                _line(text)
        self._update_line(ladder)

    def _print_entry(self, entry: LadderEntry) -> None:
        key = (entry.rung, entry.kind, entry.seed, entry.learning_rate, entry.status)
        if entry.status in WITHOUT_OUTCOME or key in self.printed:
            return
        self.printed.add(key)
        reused = ", reused from an earlier run" if entry.reused else ""
        loss = "" if entry.validation_loss is None else f", validation loss {entry.validation_loss:.4f}"
        reason = f": {entry.reason}" if entry.reason and entry.status != "finished" else ""
        took = f" in {duration(entry.seconds)}" if entry.seconds is not None and entry.status == "finished" else ""
        trial = f"trial at {rate(entry.learning_rate)}"
        run = f"seed {entry.seed}"
        what = {"probe": TIMING_PROBE, "trial": trial, "run": run, "export": f"export {run}"}[entry.kind]
        disturbed = f", disturbed timing: {entry.disturbed}" if entry.disturbed else ""
        _line(f"{entry.rung} {what} {entry.status.replace('_', ' ')}{took}{loss}{reused}{reason}{disturbed}")

    def _print_score(self, row: RungResult, ladder: Ladder) -> None:
        """Print the score of the base model, and of a rung whose last seed is done."""
        entries = [entry for entry in ladder.entries if entry.rung == row.name and entry.kind in ("run", "export")]
        if row.score is None or row.name in self.scored or not all(entry.is_done for entry in entries):
            return
        if len(row.seeds) < sum(entry.status == "finished" for entry in entries):
            return  # saved by the thread of the run that has just ended, before the rows were computed with it
        self.scored.add(row.name)
        metric = ladder.work.metric if ladder.work else ""
        bounds = score_format.score_bounds(row.score, metric)
        interval = f", 95% CI {bounds}" if bounds else ""
        seeds = "" if is_base(row.name) else f", {amount(len(row.seeds), 'seed')}"
        score = f"{metric_spec(metric).title} {score_format.score(row.score.mean, metric)}"
        _line(f"{row.name}: {score}{interval}{seeds}")

    def _update_line(self, ladder: Ladder) -> None:
        """Update the progress line with the active run, or with the stage between runs."""
        if self.display is None:
            return
        line = self.display.line
        live = next((entry for entry in ladder.entries if entry.status == "live" and entry.run), None)
        if live is None:
            self.run = ""
            line.show_stage("", ladder.stage)
            line.ladder_left = ladder_left(ladder, time.time())
            return
        if live.kind == "export":
            line.show_stage(f"{self._place(ladder)} {live.rung}", shortened(live.progress))
            return
        if live.run != self.run or self.follower is None:
            self.run = live.run
            self.follower = Follower(RunDir(self.folder.runs / live.run).events_file)
            probe = f" {TIMING_PROBE}" if live.kind == "probe" else ""
            line.start(f"{self._place(ladder)} {live.rung}{probe}")
        for portion in self.follower.portions(thin=True):
            for event in portion:
                line.add(event)
        line.ladder_left = ladder_left(ladder, time.time(), live.run, line.left)

    def _place(self, ladder: Ladder) -> str:
        """Position of the active run among all runs: `2/6`."""
        done = sum(entry.is_done for entry in ladder.entries)
        return f"{done + 1}/{len(ladder.entries)}"


def _line(text: str, style: str = "") -> None:
    say(shortened(f"{time.strftime('%H:%M:%S')} {text}"), style)


@dataclass
class SweepView:
    """Prints what changed in a sweep, and the progress of its active ladder."""

    folder: SweepDir
    ladder: LadderView
    printed: dict[str, str] = field(default_factory=dict)
    """Ladder -> the status of its cell that was printed."""
    estimated: bool = False

    def show(self, sweep: Sweep) -> None:
        if self.ladder.quiet:
            return
        for text in _sweep_estimate(sweep) if sweep.stage == "running" and not self.estimated else ():
            _line(text)
        self.estimated = self.estimated or sweep.stage == "running"
        for cell in sweep.cells:
            if cell.status not in ("planned", self.printed.get(cell.ladder)):
                reason = f": {cell.reason}" if cell.reason else ""
                _line(f"{cell_text(cell.values)} {cell.status}{reason}")
                self.printed[cell.ladder] = cell.status
            if cell.status == "live":
                self._show_ladder(cell.ladder)

    def _show_ladder(self, name: str) -> None:
        if self.ladder.folder.name != name:
            self.ladder = LadderView(self.folder.ladder(name), self.ladder.display, self.ladder.quiet)
        if state := self.ladder.folder.state():
            self.ladder.show(state)


def _sweep_estimate(sweep: Sweep) -> list[str]:
    """The estimate for the whole sweep; none without timing probes."""
    if sweep.low is None or sweep.high is None:
        return []
    remaining = max(0.0, sweep.low - sweep.spent), max(0.0, sweep.high - sweep.spent)
    runs = f"{amount(len(sweep.cells), 'ladder')}, {amount(sweep.runs, 'run')}"
    return [f"total: about {between(*remaining)} for {runs} (equal runs count once)"]


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
