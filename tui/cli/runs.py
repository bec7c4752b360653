"""`runs`: list past and live runs and ladders, the latest first."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from engine.config.errors import UserError
from engine.runs.home import tilde
from engine.runs.ladder import ladder_dir
from engine.runs.ladder.ladder_dir import SweepDir
from engine.runs.queue import device_queue
from engine.runs.run import run_dir
from engine.runs.run.folder import running_elsewhere
from tui.history import ladder_list
from tui.history.ladder_list import ListedLadder, describe_ladder
from tui.history.run_list import COLUMNS, cells, describe
from tui.output.console import print_json, say, table

SWEEP_COLUMNS = ("sweep", "state", "settings", "ladders done", "started in")


def show(runs: Path, json: bool) -> None:
    """List the runs as a table and the ladders as another; as JSON in one list with a `kind` each."""
    places = {turn.run: turn.place for turn in device_queue.queue_places() if turn.place}
    lines = [describe(run, places) for run in sorted(run_dir.iterate(runs), key=lambda run: run.name, reverse=True)]
    if json:
        listed = [{"kind": "run", "path": str(runs / line.name), **asdict(line)} for line in lines]
        print_json([*listed, *({"kind": "ladder", **asdict(line)} for line in _ladders(runs))])
        return
    if lines:
        table("", COLUMNS, [cells(line) for line in lines], right=(5,))
    else:
        say(f"no runs in {tilde(runs)}; start with `ftbench demo`")
    _show_ladders(runs)
    _show_sweeps(runs)
    if elsewhere := running_elsewhere(runs):
        say(f"{elsewhere} Pass --runs to list the runs there.")


def _show_ladders(runs: Path) -> None:
    if ladders := _ladders(runs):
        say("")
        table("", ladder_list.COLUMNS, [ladder_list.cells(ladder) for ladder in ladders], right=(3,))


def _ladders(runs: Path) -> list[ListedLadder]:
    """The ladders of the runs home, the latest first."""
    folders = sorted(ladder_dir.iterate(runs), key=lambda ladder: ladder.name, reverse=True)
    return [describe_ladder(folder) for folder in folders]


def _show_sweeps(runs: Path) -> None:
    sweeps = sorted(ladder_dir.iterate_sweeps(runs), key=lambda sweep: sweep.name, reverse=True)
    if sweeps:
        say("")
        table("", SWEEP_COLUMNS, [_sweep_cells(sweep) for sweep in sweeps], right=(3,))


def _sweep_cells(sweep: SweepDir) -> list[str]:
    directory = tilde(sweep.started_in())
    try:
        state = sweep.state()
    except UserError:
        return [sweep.name, "damaged", "", "", directory]
    if state is None:
        return [sweep.name, "starting" if sweep.is_active() else "not started", "", "", directory]
    done = sum(cell.status == "finished" for cell in state.cells)
    keys = ", ".join(axis.key for axis in state.axes)
    return [sweep.name, sweep.status_of(state), keys, f"{done}/{len(state.cells)}", directory]
