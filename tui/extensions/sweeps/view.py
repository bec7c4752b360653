"""A sweep on the command line: its line in the list of runs, its progress and its results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from engine.config.errors import UserError
from engine.config.quantities import percent
from engine.config.text import amount
from engine.extensions.sweeps.sweep import Sweep, axis_value_text, cell_text
from engine.extensions.sweeps.sweep_dir import SweepDir
from engine.runs.home import tilde
from engine.runs.score_format import percent_bounds
from tui.cli.following import LadderView, between, print_line
from tui.cli.ladder import show_report_path
from tui.cli.progress import ProgressDisplay
from tui.output.console import say, table

COLUMNS = ("sweep", "state", "settings", "ladders done", "started in")
CHECKS = {"holds": "holds", "fails": "does not hold", "undecided": "undecided", "unknown": "cannot be checked"}
"""Whether the rule of thumb holds -> in words."""


def cells(sweep: SweepDir) -> list[str]:
    """Its line in the list of runs."""
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


def follower(folder: SweepDir, display: ProgressDisplay | None, quiet: bool) -> Callable[[Sweep], None]:
    """What prints changes of the sweep."""
    first = folder.ladder(folder.plan().cells[0].ladder)
    return SweepView(folder, LadderView(first, display, quiet)).show


@dataclass
class SweepView:
    """Prints what changed in a sweep, and the progress of its active ladder."""

    folder: SweepDir
    ladder: LadderView
    printed: dict[str, str] = field(default_factory=dict)
    """Ladder -> the status of its cell that was printed."""
    estimated: bool = False

    def show(self, sweep: Sweep) -> None:
        if self.ladder.quiet:
            return
        if sweep.stage == "running" and not self.estimated:
            self.estimated = True
            if sweep.low is not None and sweep.high is not None:  # with timing probes
                remaining = max(0.0, sweep.low - sweep.spent), max(0.0, sweep.high - sweep.spent)
                runs = f"{amount(len(sweep.cells), 'ladder')}, {amount(sweep.runs, 'run')}"
                print_line(f"total: about {between(*remaining)} for {runs} (equal runs count once)")
        for cell in sweep.cells:
            if cell.status not in ("planned", self.printed.get(cell.ladder)):
                reason = f": {cell.reason}" if cell.reason else ""
                print_line(f"{cell_text(cell.values)} {cell.status}{reason}")
                self.printed[cell.ladder] = cell.status
            if cell.status == "live":
                if self.ladder.folder.name != cell.ladder:
                    self.ladder = LadderView(self.folder.ladder(cell.ladder), self.ladder.display, self.ladder.quiet)
                if state := self.ladder.folder.state():
                    self.ladder.show(state)


def show(folder: SweepDir, sweep: Sweep) -> None:
    """Print the headline, a table of the rungs by setting, the sentences about them, and the report's path."""
    if sweep.headline:
        say(sweep.headline, "bold")
    keys = [axis.key for axis in sweep.axes]
    rows = []
    for point in sweep.points:
        values, share = sweep.cells[point.cell].values, point.share_of_gain
        settings = [axis_value_text(values[key]) for key in keys]
        gained = percent(share.mean) if share else "–"
        bounds = percent_bounds(share).strip("[]").replace(", ", "–") if share else ""
        cost = f"{point.cost.mean:.2f}" if point.cost else "–"
        rows.append([*settings, point.rung, gained, bounds, cost, CHECKS[point.rule]])
    if rows:
        columns = [*keys, "rung", "share of gain", "95% CI", "cost ratio", "rule of thumb"]
        table("", columns, rows, right=(len(keys) + 1, len(keys) + 3))
    for line in sweep.sentences:
        say(f"- {line}")
    show_report_path(folder)
    if sweep.headline:
        say(sweep.headline, "bold")  # again: the table above it may be long
