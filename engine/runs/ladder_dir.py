"""The directory of a ladder, in the same folder as its runs.

One process writes it (`python -m engine.ladder`). `ladder.json` is replaced atomically after every change, so readers
always see a consistent state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import msgspec
import tomli
import tomli_w

from engine.config.errors import UserError
from engine.config.files import read_regular, remove_tree
from engine.config.preset import flatten, nested
from engine.config.preset_library import preset_name
from engine.runs import folder
from engine.runs.comparison_dir import ComparisonDir
from engine.runs.ladder import Ladder, decode_ladder
from engine.runs.run_dir import RunDir
from engine.runs.rungs import LadderPlan


@dataclass(frozen=True)
class LadderDir(ComparisonDir):
    """The paths of one ladder."""

    KIND: ClassVar[str] = "ladder"

    @property
    def probes(self) -> Path:
        return self.path / "probes"

    def state(self) -> Ladder | None:
        """As `read_state`."""
        return self.read_state(decode_ladder)

    def has_runs(self) -> bool:
        """Whether a run, timing probe or export has been started. Raises UserError as `state`."""
        state = self.state()
        return state is not None and any(entry.run for entry in state.entries)

    def finished_runs(self) -> list[RunDir]:
        """One finished run of each rung. Raises UserError if there is none, and as `state`."""
        return [RunDir(self.runs / name) for name in self._state_with_runs().finished_runs().values()]

    def recommended_run(self) -> RunDir:
        """A finished run of the rung that the verdict recommends to ship, that of the first seed.

        Raises UserError if the verdict recommends none, and as `finished_runs`.
        """
        ladder = self._state_with_runs()
        names = ladder.finished_runs()
        if ladder.recommended not in names:
            do = f"name a run: {', '.join(names.values())}"
            raise UserError("the verdict recommends no rung", self.name, do, code="ladder.no_recommendation")
        return RunDir(self.runs / names[ladder.recommended])

    def _state_with_runs(self) -> Ladder:
        """The state. Raises UserError if no run has finished, and as `state`."""
        ladder = self.state()
        if ladder is None or not ladder.finished_runs():
            do = "wait until a run has finished"
            raise UserError("no finished run in the ladder", self.name, do, code="ladder.no_finished_run")
        return ladder

    def plan(self) -> LadderPlan:
        """The plan. Raises UserError if `ladder.toml` is missing, damaged or cannot be read."""
        try:
            return msgspec.convert(tomli.loads(read_regular(self.plan_file).decode()), LadderPlan)
        except FileNotFoundError as error:
            what, do = "not a ladder, ladder.toml not found", "`ftbench runs` lists runs and ladders"
            raise UserError(what, str(self.path), do, code="ladder.not_a_ladder") from error
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise self.damaged(error, self.plan_file, "start a new ladder") from error
        except OSError as error:
            raise self.unreadable(error, self.plan_file) from error


def create(runs: Path, plan: LadderPlan) -> LadderDir:
    """Create a ladder's directory (mode 0700) with its plan."""
    plan = msgspec.structs.replace(plan, started_in=plan.started_in or folder.current_directory())
    return LadderDir(folder.make(runs, preset_name(plan.preset), "ladder", "ladder.toml", plan_text(plan)))


def plan_text(plan: LadderPlan) -> str:
    """The text of `ladder.toml`."""
    table = msgspec.to_builtins(plan)
    for rung_table, rung in zip(table["rungs"], plan.rungs, strict=True):
        values = {key: value for key, value in flatten(rung.config).items() if value is not None and value != {}}
        rung_table["config"] = nested(values)
    return tomli_w.dumps(table)


def remove(ladder: LadderDir) -> None:
    """Delete a ladder that has not started any run."""
    remove_tree(ladder.path, ignore_errors=True)


def states(runs: Path) -> Iterator[tuple[LadderDir, Ladder]]:
    """Every ladder whose state can be read, with it."""
    for ladder in iterate(runs):
        with contextlib.suppress(UserError):  # the ladder screen shows a damaged one
            state = ladder.state()
            if state is not None:
                yield ladder, state


def ladder_of_run(runs: Path, run: str) -> LadderDir | None:
    """The ladder that a run belongs to, None for a run that was started alone."""
    return next((ladder for ladder, state in states(runs) if any(entry.run == run for entry in state.entries)), None)


def find(runs: Path, name: str) -> LadderDir:
    """Find a ladder by its path, its name, an unambiguous part of the name, or `last`."""
    if folder.has_file(Path(name), "ladder.toml"):
        return LadderDir(folder.real_path(Path(name)))
    return folder.pick(iterate(runs), name, "ladder", runs, "`ftbench ladder PRESET` starts one")


def iterate(runs: Path) -> Iterator[LadderDir]:
    """Every ladder in the folder, unordered."""
    return map(LadderDir, folder.directories_with_file(runs, "ladder.toml"))
