"""`runs`: past and live runs, newest first."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from engine.config.errors import UserError
from engine.config.split_version import SPLIT_VERSION, versions_differ
from engine.runs import device_queue, ladder_dir, run_dir
from engine.runs.ladder_dir import LadderDir
from tui.history.run_list import COLUMNS, cells, describe, scored_otherwise
from tui.output.console import print_json, say, table


def show(runs: Path, json: bool) -> None:
    places = {turn.run: turn.place for turn in device_queue.turns() if turn.place}
    lines = [describe(run, places) for run in sorted(run_dir.iterate(runs), key=lambda run: run.name, reverse=True)]
    if json:
        print_json([asdict(line) for line in lines])
    elif not lines:
        say(f"no runs in {runs}; `ftbench demo` makes the first")
    else:
        table(
            "",
            COLUMNS,
            [cells(line) for line in lines],
            right=(5,),
        )
        for version in sorted({line.split_version for line in lines if scored_otherwise(line)}):
            say(f"(split {version}): {versions_differ(version, SPLIT_VERSION)}")
    if not json:
        _show_ladders(runs)


def _show_ladders(runs: Path) -> None:
    """Ladders in a table of their own, where there are any."""
    ladders = sorted(ladder_dir.iterate(runs), key=lambda ladder: ladder.name, reverse=True)
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
    done = sum(entry.is_done for entry in runs)
    return [ladder.name, status, ", ".join(dict.fromkeys(entry.rung for entry in runs)), f"{done}/{len(runs)}"]
