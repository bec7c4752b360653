"""Runs in a list: what one line says of each, from its result or the end of its events."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.config.errors import UserError
from engine.config.metric_specs import metric_spec
from engine.config.split_version import OLDEST, SPLIT_VERSION
from engine.runs import events, run_dir
from engine.runs.events import decode
from engine.runs.follow import Follower
from engine.runs.phases import phase_seconds
from engine.runs.run_dir import RunDir
from tui.format import duration

TAIL = 65536
WHOLE = 4 << 20
"""Bytes of events up to which a live run's time is counted anew with every look: some milliseconds."""
LIVES = tuple(b'{"type":"%s"' % kind for kind in (b"hello", b"phase", b"end"))
"""How the events begin that say where time went."""
COLUMNS = ("run", "state", "model", "data", "score", "time")
SETTLED = ("finished", "stopped", "paused", "failed", "out_of_memory", "diverged", "damaged")
"""States that only a new start changes."""


@dataclass
class Line:
    """One run in the list."""

    name: str
    state: str
    model: str
    data: str
    before: float | None
    after: float | None
    metric: str
    seconds: float | None
    method: str = ""
    created: float = 0.0
    """Unix seconds."""
    peak: int | None = None
    """Bytes while training: torch's pool on a card, the resident set without one."""
    reason: str = ""
    """Why it did not finish."""
    split_version: int = OLDEST
    """The rule that divided its rows: scores under different rules do not compare."""


def describe(run: RunDir, places: Mapping[Path, int] | None = None) -> Line:
    """From its result where it has one, else from its configuration and the end of its events.

    `places` are the places of runs that wait for a card.
    """
    state = run.state()
    try:
        result = run.written_result()
        if result:
            before, after = result.before, result.after
            return Line(
                run.name,
                "paused" if state == "stopped" and run.paused_file.exists() else state,
                result.model,
                result.data,
                before.score.mean if before else None,
                after.score.mean if after else None,
                result.metric,
                result.worked,
                result.method,
                result.created,
                result.peak.training,
                result.reason,
                result.split_version,
            )
        frozen = run_dir.read_frozen(run)
    except UserError as error:
        return Line(run.name, "damaged", "", "", None, None, "", None, reason=error.line)
    if state == "live":
        place = (places or {}).get(run.path)
        state = f"waiting, place {place}" if place else _progress(run, places is not None) or state
    config = frozen.config
    seconds = _worked(run) if run.is_live() else None
    end = None if run.is_live() else run.unwritten_end()
    return Line(
        run.name,
        state,
        config.model.id,
        config.data.id,
        None,
        None,
        config.evaluation.metric,
        seconds,
        config.method,
        frozen.created,
        split_version=frozen.split_version,
        reason=end.reason if end else "",
    )


def _progress(run: RunDir, has_card: bool) -> str:
    """`training 12/150`, from the last events; of one that `has_card` a wait is over."""
    text, fresh = "", []
    with contextlib.suppress(OSError):  # then all that is known is that it lives
        fresh = Follower(run.events_file, max(0, run.events_file.stat().st_size - TAIL)).read()
    for event in fresh:
        if isinstance(event, events.Hello):  # resumed, and nothing done yet
            text = "starting"
        elif isinstance(event, events.Phase):
            text = "starting" if event.name == "waiting" and has_card else event.name
        elif isinstance(event, events.Step):
            text = f"training {event.step}/{event.steps}"
    return text


def _worked(run: RunDir) -> float | None:
    """Seconds of a live run so far, as its result will count them; None where its log is too long to look through."""
    with contextlib.suppress(OSError):
        if run.events_file.stat().st_size > WHOLE:
            return None
        lines = run.events_file.read_bytes().splitlines()
        ends = {number + before for number, line in enumerate(lines) if line.startswith(LIVES) for before in (-1, 0)}
        found = (decode(lines[number]) for number in sorted(ends) if number >= 0)
        seconds = phase_seconds((event for event in found if event), time.time())
        return sum(held for phase, held in seconds.items() if phase != "waiting")
    return None


def cells(line: Line) -> list[str]:
    """In the order of COLUMNS. A score under an older split rule carries its number."""
    scored = score(line) + (f" (split {line.split_version})" if scored_otherwise(line) else "")
    return [line.name, line.state, last_part(line.model), last_part(line.data), scored, duration(line.seconds)]


def scored_otherwise(line: Line) -> bool:
    """Whether it has a score that does not compare with those of new runs."""
    return line.split_version != SPLIT_VERSION and (line.before is not None or line.after is not None)


def score(line: Line) -> str:
    """`json 0.0→44.1`, percent where the metric is a share."""
    scale = metric_spec(line.metric).scale
    scores = [f"{score * scale:.1f}" if score is not None else "–" for score in (line.before, line.after)]
    return f"{line.metric} {'→'.join(scores)}" if line.before is not None or line.after is not None else "–"


def last_part(name: str) -> str:
    """Of a path its last part; other names as they are."""
    return Path(name).name if name.startswith("/") else name
