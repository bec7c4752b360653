"""Feed a tracker from the log of a run until the run ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from engine.config.errors import UserError
from engine.config.metric_specs import metric_spec
from engine.runs.follow import Follower
from engine.runs.result import Interval, Result
from engine.runs.run_dir import RunDir
from engine.runs.tracking import TrackerFiles, TrackerState
from engine.tracking.metric_rows import KINDS, MetricRow, RowBuilder
from engine.tracking.tracker import Tracker

POLL_SECONDS = 1.0


def feed(files: TrackerFiles, state: TrackerState, open_tracker: Callable[[], Tracker]) -> None:
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
            tracker = tracker or open_tracker()
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
        **_scores(result, "before", "test_before"),
        **_scores(result, "after", "test"),
    }
    return {name: value for name, value in summary.items() if value is not None}


def _scores(result: Result, moment: str, prefix: str) -> dict[str, float | None]:
    score = getattr(result, moment)
    if score is None:
        return {}
    values = {f"{prefix}/loss": score.loss.mean}
    if metric_spec(score.metric).needs_answers:
        values |= _interval(f"{prefix}/{score.metric}", score.score)
    return values


def _interval(name: str, score: Interval) -> dict[str, float | None]:
    return {name: score.mean, f"{name}_low": score.low, f"{name}_high": score.high}
