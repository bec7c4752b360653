"""`ladder --vary`: run a ladder for each value of one or two settings, follow the sweep, and report it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from engine.config.errors import UserError
from engine.config.preset import Flat
from engine.config.quantities import percent
from engine.config.text import amount, shortened
from engine.runs.ladder import ladder_dir
from engine.runs.ladder.ladder_dir import SweepDir
from engine.runs.ladder.rungs import LadderPlan
from engine.runs.ladder.sweep import Axis, Sweep, SweepPoint, cell_text, describe_sweep, value_text
from engine.runs.score_format import percent_bounds
from engine.runs.start import resume_ladder, start_sweep
from tui.cli.errors import show_notices
from tui.cli.following import Detached, LadderView, between, last_log_line, wait_for_end
from tui.cli.ladder import continues, print_report
from tui.cli.progress import progress_display
from tui.cli.run import check_disk, follow_started, print_detached
from tui.output.console import print_json, say, table

Cells = Sequence[tuple[dict[str, Any], LadderPlan]]
CHECKS = {"holds": "holds", "fails": "does not hold", "undecided": "undecided", "unknown": "cannot be checked"}


def start(axes: Sequence[Axis], cells: Cells, budget: float | None, runs: Path, detach: bool, json: bool) -> int:
    """Start a sweep and follow it."""
    first = cells[0][1]
    show_notices(first.notices, json)
    check_disk([rung.config for _, plan in cells for rung in plan.rungs], runs, json)
    created: list[SweepDir] = []

    def begin() -> None:
        start_sweep(runs, axes, cells, budget, first.command, created=created.append)
        if not json:
            say(f"sweep {created[0].name}{continues(created[0].plan().created, first.created)}")
            say(describe_sweep(axes, cells))

    return follow_started(created, begin, lambda: watch(created[0], json, fresh=True), detach, json)


def resume(folder: SweepDir, detach: bool, json: bool, settings: Flat | None = None) -> int:
    """Resume a sweep; finished ladders and runs are not repeated. `settings`: as of `resume_ladder`."""
    begin = partial(resume_ladder, folder, settings)
    return follow_started([folder], begin, partial(watch, folder, json), detach, json)


def watch(folder: SweepDir, json: bool, fresh: bool = False) -> int:
    """Follow to the end, then print the results. Returns the exit status.

    A `fresh` sweep that is refused for invalid input is deleted.
    """
    try:
        state = follow(folder, json)
    except Detached:
        return print_detached(folder, json)
    if fresh and state.status == "failed" and not folder.has_runs():
        ladder_dir.remove_sweep(folder)
        raise UserError(state.reason, code=state.reason_code or "sweep.refused")
    if json:
        print_json(msgspec.to_builtins(state))
    else:
        show(folder, state)
    return 0 if state.status in ("finished", "stopped") else 1


def follow(folder: SweepDir, quiet: bool) -> Sweep:
    """Show the sweep until it ends; returns its last state. Raises Detached where the user chose to detach."""
    with progress_display(quiet) as display:
        first = folder.ladder(folder.plan().cells[0].ladder)
        view = SweepView(folder, LadderView(first, display, quiet))

        def poll() -> tuple[Sweep | None, bool]:
            live, state = folder.is_active(), folder.state()
            if state is not None and not quiet and (state.status == "running" or not live):
                view.show(state)
            return (None if live or state is None or state.status == "running" else state), live

        return wait_for_end(folder, display, poll, exited_message)


def exited_message(folder: SweepDir) -> str:
    return f"sweep process exited unexpectedly{last_log_line(folder)}; `ftbench resume {folder.argument}` resumes it"


def show(folder: SweepDir, state: Sweep) -> None:
    """Print the headline, a line per rung and ladder, the sentences and the report's path; the headline is last too."""
    if state.status != "finished":
        say(f"{state.status}: {state.reason}")
    if state.headline:
        say(state.headline, "bold")
    keys = [axis.key for axis in state.axes]
    columns = [*keys, "rung", "share of gain", "95% CI", "cost ratio", "rule of thumb"]
    rows = [_row(state, point, keys) for point in state.points]
    if rows:
        table("", columns, rows, right=(len(keys) + 1, len(keys) + 3))
    for sentence in state.sentences:
        say(f"- {sentence}")
    if folder.page.exists():
        say(f"report: {folder.page}")
    if state.headline:
        say(state.headline, "bold")


def _row(state: Sweep, point: SweepPoint, keys: Sequence[str]) -> list[str]:
    values, share = state.cells[point.cell].values, point.share_of_gain
    return [
        *(value_text(values[key]) for key in keys),
        point.rung,
        percent(share.mean) if share else "–",
        percent_bounds(share).strip("[]").replace(", ", "–") if share else "",
        f"{point.cost.mean:.2f}" if point.cost else "–",
        CHECKS[point.rule],
    ]


def report(folder: SweepDir, json: bool, markdown: bool) -> int:
    """Write the report again and print its path, its Markdown, or the sweep as JSON."""
    return print_report(folder, folder.state(), json, markdown)


@dataclass
class SweepView:
    """Prints what changed in a sweep, and the progress of its active ladder."""

    folder: SweepDir
    ladder: LadderView
    printed: dict[str, str] = field(default_factory=dict)
    """Ladder -> the status of its cell that was printed."""
    estimated: bool = False

    def show(self, sweep: Sweep) -> None:
        for text in _estimate(sweep) if sweep.stage == "running" and not self.estimated else ():
            self._line(text)
        self.estimated = self.estimated or sweep.stage == "running"
        for cell in sweep.cells:
            if cell.status not in ("planned", self.printed.get(cell.ladder)):
                reason = f": {cell.reason}" if cell.reason else ""
                self._line(f"{cell_text(cell.values)} {cell.status}{reason}")
                self.printed[cell.ladder] = cell.status
            if cell.status == "live":
                self._show_ladder(cell.ladder)

    def _show_ladder(self, name: str) -> None:
        if self.ladder.folder.name != name:
            self.ladder = LadderView(self.folder.ladder(name), self.ladder.display, self.ladder.quiet)
        if state := self.ladder.folder.state():
            self.ladder.show(state)

    def _line(self, text: str) -> None:
        say(shortened(f"{time.strftime('%H:%M:%S')} {text}"))


def _estimate(sweep: Sweep) -> list[str]:
    """The estimate for the whole sweep; none without timing probes."""
    if sweep.low is None or sweep.high is None:
        return []
    remaining = max(0.0, sweep.low - sweep.spent), max(0.0, sweep.high - sweep.spent)
    runs = f"{amount(len(sweep.cells), 'ladder')}, {amount(sweep.runs, 'run')}"
    return [f"total: about {between(*remaining)} for {runs} (equal runs count once)"]
