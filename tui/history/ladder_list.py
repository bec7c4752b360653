"""Ladders in a list: one line per ladder, from its state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from engine.config.errors import UserError
from engine.runs.home import tilde
from engine.runs.ladder.ladder_dir import LadderDir

COLUMNS = ("ladder", "state", "rungs", "runs done", "started in")


@dataclass
class ListedLadder:
    """One ladder in the list."""

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


def cells(line: ListedLadder) -> list[str]:
    """The cells of COLUMNS."""
    done = f"{line.runs_done}/{line.runs_planned}" if line.rungs else ""
    return [line.name, line.state, ", ".join(line.rungs), done, tilde(line.started_in)]
