"""What an experiment tracker has to do, and its work: it is fed from the log of a run until the run ends."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from engine.config.errors import UserError
from engine.config.metric_specs import metric_spec
from engine.runs.run.event_log import Follower
from engine.runs.run.result import Score
from engine.runs.run.run_dir import RunDir
from engine.runs.trackers import TrackerFiles, TrackerState
from engine.tracking.metric_rows import KINDS, MetricRow, RowBuilder

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class TrackedRun:
    """The run as a tracker names it."""

    name: str
    """Also its identifier: a later process continues the run of this name."""
    project: str
    group: str
    """The ladder that started it, '' for none."""
    config: dict[str, Any]
    """Settings by dotted key."""
    folder: Path
    """For the tracker's own files."""
    online: bool
    """Whether it may use the network."""


class Tracker(Protocol):
    """A module of this package has a function `open_run(run: TrackedRun) -> Tracker`."""

    def log(self, rows: Sequence[MetricRow], first: int) -> None:
        """Log rows; `first` is the index of the first one among all rows of the run, from 0."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Write everything to disk; `summary` are the run's results, empty for a run without any."""


def open_tracker(name: str, run: TrackedRun) -> Tracker:
    """Open the run in a tracker. Raises any error of the tracker's library."""
    module = importlib.import_module(f"engine.tracking.to_{name}")
    tracker: Tracker = module.open_run(run)
    return tracker


def feed(files: TrackerFiles, state: TrackerState, opened: Callable[[], Tracker]) -> None:
    """Log all rows that the tracker has not received, until the run's worker has exited and its log is read.

    The tracker is opened with the first new row, so that a process without news leaves no trace in it. Raises any error
    of the tracker's library.
    """
    run, builder, follower = files.run, RowBuilder(), Follower(files.run.events_file)
    tracker: Tracker | None = None
    seen = 0
    while True:
        live = run.is_active()  # before reading: what the worker wrote until it exited is read
        for rows in _new_rows(builder, follower, last=not live):
            fresh = rows[max(0, state.rows - seen) :]
            seen += len(rows)
            if not fresh:
                continue
            tracker = tracker or opened()
            tracker.log(fresh, state.rows)
            state.rows += len(fresh)
            files.write(state)
        if not live or not run.path.exists():
            break
        time.sleep(POLL_SECONDS)
    if tracker is not None:
        tracker.finish(summary_of(run))


def _new_rows(builder: RowBuilder, follower: Follower, last: bool) -> Iterator[list[MetricRow]]:
    """Rows by portion of the log; with `last` also the row in progress."""
    for portion in follower.portions(*KINDS):
        yield [row for event in portion for row in builder.add(event)]
    if last:
        yield list(builder.flush())


def summary_of(run: RunDir) -> dict[str, Any]:
    """Results of a run by the names of its metrics; empty for a run without a result."""
    try:
        result = run.result()
    except UserError:  # damaged: its rows are logged all the same
        result = None
    if result is None:
        return {}
    summary: dict[str, Any] = {
        "status": result.status,
        "method": result.method,
        "trainable_parameters": result.trainable,
        "total_parameters": result.parameters,
        "train_runtime": result.step_seconds,
        "peak_memory_gib": result.peak.training / 2**30 if result.peak.training else None,
        **_scores(result.before, "test_before"),
        **_scores(result.after, "test"),
    }
    return {name: value for name, value in summary.items() if value is not None}


def _scores(score: Score | None, prefix: str) -> dict[str, float | None]:
    if score is None:
        return {}
    values = {f"{prefix}/loss": score.loss.mean}
    if not metric_spec(score.metric).is_loss:
        name, interval = f"{prefix}/{score.metric}", score.score
        values |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return values
