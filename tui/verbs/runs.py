"""`runs`: past and live runs, newest first."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.contract import events, ladderdir, rundir
from engine.contract.errors import UserError
from engine.contract.follow import Follower
from engine.contract.ladderdir import LadderDir
from engine.contract.rundir import RunDir
from tui.show import duration, print_json, say, table

TAIL = 65536


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


def show(runs: Path, json: bool) -> None:
    lines = [describe(run) for run in sorted(rundir.iterate(runs), key=lambda run: run.name, reverse=True)]
    if json:
        print_json([asdict(line) for line in lines])
    elif not lines:
        say(f"no runs in {runs}; `ftbench demo` makes the first")
    else:
        table(
            "",
            ("run", "state", "model", "data", "score", "time"),
            [_cells(line) for line in lines],
            right=(5,),
        )
    if not json:
        _show_ladders(runs)


def _show_ladders(runs: Path) -> None:
    """Ladders in a table of their own, where there are any."""
    ladders = sorted(ladderdir.iterate(runs), key=lambda ladder: ladder.name, reverse=True)
    if ladders:
        say("")
        table("", ("ladder", "state", "rungs", "runs done"), [_ladder_cells(ladder) for ladder in ladders], right=(3,))


def _ladder_cells(ladder: LadderDir) -> list[str]:
    try:
        state = ladder.state()
    except UserError:
        return [ladder.name, "damaged", "", ""]
    if state is None:
        return [ladder.name, "starting" if ladder.is_live() else "not begun", "", ""]
    status = state.stage if ladder.is_live() else "died" if state.status == "running" else state.status
    runs = [entry for entry in state.entries if entry.kind == "run"]
    done = sum(entry.status not in ("planned", "live") for entry in runs)
    return [ladder.name, status, ", ".join(dict.fromkeys(entry.rung for entry in runs)), f"{done}/{len(runs)}"]


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


def _cells(line: Line) -> list[str]:
    scale = 100 if line.metric != "loss" else 1
    scores = [f"{score * scale:.1f}" if score is not None else "–" for score in (line.before, line.after)]
    data = Path(line.data).name if line.data.startswith("/") else line.data
    model = Path(line.model).name if line.model.startswith("/") else line.model
    score = f"{line.metric} {'→'.join(scores)}" if line.before is not None or line.after is not None else "–"
    return [line.name, line.state, model, data, score, duration(line.seconds)]
