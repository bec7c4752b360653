"""The directory of a sweep, in the same folder as its ladders. One process writes it (`python -m engine.ladder`)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import tomli_w

from engine.config.files import remove_tree
from engine.config.preset_library import preset_name
from engine.runs.ladder import ladder_dir
from engine.runs.ladder.ladder_dir import ComparisonDir, LadderDir
from engine.runs.ladder.rungs import LadderPlan
from engine.runs.ladder.sweep import Axis, PlannedCell, Sweep, SweepPlan
from engine.runs.run import folder


@dataclass(frozen=True)
class SweepDir(ComparisonDir):
    """The paths of one sweep."""

    KIND: ClassVar[str] = "sweep"

    def ladder(self, name: str) -> LadderDir:
        """The directory of a cell's ladder."""
        return LadderDir(self.runs / name)

    def ladders(self) -> list[LadderDir]:
        """The ladders of all cells. Raises UserError as `plan`."""
        return [self.ladder(cell.ladder) for cell in self.plan().cells]

    def has_runs(self) -> bool:
        """Whether a ladder of the sweep has started a run or a timing probe. Raises UserError if a file is damaged."""
        return any(ladder.has_runs() for ladder in self.ladders())

    def plan(self) -> SweepPlan:
        """As `read_plan`."""
        return self.read_plan(SweepPlan)

    def state(self) -> Sweep | None:
        """As `read_state`."""
        return self.read_state(Sweep, self.state_hint)


def create(
    runs: Path,
    axes: Sequence[Axis],
    cells: Sequence[tuple[dict[str, Any], LadderPlan]],
    budget: float | None = None,
    command: str = "",
) -> SweepDir:
    """Create the directories of a sweep and of its ladders, which later changes of the preset do not affect."""
    ladders: list[LadderDir] = []
    try:
        ladders += (ladder_dir.create(runs, plan) for _, plan in cells)
        planned = [
            PlannedCell(values=values, ladder=ladder.name) for (values, _), ladder in zip(cells, ladders, strict=True)
        ]
        first = cells[0][1]
        plan = SweepPlan(
            preset=first.preset,
            created=time.time(),
            axes=list(axes),
            cells=planned,
            budget=budget,
            command=command,
            started_in=folder.current_directory(),
        )
        table = {key: value for key, value in msgspec.to_builtins(plan).items() if value is not None}
        return SweepDir(folder.make(runs, preset_name(plan.preset), "sweep", "sweep.toml", tomli_w.dumps(table)))
    except BaseException:
        for ladder in ladders:
            ladder_dir.remove(ladder)
        raise


def remove(sweep: SweepDir) -> None:
    """Delete a sweep that has not started any run, with its ladders."""
    for ladder in sweep.ladders():
        ladder_dir.remove(ladder)
    remove_tree(sweep.path, ignore_errors=True)


def find(runs: Path, name: str) -> SweepDir:
    """Find a sweep by its path, its name, an unambiguous part of the name, or `last`."""
    if folder.has_file(Path(name), "sweep.toml"):
        return SweepDir(folder.real_path(Path(name)))
    return folder.pick(iterate(runs), name, "sweep", runs, "`ftbench ladder PRESET --vary KEY=V1,V2` starts one")


def iterate(runs: Path) -> Iterator[SweepDir]:
    """Every sweep in the folder, unordered."""
    return map(SweepDir, folder.directories_with_file(runs, "sweep.toml"))
