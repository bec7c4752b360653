"""`python -m engine.tracking RUN_DIR TRACKER [--project=NAME] [--online|--offline]`: logs one run to one tracker."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from pathlib import Path

from engine.config.errors import UserError, error_text
from engine.config.redaction import redact_output
from engine.config.schema import NOT_TRACKED
from engine.config.settings import flatten
from engine.runs.queue import locks
from engine.runs.run.run_dir import RunDir, read_frozen
from engine.runs.trackers import TRACKERS, TrackerFiles, check_trackers
from engine.tracking.feed import TrackedRun, Tracker, feed, open_tracker

NICENESS = 10
"""Added to the niceness of this process, so that it does not slow the run down."""


def main(arguments: list[str]) -> int:
    """Returns 0 if everything was logged, 2 for invalid arguments, 1 if the tracker failed."""
    if len(arguments) < 2 or arguments[1] not in TRACKERS:
        print(f"usage: python -m engine.tracking RUN_DIR {'|'.join(TRACKERS)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.nice(NICENESS)
    files = TrackerFiles(RunDir(Path(arguments[0]).absolute()), arguments[1])
    try:
        check_trackers([files.tracker])
        project, online = _options(files.run, arguments[2:])
        lock = _wait_for_lock(files)
    except UserError as error:
        print(error.line, file=sys.stderr)
        return 2
    state = files.state_for(project)
    try:
        feed(files, state, lambda: _open(files, project, online))
    except Exception as error:  # noqa: BLE001 - top level of the process: any error of the tracker's library
        traceback.print_exc()
        state.error = error_text(error)
    if files.folder.exists():  # else the run was deleted
        files.write(state)
    return 1 if state.error and lock is not None else 0


def _wait_for_lock(files: TrackerFiles) -> int:
    """Wait for an earlier process of the same tracker, which ends after its run's worker."""
    while (lock := locks.acquire(files.lock_file)) is None:
        time.sleep(0.2)
    return lock


def _options(run: RunDir, options: list[str]) -> tuple[str, bool]:
    """Project and whether the network may be used: as given, else as configured."""
    track = read_frozen(run).config.track
    given = [option.removeprefix("--project=") for option in options if option.startswith("--project=")]
    online = track.online if not {"--online", "--offline"} & set(options) else "--online" in options
    return (given or [track.project])[-1], online


def _open(files: TrackerFiles, project: str, online: bool) -> Tracker:
    frozen = read_frozen(files.run)
    settings = {
        key: value for key, value in flatten(frozen.config).items() if key not in NOT_TRACKED and value is not None
    }
    return open_tracker(
        files.tracker,
        TrackedRun(files.run.name, project, frozen.ladder, settings, files.folder, online),
    )


if __name__ == "__main__":
    redact_output()
    sys.exit(main(sys.argv[1:]))
