"""`run`, `attach`, `stop`, `resume`: one run, from launch to result."""

from __future__ import annotations

import time
from pathlib import Path

from engine.config.errors import RunFailed, UserError
from engine.config.files import remove_tree
from engine.config.model_files import refuse_impossible
from engine.config.preset import Flat
from engine.config.preset_library import effective
from engine.runs import launch, run_dir
from engine.runs.events import End, Error
from engine.runs.follow import stream
from engine.runs.ladder_dir import LadderDir
from engine.runs.result import Result
from engine.runs.run_dir import RunDir, last_event
from tui.cli.disk import refuse_small_disk
from tui.history.scores import as_json, show_results
from tui.live.run_progress import Detached, ask_to_leave, follow
from tui.output.console import print_json, say


def make(preset: str, method: str | None, overrides: Flat, runs: Path, now: bool, quiet: bool = False) -> RunDir:
    """Make a run's directory and say its name."""
    chosen = effective(preset, method, overrides)
    refuse_impossible(chosen.config.model)
    refuse_small_disk([chosen.config], runs)
    run = run_dir.create(runs, preset_name(preset), chosen, wait=not now)
    if not quiet:
        say(f"run {run.name}")
    return run


def begin(run: RunDir, size: int = 0) -> None:
    """Launch the worker and wait for its hello, past `size` bytes of the event log. Ctrl+C asks here as it does later,
    because the worker goes on by itself. Raises Detached where the user chose to leave.
    """
    try:
        launch.wait_for_hello(run, launch.launch(run), size)
    except KeyboardInterrupt:
        ask_to_leave(run, None)


def run(preset: str, method: str | None, overrides: Flat, runs: Path, now: bool, detach: bool, json: bool) -> int:
    """Start and follow; the exit status says whether the run did what was asked."""
    made = make(preset, method, overrides, runs, now, quiet=json)
    try:
        begin(made)
    except Detached:
        return leave(made, json)
    return leave(made, json) if detach else watch(made, json=json, fresh=True)


def leave(run: RunDir, json: bool) -> int:
    """Say how to come back to a run that goes on."""
    if json:
        print_json({"run": run.name, "path": str(run.path)})
    else:
        say(f"detached; it goes on by itself: `ftbench attach {run.name}` shows it")
    return 0


def watch(run: RunDir, offset: int = 0, json: bool = False, fresh: bool = False) -> int:
    """Follow to the end and show the result. A `fresh` run refused for the user's input leaves no directory behind."""
    try:
        end = follow(run, offset, quiet=json)
    except Detached:
        return leave(run, json)
    refused = refusal(run)
    if refused and end.status == "failed":
        if fresh:
            remove_refused(run)
        raise UserError(refused)
    result = settled_result(run)
    if json:
        print_json(as_json([result])[0] if result else {"run": run.name, "status": end.status, "reason": end.reason})
    elif result and end.status == "finished":
        show_results("", [result])
        say(f"{run.path}")
    return exit_status(end)


def exit_status(end: End) -> int:
    """0 for finished, 1 for everything else; a stop is what its asker wanted."""
    return 0 if end.status in ("finished", "stopped") else 1


def attach(run: RunDir, json: bool) -> int:
    """Replay a run from its first event and follow it while it lives."""
    if run.state() not in ("live", "starting") and last_event(run.events_file) is None:
        what = "events.jsonl is missing, empty or damaged at its end: the run cannot be replayed"
        do = f"`ftbench resume {run.name}` continues from its checkpoint, `ftbench runs` shows its result"
        raise UserError(what, str(run.path), do, code="run.events_missing")
    return watch(run, json=json)


def stop(run: RunDir | LadderDir, seconds: float = 600.0) -> int:
    """Ask for the stop and wait until the worker has written its checkpoint and gone."""
    try:
        launch.stop(run)
    except ProcessLookupError as error:
        what = f"{run.name} is not running: its process {run.pid()} has ended"
        raise UserError(what, do="`ftbench runs` shows what is", code="run.not_running") from error
    say(f"stopping {run.name} after its step …")
    deadline = time.monotonic() + seconds
    while run.is_live():
        if time.monotonic() > deadline:
            raise RunFailed(f"{run.name} is still at it after {seconds:.0f} s; see {run.log_file}")
        time.sleep(0.1)
    outcome = run.state() if isinstance(run, LadderDir) else settled_result(run)
    say(f"{outcome.status}: {outcome.reason}" if outcome else "ended")
    return 0


def resume(run: RunDir, detach: bool, json: bool) -> int:
    """Go on from the newest whole checkpoint, in the same directory."""
    run_dir.read_frozen(run)
    state = run.state()
    if state in ("live", "starting"):
        raise UserError(f"{run.name} is running", do=f"`ftbench attach {run.name}` shows it")
    if state == "finished":
        raise UserError(f"{run.name} has finished", do="`ftbench run` starts another")
    size = run.events_file.stat().st_size if run.events_file.exists() else 0
    try:
        begin(run, size)
    except Detached:
        return leave(run, json)
    return leave(run, json) if detach else watch(run, offset=size, json=json)


def settled_result(run: RunDir, seconds: float = 10.0) -> Result | None:
    """The result, once the worker has gone: it follows the `end` event by a moment, and the card is free only then."""
    deadline = time.monotonic() + seconds
    while run.is_live() and time.monotonic() < deadline:
        time.sleep(0.05)
    return run.result()


def refusal(run: RunDir) -> str:
    """What the worker found wrong with the user's input, '' where it was not that."""
    reason = ""
    for event in stream(run.events_file, Error):
        if isinstance(event, Error) and event.user:
            reason = event.text
    return reason


def remove_refused(run: RunDir) -> None:
    """Delete a run that never began to work."""
    settled_result(run)
    if not run.checkpoints.exists() and not run.model.exists():
        remove_tree(run.path, ignore_errors=True)


def preset_name(preset: str) -> str:
    """The name part of a preset's name or path."""
    return Path(preset).name.removesuffix(".toml")
