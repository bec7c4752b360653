"""The directory of a sweep, and its start."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import tomli_w

from engine.config.errors import UserError
from engine.config.preset_library import preset_name
from engine.extensions.sweeps.sweep import Axis, PlannedCell, Sweep, SweepPlan
from engine.runs.ladder.ladder_dir import ComparisonDir, LadderDir, create
from engine.runs.ladder.ladder_state import LadderPlan
from engine.runs.origin import NUMBER
from engine.runs.run import folder
from engine.runs.start import check_startable, continue_or_create, is_same_work


@dataclass(frozen=True)
class SweepDir(ComparisonDir):
    """The paths of one sweep."""

    KIND: ClassVar[str] = "sweep"
    WORK: ClassVar[str] = "engine.extensions.sweeps.sweep_runner:run_sweep"
    HOW_TO_LIST: ClassVar[str] = "`ftbench ladder PRESET --vary KEY=V1,V2` starts one"

    def ladder(self, name: str) -> LadderDir:
        return LadderDir(self.runs / name)

    def ladders(self) -> list[LadderDir]:
        return [self.ladder(cell.ladder) for cell in self.plan().cells]

    def plan(self) -> SweepPlan:
        return self.read_plan(SweepPlan)

    def state(self) -> Sweep | None:
        return self.read_state(Sweep, self.state_hint)


def create_sweep(
    runs: Path,
    axes: Sequence[Axis],
    cells: Sequence[tuple[dict[str, Any], LadderPlan]],
    budget: float | None = None,
    command: str = "",
) -> SweepDir:
    """Create the directories of a sweep and of its ladders, which later changes of the preset do not affect."""
    ladders: list[LadderDir] = []
    try:
        ladders += (create(runs, plan) for _, plan in cells)
        named = zip(cells, ladders, strict=True)
        plan = SweepPlan(
            preset=cells[0][1].preset,
            created=time.time(),
            axes=list(axes),
            cells=[PlannedCell(values=values, ladder=ladder.name) for (values, _), ladder in named],
            budget=budget,
            command=command,
            started_in=folder.current_directory(),
        )
        table = {key: value for key, value in msgspec.to_builtins(plan).items() if value is not None}

        def text(number: int) -> str:
            return tomli_w.dumps({**table, NUMBER: number})

        return SweepDir(folder.make(runs, preset_name(plan.preset), "sweep", "sweep.toml", text))
    except BaseException:
        for ladder in ladders:
            ladder.remove()
        raise


def start_sweep(
    runs: Path,
    axes: Sequence[Axis],
    cells: Sequence[tuple[dict[str, Any], LadderPlan]],
    budget: float | None = None,
    command: str = "",
    *,
    created: Callable[[SweepDir], object] = lambda folder: None,
) -> SweepDir:
    """Create the directories of a sweep, start its process, and return once it holds the sweep's lock.

    A sweep of the same work whose process was killed is continued instead. `created` is called with the sweep before
    its process starts. Raises as `start_run` does.
    """
    for rung in (rung for _, plan in cells for rung in plan.rungs):
        check_startable(rung.config)
    plans, killed = [plan for _, plan in cells], list[SweepDir]()
    for sweep in SweepDir.iterate(runs):
        with contextlib.suppress(UserError):  # the sweep's plan is damaged
            if sweep.was_killed() and sweep.plan().budget == budget:
                ladders = sweep.ladders()
                if len(ladders) == len(plans) and all(map(is_same_work, ladders, plans)):
                    killed.append(sweep)
    create = partial(create_sweep, runs, axes, cells, budget, command)
    return continue_or_create(killed, plans[0].fresh, create, created)
