"""The time left of a run and of a ladder, estimated from what they have measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from engine.config.quantities import duration
from engine.runs.ladder.ladder_state import Ladder, LadderEntry
from engine.runs.run import events

ANSWERS = "test answers"
"""Text of the worker's progress while it generates the answers to the test rows."""
SIMILAR = 1.1
"""Ratio of the bounds of an estimate up to which their mean is shown instead of both."""


class TimeLeft(NamedTuple):
    """Seconds until the end of a run, or of its phase."""

    seconds: float
    phase: str = ""
    """The phase whose end is meant; '' for the end of the run."""

    def __str__(self) -> str:
        return f"{rounded(self.seconds)} left{f' in {self.phase}' if self.phase else ''}"


def rounded(seconds: float) -> str:
    """An estimated duration in whole seconds: `9 s`, `4:05`."""
    return duration(seconds) if seconds >= 59.5 else f"{seconds:.0f} s"


class RunTimer:
    """Estimates when a run ends from its own events: seconds per step with validation and checkpoints, rows per second.

    The evaluation after training takes about as long as that of the base model, which scores the same rows. Without it
    only the end of the current phase is known.
    """

    def __init__(self) -> None:
        self._phase = ""
        self._phase_began = self._now = 0.0
        self._baseline: float | None = None
        self._first_step: tuple[float, int] | None = None
        self._step: events.Step | None = None
        self._step_at = 0.0
        self._work = ""
        self._first_rows = self._last_rows = (0.0, 0)
        self._progress: events.Progress | None = None

    def add(self, event: events.Event) -> None:
        """Take note of an event; events are in order, but some may be missing."""
        self._now = event.t if event.elapsed is None else event.elapsed
        match event:
            case events.Hello():
                self._enter("")
                self._first_step = self._step = None
            case events.Phase():
                if self._phase == "baseline":
                    self._baseline = max(self._baseline or 0.0, self._now - self._phase_began)
                self._enter(event.name)
            case events.Eval(when="before", split="test"):
                self._baseline = max(self._baseline or 0.0, event.seconds)
            case events.Step():
                self._first_step = self._first_step or (self._now, event.step)
                self._step, self._step_at = event, self._now
            case events.Progress():
                if event.text != self._work or event.done < self._last_rows[1]:
                    self._work, self._first_rows, self._last_rows = event.text, (self._now, event.done), (0.0, -1)
                if event.done != self._last_rows[1]:
                    self._last_rows = (self._now, event.done)
                self._progress = event

    def left(self) -> TimeLeft | None:
        """The estimate at the last event; None while nothing is known."""
        if self._phase == "training":
            return self._in_training()
        if (rows := self._rows_left()) is not None:
            return TimeLeft(rows, "" if self._phase == "evaluation" else self._phase)
        if self._phase == "evaluation" and self._baseline is not None:
            return TimeLeft(max(0.0, self._baseline - (self._now - self._phase_began)))
        return None

    def _enter(self, phase: str) -> None:
        self._phase, self._phase_began = phase, self._now
        self._work, self._progress = "", None

    def _in_training(self) -> TimeLeft | None:
        if self._step is None or self._first_step is None:
            return None
        began, first = self._first_step
        done = self._step.step - first
        pace = (self._step_at - began) / done if done > 0 else self._step.seconds
        seconds = max(0.0, pace * (self._step.steps - self._step.step) - (self._now - self._step_at))
        return TimeLeft(seconds, "training") if self._baseline is None else TimeLeft(seconds + self._baseline)

    def _rows_left(self) -> float | None:
        """Seconds for the rows left; in an evaluation only for the answers, its longest part."""
        progress = self._progress
        if progress is None or progress.total is None:
            return None
        if self._phase in ("baseline", "evaluation") and progress.text != ANSWERS:
            return None
        (began, first), (latest, done) = self._first_rows, self._last_rows
        if done <= first:
            return None
        return max(0.0, (latest - began) / (done - first) * (progress.total - done) - (self._now - latest))


def ladder_left(ladder: Ladder, now: float, run: str = "", left: TimeLeft | None = None) -> str:
    """`ladder 12:30 left`, `ladder 10:00 to 13:00 left`, `ladder up to 20 s left`.

    '' while a rung was neither measured nor finished. `now` in Unix seconds.

    `left` is the time left of the active run `run`, where the end of the run is known; of every other active run it is
    its estimate less the time since it was started. Exports are not estimated.
    """
    runs: list[tuple[float, float]] = []
    for entry in ladder.entries:
        if entry.is_done or entry.kind in ("probe", "export"):
            continue
        if entry.status == "live" and entry.run == run and left is not None and not left.phase:
            runs.append((left.seconds, left.seconds))
            continue
        bounds = _run_seconds(ladder, entry)
        if bounds is None:
            return ""
        passed = now - entry.started if entry.status == "live" and entry.started is not None else 0.0
        runs.append((max(0.0, bounds[0] - passed), max(0.0, bounds[1] - passed)))
    low, high = (_at_once(seconds, ladder.runs_at_once) for seconds in zip(*runs, strict=True)) if runs else (0.0, 0.0)
    return f"ladder {_between(low, high)} left" if high >= 0.5 else ""


def _at_once(seconds: Sequence[float], runs_at_once: int) -> float:
    """Seconds of several runs, so many at a time: at least those of the longest."""
    return max(*seconds, sum(seconds) / max(1, runs_at_once))


def _run_seconds(ladder: Ladder, entry: LadderEntry) -> tuple[float, float] | None:
    """Seconds of a run: the range over the finished runs of its rung, else the estimate of its timing probe."""
    like = [
        finished.seconds
        for finished in ladder.entries
        if (finished.rung, finished.kind, finished.status) == (entry.rung, entry.kind, "finished")
        and finished.seconds is not None
    ]
    if like:
        return min(like), max(like)
    return next(((known.low, known.high) for known in ladder.estimates if known.rung == entry.rung), None)


def _between(low: float, high: float) -> str:
    if low < 0.5:
        return f"up to {rounded(high)}"
    if high <= low * SIMILAR:
        return rounded((low + high) / 2)
    return f"{rounded(low)} to {rounded(high)}"
