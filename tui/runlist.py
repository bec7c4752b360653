"""Runs in a list: what one line says of each, from its result or the end of its events."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from engine.contract import events, rundir
from engine.contract.errors import UserError
from engine.contract.follow import Follower
from engine.contract.rundir import RunDir
from tui.show import duration

TAIL = 65536
COLUMNS = ("run", "state", "model", "data", "score", "time")


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


def describe(run: RunDir) -> Line:
    """From its result where it has one, else from its configuration and the end of its events."""
    state = run.state()
    try:
        result = run.result()
        if result:
            before, after = result.before, result.after
            return Line(
                run.name,
                state,
                result.model,
                result.data,
                before.score.mean if before else None,
                after.score.mean if after else None,
                result.metric,
                sum(result.seconds.values()),
            )
        frozen = rundir.read_frozen(run)
    except UserError:
        return Line(run.name, "damaged", "", "", None, None, "", None)
    if state == "live":
        state = _progress(run) or state
    config = frozen.config
    seconds = time.time() - frozen.created if run.is_live() else None
    return Line(run.name, state, config.model.id, config.data.id, None, None, config.evaluation.metric, seconds)


def _progress(run: RunDir) -> str:
    """`training 12/150`, from the last events."""
    size = run.events_file.stat().st_size if run.events_file.exists() else 0
    text = ""
    for event in Follower(run.events_file, max(0, size - TAIL)).read():
        if isinstance(event, events.Phase):
            text = event.name
        elif isinstance(event, events.Step):
            text = f"training {event.step}/{event.steps}"
    return text


def cells(line: Line) -> list[str]:
    """In the order of COLUMNS."""
    scale = 100 if line.metric != "loss" else 1
    scores = [f"{score * scale:.1f}" if score is not None else "–" for score in (line.before, line.after)]
    data = Path(line.data).name if line.data.startswith("/") else line.data
    model = Path(line.model).name if line.model.startswith("/") else line.model
    score = f"{line.metric} {'→'.join(scores)}" if line.before is not None or line.after is not None else "–"
    return [line.name, line.state, model, data, score, duration(line.seconds)]
