"""`python -m engine.extensions.trackers RUN_DIR TRACKER [--project=NAME] [--online|--offline]`: logs one run.

The tracker is fed from the log of the run until the run ends.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from engine.config.errors import UserError, error_text
from engine.config.redaction import redact_output
from engine.config.schema import DESCRIPTIVE_KEYS, section_of
from engine.config.settings import flatten
from engine.extensions.trackers.metric_rows import KINDS, MetricRow, RowBuilder, TrackedRun, Tracker, summary_of
from engine.extensions.trackers.settings import Track
from engine.extensions.trackers.trackers import TRACKERS, TrackerFiles, TrackerState, check_trackers
from engine.runs.queue import locks
from engine.runs.run.event_log import Follower
from engine.runs.run.run_dir import RunDir, read_frozen

NICENESS = 10
"""Added to the niceness of this process, so that it does not slow the run down."""
POLL_SECONDS = 1.0


def main(arguments: list[str]) -> int:
    """Returns 0 if everything was logged, 2 for invalid arguments, 1 if the tracker failed."""
    if len(arguments) < 2 or arguments[1] not in TRACKERS:
        print(f"usage: python -m engine.extensions.trackers RUN_DIR {'|'.join(TRACKERS)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.nice(NICENESS)
    options = arguments[2:]
    files = TrackerFiles(RunDir(Path(arguments[0]).absolute()), arguments[1])
    try:
        check_trackers([files.tracker])
        frozen = read_frozen(files.run)
        track = section_of(frozen.config, Track)
        projects = [option.removeprefix("--project=") for option in options if option.startswith("--project=")]
        project = (projects or [track.project])[-1]
        online = track.online if not {"--online", "--offline"} & set(options) else "--online" in options
        # An earlier process of the same tracker ends after its run's worker.
        while locks.acquire(files.lock_file) is None:
            time.sleep(0.2)
    except UserError as error:
        print(error.line, file=sys.stderr)
        return 2

    def open_tracker() -> Tracker:
        settings = {
            key: value
            for key, value in flatten(frozen.config).items()
            if value is not None and key not in DESCRIPTIVE_KEYS and not key.startswith("track.")
        }
        run = TrackedRun(files.run.name, project, frozen.ladder, settings, files.folder, online)
        opened: Tracker = importlib.import_module(f"engine.extensions.trackers.to_{files.tracker}").open_run(run)
        return opened

    state = files.state_for(project)
    try:
        feed(files, state, open_tracker)
    except Exception as error:  # noqa: BLE001 - top level of the process: any error of the tracker's library
        traceback.print_exc()
        state.error = error_text(error)
    if files.folder.exists():  # else the run was deleted
        files.write(state)
    return 1 if state.error else 0


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


if __name__ == "__main__":
    redact_output()
    sys.exit(main(sys.argv[1:]))
