"""`run`, `attach`, `stop`, `resume`: one run, from launch to result."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from engine.config.errors import Notice, RunFailed, UserError
from engine.config.files import remove_tree
from engine.config.preset_library import preset_name, resolve_preset
from engine.config.schema import Config
from engine.config.settings import Flat
from engine.memory.formula.formula import low_disk_notice, small_disk_error
from engine.memory.formula.memory_budget import local_budget
from engine.runs import start
from engine.runs.home import check_home
from engine.runs.ladder.ladder_dir import LadderDir, SweepDir
from engine.runs.run.event_log import stream
from engine.runs.run.events import End, Error, Warning
from engine.runs.run.result import Result
from engine.runs.run.run_dir import ACTIVE, RunDir, last_event
from engine.runs.trackers import tracker_problems
from tui.cli.errors import show_notices
from tui.cli.following import Detached, ask_to_leave, follow
from tui.history.tables import benchmark_lines, show_results
from tui.output.console import print_json, say
from tui.preview.disk import disk_space


def check_disk(configs: Sequence[Config], runs: Path, json: bool) -> None:
    """Raise UserError where the runs home is not writable or smaller than the formula's estimate for `configs`.

    Warns if little would be left.

    A model that is not on this machine has no estimate and is not refused.
    """
    check_home(runs)
    needed, free = disk_space(configs, runs, local_budget(device=configs[0].hardware.device))
    if error := small_disk_error(needed, free, runs):
        raise error
    if notice := low_disk_notice(needed, free, runs):
        show_notices([notice], json)


def follow_started(
    folders: Sequence[RunDir | LadderDir | SweepDir],
    start: Callable[[], object],
    watch: Callable[[], int],
    detach: bool,
    json: bool,
) -> int:
    """Start a process, and watch it unless the user detaches. `folders`: has its folder as soon as it exists.

    Ctrl+C meanwhile asks as it does later, because the process keeps running. Returns the exit status.
    """
    try:
        start()
    except KeyboardInterrupt:
        if not folders:
            raise
        try:
            ask_to_leave(folders[-1], None)
        except Detached:
            detach = True
    return print_detached(folders[-1], json) if detach else watch()


def run(preset: str, method: str | None, overrides: Flat, runs: Path, now: bool, detach: bool, json: bool) -> int:
    """Start and follow a run; returns the exit status, 0 for a finished or stopped run."""
    chosen = resolve_preset(preset, method, overrides)
    if detach:  # else the worker's warnings are shown as it writes them
        show_notices(chosen.notices, json)
    check_disk([chosen.config], runs, json)
    created: list[RunDir] = []

    def announce(folder: RunDir) -> None:
        created.append(folder)
        if not json:
            with contextlib.suppress(BrokenPipeError):  # raised again by the next line, once the run has started
                say(f"run {folder.name}")

    command = shlex.join(["ftbench", *sys.argv[1:]])
    begin = partial(start.start_run, runs, preset_name(preset), chosen, wait=not now, command=command, created=announce)
    return follow_started(created, begin, lambda: watch(created[0], json=json, fresh=True), detach, json)


def print_detached(run: RunDir | LadderDir | SweepDir, json: bool) -> int:
    """Print how to return to what continues in the background."""
    if json:
        print_json({run.KIND: run.name, "path": str(run.path)})
    else:
        say(f"detached: {run.name} continues in the background; `ftbench attach {run.argument}` follows it")
    return 0


def watch(run: RunDir, offset: int = 0, json: bool = False, fresh: bool = False) -> int:
    """Follow to the end and print the result; returns the exit status.

    A `fresh` run that is refused for invalid input is deleted.
    """
    try:
        end = follow(run, offset, quiet=json)
    except Detached:
        return print_detached(run, json)
    refused = refusal(run)
    if refused and end.status == "failed":
        if fresh:
            remove_refused(run)
        raise refused
    result = settled_result(run)
    show_notices([Notice("track.failed", problem) for problem in tracker_problems(run)], json)
    if json:
        print_json(outcome(run, result, end))
    elif result and end.status == "finished":
        show_results("", [result])
        for line in benchmark_lines(result):
            say(line)
        if result.from_run:
            say(f"before: the score of {result.from_run}, from which this run started")
        say(f"{run.path}")
    return exit_status(end)


def outcome(run: RunDir, result: Result | None, end: End) -> dict[str, Any]:
    """The result of a run, or how it ended, with the warnings of the run and their codes as `notices`."""
    ended = {"run": run.name, "status": end.status, "reason": end.reason}
    texts = {event.text: event.code for event in stream(run.events_file, Warning) if isinstance(event, Warning)}
    notices = [{"code": code, "text": text} for text, code in texts.items()]
    return {**(msgspec.to_builtins(result) if result else ended), "notices": notices}


def exit_status(end: End) -> int:
    """0 for a run that finished or was stopped by the user, else 1."""
    return 0 if end.status in ("finished", "stopped") else 1


def attach(run: RunDir, json: bool) -> int:
    """Replay a run from its first event and follow it while it is running."""
    if run.state() not in ACTIVE and last_event(run.events_file) is None:
        problem = "cannot replay the run: events.jsonl is missing, empty or damaged at its end"
        resumes = "" if run.state() == "finished" else f"`ftbench resume {run.argument}` resumes from its checkpoint, "
        hint = f"{resumes}`ftbench runs` shows its result"
        raise UserError(problem, str(run.path), hint, code="run.events_missing")
    return watch(run, json=json)


def stop(run: RunDir | LadderDir | SweepDir, json: bool = False, seconds: float = 600.0) -> int:
    """Request a stop and wait until the worker has saved its checkpoint and exited."""
    try:
        start.stop(run)
    except ProcessLookupError as error:
        problem = f"{run.name} is not running: process {run.pid()} has ended"
        raise UserError(problem, hint="`ftbench runs` lists the running ones", code="run.not_running") from error
    if not json:
        say(f"stopping {run.name} after the current step …")
    if not run.wait_for_exit(seconds):
        text = f"{run.name} has not stopped after {seconds:.0f} s; see {run.log_file}"
        raise RunFailed(text, "run.stop_timeout")
    ended = settled_result(run) if isinstance(run, RunDir) else run.state()
    status, reason = (ended.status, ended.reason) if ended else ("stopped", "")
    if json:
        print_json({run.KIND: run.name, "path": str(run.path), "status": status, "reason": reason})
    else:
        say(f"{status}: {reason}" if reason else status)
    return 0


def resume(run: RunDir, detach: bool, json: bool, settings: Flat | None = None) -> int:
    """Resume from the latest complete checkpoint, in the same directory. `settings`: as of `start.resume_run`."""
    size = run.events_size()
    begin = partial(start.resume_run, run, settings)
    return follow_started([run], begin, lambda: watch(run, offset=size, json=json), detach, json)


def settled_result(run: RunDir) -> Result | None:
    """Wait for the worker to exit, then return the result, which is written after the `end` event.

    Only then is the GPU free.
    """
    run.wait_for_exit()
    return run.result()


def refusal(run: RunDir) -> UserError | None:
    """The error that the worker reported for invalid input, or None."""
    refused = None
    for event in stream(run.events_file, Error):
        if isinstance(event, Error) and event.user:
            refused = UserError(event.text, code=event.code or "run.refused")
    return refused


def remove_refused(run: RunDir) -> None:
    """Delete a run that has written neither a checkpoint nor a model."""
    settled_result(run)
    if not run.checkpoints.exists() and not run.model.exists():
        remove_tree(run.path, ignore_errors=True)
