"""`track`: log a run, or the runs of a ladder, to experiment trackers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any, cast

import typer

from engine.config.errors import UserError
from engine.config.schema import section_of
from engine.config.text import amount
from engine.extensions.trackers.settings import Track, TrackerName
from engine.extensions.trackers.trackers import TrackerFiles, check_trackers, start_tracker
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.run.run_dir import RunDir, read_frozen
from tui.cli import options
from tui.cli.lookup import RUN_OR_LADDER, find_named, show_origin
from tui.output.console import print_json, say

POLL_SECONDS = 0.05


def track(
    name: options.Run = "last",
    to: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="TRACKER", help="trackio, tensorboard or wandb; repeatable (default: track.to)."),
    ] = None,
    project: Annotated[str | None, typer.Option("--project", help="Project (default: track.project).")] = None,
    online: Annotated[
        bool | None, typer.Option("--online/--offline", help="Let the tracker use the network (default: track.online).")
    ] = None,
    runs: options.Runs = None,
    json: options.Json = False,
) -> int:
    """Log each run to each tracker; a live run is followed in the background. Returns 1 if a tracker failed.

    None: as the run is configured. Raises UserError where no tracker is named, or one is not installed.
    """
    subject = find_named(runs, name, RUN_OR_LADDER)
    show_origin(subject, quiet=json)
    pairs = [(run, tracker) for run in _runs(subject) for tracker in _trackers(run, to or [])]
    logged = []
    for run, tracker in pairs:
        logged.append(log := _log(run, tracker, project, online))
        if json:
            continue
        if log["error"]:
            say(f"{tracker}: {run.name}: {log['error']}", "red")
            continue
        what = f"{amount(log['rows'], 'row')} logged"
        if log["follows"]:
            what = "logging until the run ends, in the background"
        elif log["rows_before"]:
            what += f", after {log['rows_before']:,} before"
        say(f"{tracker}: {run.name}: {what}; `{log['view']}`")
    if json:
        print_json(logged)
    return int(any(log["error"] for log in logged))


def _runs(subject: RunDir | LadderDir) -> list[RunDir]:
    """The run itself, or the compared runs of a ladder."""
    if isinstance(subject, RunDir):
        return [subject]
    state = subject.state()
    entries = [entry for entry in state.entries if entry.kind == "run" and entry.run] if state else []
    runs = [RunDir(subject.runs / entry.run) for entry in entries]
    if not runs:
        raise UserError("the ladder has no runs yet", subject.name, "wait until it trains", code="track.no_runs")
    return [run for run in runs if run.config_file.exists()]


def _trackers(run: RunDir, given: Sequence[str]) -> list[TrackerName]:
    names = [name for word in given for name in word.split(",")] or list(section_of(read_frozen(run).config, Track).to)
    if not names:
        hint = "name one with --to trackio, tensorboard or wandb"
        raise UserError("no tracker is configured", run.name, hint, code="track.none")
    check_trackers(names, "--to" if given else "track.to")
    return cast(list[TrackerName], list(dict.fromkeys(names)))


def _log(run: RunDir, name: TrackerName, given: str | None, online: bool | None) -> dict[str, Any]:
    """Start the tracker's process and, unless the run is live, wait for it; returns what `--json` prints."""
    files = TrackerFiles(run, name)
    project = given or section_of(read_frozen(run).config, Track).project
    before = files.state_for(project).rows
    process = start_tracker(run, name, given, online)
    follows = False
    while process.poll() is None and not follows:
        follows = run.is_active()
        time.sleep(POLL_SECONDS)
    state = files.state()
    failed = not follows and process.returncode != 0 and not state.error
    return {
        "run": run.name,
        "tracker": name,
        "project": project,
        "rows": files.state_for(project).rows - before,
        "rows_before": before,
        "follows": follows,
        "error": f"exited with status {process.returncode}; see {files.log_file}" if failed else state.error,
        "view": files.view_command(project),
    }
