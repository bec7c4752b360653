"""`ladder`: base, QLoRA, LoRA and full on the same work, followed to the verdict; `report` writes the page again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.config.errors import UserError
from engine.config.text import amount
from engine.runs import ladder_dir
from engine.runs.account import columns_in_short, rows_in_short
from engine.runs.ladder import Ladder, LadderPlan
from engine.runs.ladder_dir import LadderDir
from engine.runs.rpc_client import ask
from engine.runs.start import resume_ladder, start_ladder
from tui.cli.disk import refuse_small_disk
from tui.cli.run import interruptible
from tui.history.ladder_table import show_ladder
from tui.live.ladder_progress import follow_ladder
from tui.live.run_progress import Detached
from tui.output import streams
from tui.output.console import print_json, say


def start(plan: LadderPlan, runs: Path, detach: bool, json: bool) -> int:
    """Start a ladder and follow it."""
    refuse_small_disk([rung.config for rung in plan.rungs], runs)
    created: list[LadderDir] = []
    try:
        with interruptible(created):
            start_ladder(runs, plan, created=created.append)  # before any output: a closed pipe must not prevent it
    except Detached:
        return leave(created[0], json)
    if not json:
        say(f"ladder {created[0].name}")
        say(describe(plan))
    return leave(created[0], json) if detach else watch(created[0], json, fresh=True)


def leave(folder: LadderDir, json: bool) -> int:
    """Say how to come back to a ladder that goes on."""
    if json:
        print_json({"ladder": folder.name, "path": str(folder.path)})
    else:
        say(f"detached; it goes on by itself: `ftbench attach {folder.name}` shows it")
    return 0


def describe(plan: LadderPlan) -> str:
    """What is going to be run, in one line."""
    names = ", ".join(rung.name for rung in plan.rungs)
    seeds = f"{len(plan.seeds)} seeds" if len(plan.seeds) > 1 else "one seed"
    rates = f", {plan.learning_rates} learning rates tried for each" if plan.learning_rates > 1 else ""
    probes = ", a few steps of each first" if plan.probe else ""
    return f"base, {names}; {seeds}{rates}{probes}: {amount(runs_in(plan), 'run')}"


def runs_in(plan: LadderPlan) -> int:
    trials = plan.learning_rates if plan.learning_rates > 1 else 0
    return len(plan.rungs) * (len(plan.seeds) + trials + int(plan.probe))


def watch(folder: LadderDir, json: bool, fresh: bool = False) -> int:
    """Follow to the end, then show table, verdict and the page's path."""
    try:
        state = follow_ladder(folder, quiet=json)
    except Detached:
        return leave(folder, json)
    if fresh and state.status == "failed" and not any(entry.run for entry in state.entries):
        ladder_dir.remove(folder)
        raise UserError(state.reason)
    if json:
        print_json(as_json(state))
    else:
        show(folder, state)
    return 0 if state.status in ("finished", "stopped") else 1


def show(folder: LadderDir, state: Ladder) -> None:
    """The table, the verdict, where the page is; of an unfinished ladder what there is."""
    if state.status != "finished":
        say(f"{state.status}: {state.reason}")
    if state.rows:
        show_ladder(state)
    if state.work and state.work.account:
        say(f"columns: {columns_in_short(state.work.columns)}")
        say(f"rows: {rows_in_short(state.work.account)}")
    for sentence in state.verdict:
        say(f"{sentence.topic}: {sentence.text}")
    if folder.page.exists():
        say(f"page: {folder.page}")


def resume(folder: LadderDir, detach: bool, json: bool) -> int:
    """Resume a ladder; finished runs are not repeated."""
    try:
        with interruptible([folder]):
            resume_ladder(folder)
    except Detached:
        return leave(folder, json)
    return leave(folder, json) if detach else watch(folder, json)


def report(folder: LadderDir, json: bool, markdown: bool) -> int:
    """Write the page from what the ladder's directories hold, and say where it is."""
    state = folder.state()
    if state is None:
        raise UserError(f"{folder.name} has not begun", do=f"`ftbench resume {folder.name}` starts it")
    if json:
        print_json(as_json(state))
        return 0
    ask("ladder.report", {"path": str(folder.path)})
    if markdown:
        streams.write(folder.markdown.read_text("utf-8"))
    else:
        say(f"page: {folder.page}")
        say(f"Markdown: {folder.markdown}")
    return 0


def as_json(state: Ladder) -> Any:
    return msgspec.to_builtins(state)


def rung_words(given: Sequence[str] | None) -> list[str]:
    """`--rung` as given, commas between bare names allowed: `--rung lora,full`."""
    words: list[str] = []
    for word in given or []:
        words += [word] if "=" in word else word.split(",")
    return words
