"""Runs in a list: one line per run, from its result or from the last events."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from engine.config.errors import UserError
from engine.config.files import read_regular
from engine.config.metric_specs import metric_spec
from engine.config.quantities import duration
from engine.executors.jobs import system_of
from engine.runs.home import tilde
from engine.runs.run import events, run_dir
from engine.runs.run.event_log import Follower
from engine.runs.run.events import decode
from engine.runs.run.folder import short_name, sort_by_start
from engine.runs.run.result import Result
from engine.runs.run.result_builder import phase_seconds
from engine.runs.run.run_dir import RunDir, continued_run_name
from tui.format import last_part

TAIL_BYTES = 65536
"""Bytes at the end of a log in which the progress of a live run is looked for."""
MAX_LOG_BYTES = 4 << 20
"""Size of a log up to which the time of a live run is computed on every refresh, which takes milliseconds."""
TIMED_EVENTS = tuple(b'{"type":"%s"' % kind for kind in (b"hello", b"phase", b"end"))
"""First bytes of the events by which time is assigned to phases."""
COLUMNS = ("run", "state", "model", "data", "score", "time", "started in")
SETTLED = ("finished", "stopped", "paused", "failed", "out_of_memory", "diverged", "damaged")
"""States that only a resume changes."""


@dataclass
class RunSummary:
    name: str
    state: str
    model: str = ""
    data: str = ""
    before: float | None = None
    after: float | None = None
    metric: str = ""
    seconds: float | None = None
    method: str = ""
    created: float = 0.0
    """Unix seconds."""
    peak: int | None = None
    """Peak memory of training in bytes: torch's pool on a GPU, else the resident set of the process."""
    reason: str = ""
    """Why it did not finish."""
    started_in: str = ""
    """The directory it was started from, '' where it was not recorded."""
    from_run: str = ""
    """The run that it continues, '' for the base model: `before` is that run's score."""
    number: int = 0
    """As `Origin.number`."""


def describe(run: RunDir, places: Mapping[Path, int] | None = None) -> RunSummary:
    """Summarize a run from its result if it has one, else from its configuration and its last events.

    `places` are the places of the runs in the device queue.
    """
    line, origin = _describe(run, places), run.origin
    line.number, line.started_in = origin.number, origin.started_in
    return line


def _describe(run: RunDir, places: Mapping[Path, int] | None) -> RunSummary:
    state = run.state()
    if state == "damaged" and (file := run.irregular_file()):
        reason = f"not a regular file of acceptable size: {file.name}; delete it"
        return RunSummary(run.name, state, reason=reason)
    if state == "pending" and (job := run.job_state()) is not None and job.reason:
        state = f"pending: {job.reason}"
    try:
        result = run.written_result()
        if result:
            return _of_result(run, state, result)
        frozen = run_dir.read_frozen(run)
    except UserError as error:
        return RunSummary(run.name, "damaged", reason=error.line)
    if state == "live":
        place = (places or {}).get(run.path)
        state = f"waiting, place {place}" if place else _progress(run, places is not None) or state
    config = frozen.config
    end = None if run.is_active() else run.unwritten_end()
    dead_job = run.job() if state == "died" else None
    return RunSummary(
        run.name,
        state,
        config.model.id,
        config.data.id,
        metric=config.evaluation.metric,
        seconds=_worked_seconds(run) if run.is_active() else None,
        method=config.method,
        created=frozen.created,
        reason=end.reason if end else system_of(dead_job).final_state(dead_job).text if dead_job else "",
        from_run=continued_run_name(config),
    )


class ResumableRun(NamedTuple):
    """A run that ended before it had finished."""

    run: RunDir
    text: str
    """`lora-3f2a paused, tiny on tickets`."""


MAX_LOOKED_AT, MAX_RESUMABLE = 200, 5
RESUMABLE = ("paused", "stopped", "died")


def resumable(runs: Path) -> list[ResumableRun]:
    """The latest runs that can be resumed. Reads results: call it in a thread."""
    runs_found: list[ResumableRun] = []
    for run in sort_by_start(RunDir.iterate(runs), latest_first=True)[:MAX_LOOKED_AT]:
        if len(runs_found) < MAX_RESUMABLE and run.state() in RESUMABLE and not run.is_active():
            line = describe(run)
            what = f"{short_name(run.name)} {line.state}, {line.method} of {model(line)} on {last_part(line.data)}"
            runs_found.append(ResumableRun(run, what))
    return runs_found


def _of_result(run: RunDir, state: str, result: Result) -> RunSummary:
    before, after = result.before, result.after
    return RunSummary(
        run.name,
        "paused" if state == "stopped" and run.paused_file.exists() else state,
        result.model,
        result.data,
        before.score.mean if before else None,
        after.score.mean if after else None,
        result.metric,
        result.active_seconds,
        result.method,
        result.created,
        result.peak.training,
        result.reason,
        from_run=result.from_run,
    )


def _progress(run: RunDir, has_device: bool) -> str:
    """`training 12/150`, from the last events; a run that waited and now `has_device` is starting."""
    text, latest = "", []
    with contextlib.suppress(OSError):  # then the list shows only that it is live
        latest = Follower(run.events_file, max(0, run.events_file.stat().st_size - TAIL_BYTES)).read()
    for event in latest:
        if isinstance(event, events.Hello):  # resumed, and no phase entered yet
            text = "starting"
        elif isinstance(event, events.Phase):
            text = "starting" if event.name == "waiting" and has_device else event.name
        elif isinstance(event, events.Step):
            text = f"training {event.step}/{event.steps}"
    return text


def _worked_seconds(run: RunDir) -> float | None:
    """Seconds of a live run without waiting, as its result will count them; None where its log is too long."""
    with contextlib.suppress(OSError):
        if run.events_file.stat().st_size > MAX_LOG_BYTES:
            return None
        lines = read_regular(run.events_file).splitlines()
        timed = [number for number, line in enumerate(lines) if line.startswith(TIMED_EVENTS)]
        needed = sorted({number + before for number in timed for before in (-1, 0)})
        decoded = (decode(lines[number]) for number in needed if number >= 0)
        seconds = phase_seconds((event for event in decoded if event), time.time())
        return sum(spent for phase, spent in seconds.items() if phase != "waiting")
    return None


def cells(line: RunSummary) -> list[str]:
    """The cells of COLUMNS."""
    names = [line.name, line.state, model(line), last_part(line.data)]
    return [*names, score(line), duration(line.seconds), tilde(line.started_in)]


def score(line: RunSummary) -> str:
    """`json 0.0→44.1%`: metric, score before and after training, in percent where the metric is a share."""
    spec = metric_spec(line.metric)
    scores = [f"{score * spec.scale:.1f}" if score is not None else "–" for score in (line.before, line.after)]
    unit = "%" if spec.is_share and line.after is not None else ""
    return f"{line.metric} {'→'.join(scores)}{unit}" if line.before is not None or line.after is not None else "–"


def model(line: RunSummary) -> str:
    """The model, and where the run continues another one, the end of that one's name: `tiny from lora-3f2a`."""
    start = f" from {'-'.join(line.from_run.rsplit('-', 2)[-2:])}" if line.from_run else ""
    return last_part(line.model) + start
