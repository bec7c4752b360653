"""`attach`, `stop` and `resume`: a run or ladder that was started before."""

from __future__ import annotations

from functools import partial

from engine.config.errors import RunFailed, UserError
from engine.runs import start
from engine.runs.run.run_dir import ACTIVE, RunDir, last_event
from engine.runs.start import resume_ladder, resume_run
from tui.cli import ladder, options, run
from tui.cli.lookup import find_named, kinds_of_folders, show_origin
from tui.output.console import print_json, say

STOP_SECONDS = 600.0
"""Time for a process to save its checkpoint and exit after it was asked to stop."""


def attach(name: options.Run = "last", runs: options.Runs = None, json: options.Json = False) -> int:
    """Replay from the first event, and follow while it is running. Returns the exit status."""
    folder = find_named(runs, name, kinds_of_folders())
    show_origin(folder, quiet=json)
    if not isinstance(folder, RunDir):
        return ladder.watch(folder, json)
    if folder.state() not in ACTIVE and last_event(folder.events_file) is None:
        problem = "cannot replay the run: events.jsonl is missing, empty or damaged at its end"
        resumes = f"`ftbench resume {folder.argument}` resumes from its checkpoint, "
        hint = f"{'' if folder.state() == 'finished' else resumes}`ftbench runs` shows its result"
        raise UserError(problem, str(folder.path), hint, code="run.events_missing")
    return run.watch(folder, json=json)


def stop(name: options.Run = "last", runs: options.Runs = None, json: options.Json = False) -> None:
    """Request a stop and wait until the worker has saved its checkpoint and exited."""
    folder = find_named(runs, name, kinds_of_folders())
    show_origin(folder, quiet=json)
    try:
        start.stop(folder)
    except ProcessLookupError as error:
        problem = f"{folder.name} is not running: process {folder.pid()} has ended"
        raise UserError(problem, hint="`ftbench runs` lists the running ones", code="run.not_running") from error
    if not json:
        say(f"stopping {folder.name} after the current step …")
    if not folder.wait_for_exit(STOP_SECONDS):
        text = f"{folder.name} has not stopped after {STOP_SECONDS:.0f} s; see {folder.log_file}"
        raise RunFailed(text, "run.stop_timeout")
    ended = folder.result() if isinstance(folder, RunDir) else folder.state()
    status, reason = (ended.status, ended.reason) if ended else ("stopped", "")
    if json:
        print_json({folder.KIND: folder.name, "path": str(folder.path), "status": status, "reason": reason})
    else:
        say(f"{status}: {reason}" if reason else status)


def resume(
    name: options.Run = "last",
    runs: options.Runs = None,
    settings: options.DeviceSettings = None,
    detach: options.Detach = False,
    json: options.Json = False,
) -> int:
    """Resume a run from its latest complete checkpoint; of a ladder, the runs that have not finished."""
    folder = find_named(runs, name, kinds_of_folders())
    changed = options.overrides(settings)
    show_origin(folder, quiet=json)
    if isinstance(folder, RunDir):
        begin, size = partial(resume_run, folder, changed), folder.events_size()
        return run.follow_started([folder], begin, lambda: run.watch(folder, offset=size, json=json), detach, json)
    begin = partial(resume_ladder, folder, changed)
    return run.follow_started([folder], begin, partial(ladder.watch, folder, json), detach, json)
