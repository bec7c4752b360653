"""`ftbench ladder PRESET --vary KEY=V1,V2 [--budget TIME]`: a ladder for each value of one or two settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.config.errors import UserError
from engine.config.settings import Flat
from engine.extensions.sweeps.sweep import Axis, describe_sweep, make_cells, parse_axes, parse_budget
from engine.extensions.sweeps.sweep_dir import start_sweep
from engine.runs.ladder.ladder_state import LadderPlan


@dataclass
class Variation:
    """The values of the options, and the sweep that they describe."""

    words: Sequence[str]
    budget: str | None
    axes: Sequence[Axis] = ()
    cells: Sequence[tuple[dict[str, Any], LadderPlan]] = field(default=())

    def plan(self, settings: Flat, make: Callable[[Flat], LadderPlan], dry_run: bool) -> Sequence[LadderPlan]:
        """The plans of its ladders, the first axis outermost. Raises UserError for options that do not fit."""
        if dry_run:
            hint = "remove --vary to forecast one of its ladders"
            raise UserError("--dry-run forecasts one ladder", "--vary", hint, code="sweep.dry_run")
        self.axes = parse_axes(self.words, settings)
        parse_budget(self.budget)
        self.cells = make_cells(self.axes, settings, make)
        plans = [plan for _, plan in self.cells]
        if plans[0].until_decided:
            problem, hint = "the ladders of a sweep have a fixed number of seeds", "use --seeds with --vary"
            raise UserError(problem, "--until-decided", hint, code="ladder.until_decided")
        return plans

    def about(self) -> str:
        return describe_sweep(self.axes, self.cells)

    def start(self, runs: Path, *, created: Callable[[Any], object]) -> object:
        command = self.cells[0][1].command
        return start_sweep(runs, self.axes, self.cells, parse_budget(self.budget), command, created=created)


def vary(
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary", metavar="KEY=V1,V2", help="Run a ladder for each value of a setting; at most two settings."
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="TIME",
            help="With --vary, start only ladders expected to finish within this time: 8h, 90m.",
        ),
    ] = None,
) -> Variation | None:
    """The sweep that is described. Raises UserError for --budget alone."""
    if not vary:
        if budget is not None:
            raise UserError("--budget without --vary", hint="add --vary KEY=V1,V2", code="sweep.budget_without_axes")
        return None
    return Variation(vary, budget)
