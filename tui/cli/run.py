"""`run`: one run, from launch to result; and how every subcommand starts a run or ladder and detaches."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from engine.config.errors import Notice, UserError
from engine.config.files import remove_tree
from engine.config.preset_library import preset_name, resolve_preset
from engine.config.quantities import ABSENT
from engine.config.schema import Config
from engine.memory.formula.formula import low_disk_notice, small_disk_error
from engine.memory.formula.memory_budget import local_budget
from engine.runs import run_hooks
from engine.runs.home import check_home
from engine.runs.ladder.ladder_dir import ComparisonDir
from engine.runs.run.event_log import stream
from engine.runs.run.events import End, Error, Warning
from engine.runs.run.result import Result
from engine.runs.run.run_dir import RunDir
from engine.runs.start import start_run
from tui.cli import options
from tui.cli.errors import show_notices
from tui.cli.following import Detached, ask_to_leave, follow
from tui.cli.lookup import home_for_launch
from tui.history.tables import figures, task_lines
from tui.output.console import print_json, say
from tui.preview.method_estimate import disk_space


def run(
    preset: options.PresetName,
    method: options.Method = None,
    model: options.Model = None,
    data: options.Data = None,
    device: options.Device = None,
    share: options.Share = None,
    settings: options.Set = None,
    start: options.From = None,
    runs: options.Runs = None,
    detach: options.Detach = False,
    now: options.Now = False,
    executor: options.Executor = None,
    partition: options.Partition = None,
    time: options.Time = None,
    gres: options.Gres = None,
    json: options.Json = False,
) -> int:
    """Start and follow a run; returns the exit status, 0 for a finished or stopped run."""
    folder = home_for_launch(runs, json)
    from_run = None if start is None else str(RunDir.find(folder, start).path)
    job = {"executor": executor, "partition": partition, "time": time, "gres": gres, "from": from_run}
    given = options.overrides(settings, share, model=model, data=data, method=method, device=device, **job)
    chosen = resolve_preset(preset, options.chosen_method(method), given)
    if detach:  # else the worker's warnings are shown as it writes them
        show_notices(chosen.notices, json)
    check_disk([chosen.config], folder, json)
    created: list[RunDir] = []

    def announce(run: RunDir) -> None:
        created.append(run)
        if not json:
            with contextlib.suppress(BrokenPipeError):  # raised again by the next line, once the run has started
                say(f"run {run.name}")

    command = shlex.join(["ftbench", *sys.argv[1:]])
    begin = partial(start_run, folder, preset_name(preset), chosen, wait=not now, command=command, created=announce)
    return follow_started(created, begin, lambda: watch(created[0], json=json, fresh=True), detach, json)


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
    folders: Sequence[RunDir | ComparisonDir],
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


def print_detached(run: RunDir | ComparisonDir, json: bool) -> int:
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
    show_notices([Notice("track.failed", problem) for problem in run_hooks.problems(run)], json)
    if json:
        print_json(outcome(run, result, end))
    elif result and end.status == "finished":
        for name, value in figures(result).items():
            if value != ABSENT:
                say(f"{name}: {value}")
        for line in task_lines(result):
            say(line)
        if result.from_run:
            say(f"before: the score of {result.from_run}, from which this run started")
        say(f"{run.path}")
    return 0 if end.status in ("finished", "stopped") else 1


def outcome(run: RunDir, result: Result | None, end: End) -> dict[str, Any]:
    """The result of a run, or how it ended, with the warnings of the run and their codes as `notices`."""
    ended = {"run": run.name, "status": end.status, "reason": end.reason}
    texts = {event.text: event.code for event in stream(run.events_file, Warning) if isinstance(event, Warning)}
    notices = [{"code": code, "text": text} for text, code in texts.items()]
    return {**(msgspec.to_builtins(result) if result else ended), "notices": notices}


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
