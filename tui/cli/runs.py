"""`runs`: list past and live runs and ladders, the latest first."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from engine.config.errors import UserError
from engine.runs.home import runs_home, tilde
from engine.runs.ladder.ladder_dir import LadderDir, comparison_kinds
from engine.runs.queue import device_queue
from engine.runs.run.folder import running_elsewhere, sort_by_start
from engine.runs.run.run_dir import RunDir
from tui.cli import options
from tui.cli.comparisons import view_of
from tui.history.run_list import COLUMNS, cells, describe
from tui.output.console import print_json, say, table

LADDER_COLUMNS = ("ladder", "state", "rungs", "runs done", "started in")


def runs(runs: options.Runs = None, json: options.Json = False) -> None:
    """List runs and ladders as tables; as JSON runs and ladders in one list with a `kind` each."""
    home = runs_home(runs)
    places = {turn.run: turn.place for turn in device_queue.queue_places() if turn.place}
    lines = [describe(run, places) for run in sort_by_start(RunDir.iterate(home), latest_first=True)]
    ladders = [describe_ladder(folder) for folder in sort_by_start(LadderDir.iterate(home), latest_first=True)]
    if json:
        listed = [{"kind": "run", "path": str(home / line.name), **asdict(line)} for line in lines]
        print_json([*listed, *({"kind": "ladder", **asdict(ladder)} for ladder in ladders)])
        return
    if lines:
        table("", COLUMNS, [cells(line) for line in lines], right=(5,))
    else:
        say(f"no runs in {tilde(home)}; start with `ftbench demo`")
    if ladders:
        rows = []
        for ladder in ladders:
            done = f"{ladder.runs_done}/{ladder.runs_planned}" if ladder.rungs else ""
            rows.append([ladder.name, ladder.state, ", ".join(ladder.rungs), done, tilde(ladder.started_in)])
        say("")
        table("", LADDER_COLUMNS, rows, right=(3,))
    for kind in comparison_kinds():
        if kind is not LadderDir and (others := sort_by_start(kind.iterate(home), latest_first=True)):
            view = view_of(others[0])
            say("")
            table("", view.COLUMNS, [view.cells(other) for other in others], right=(3,))
    if elsewhere := running_elsewhere(home):
        say(f"{elsewhere} Pass --runs to list the runs there.")


@dataclass
class ListedLadder:
    name: str
    state: str
    """The stage of a running ladder, else how it ended: finished, stopped, failed, died, damaged."""
    path: str
    preset: str = ""
    model: str = ""
    data: str = ""
    metric: str = ""
    created: float = 0.0
    """Unix seconds."""
    started_in: str = ""
    """The directory it was started from, '' where it was not recorded."""
    reason: str = ""
    """Why it did not finish."""
    seeds: list[int] = field(default_factory=list)
    runs_done: int = 0
    runs_planned: int = 0
    """Runs that are compared; timing probes and learning-rate trials are not counted."""
    rungs: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    """The directories of these runs, relative to the runs home."""
    scores: dict[str, Any] = field(default_factory=dict)
    """Rung -> its interval, as `score` in `ladder.json`; null without one."""
    report: str = ""
    """Path of the HTML report, '' before it is written."""


def describe_ladder(folder: LadderDir) -> ListedLadder:
    """Summarize a ladder from `ladder.json`; a damaged one has no more than its name."""
    path, started_in = str(folder.path), folder.started_in()
    try:
        state = folder.state()
    except UserError as error:
        return ListedLadder(folder.name, "damaged", path, started_in=started_in, reason=error.line)
    if state is None:
        status = "starting" if folder.is_active() else "not started"
        return ListedLadder(folder.name, status, path, started_in=started_in)
    work = state.work
    compared = [entry for entry in state.entries if entry.kind == "run"]
    return ListedLadder(
        folder.name,
        folder.status_of(state),
        path,
        state.preset,
        work.model if work else "",
        work.data if work else "",
        work.metric if work else "",
        state.created,
        started_in,
        state.reason,
        state.seeds,
        sum(entry.is_done for entry in compared),
        len(compared),
        list(dict.fromkeys(entry.rung for entry in compared)),
        [entry.run for entry in compared if entry.run],
        {row.name: msgspec.to_builtins(row.score) for row in state.rows},
        str(folder.page) if folder.page.exists() else "",
    )
