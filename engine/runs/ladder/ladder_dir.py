"""The directories of ladders, next to their runs: a plan, a state and a report.

One process writes each (`python -m engine.ladder`). `ladder.json` is replaced atomically after every change, so readers
always see a consistent state. Extensions have directories of the same kind, of several ladders.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import ClassVar, TypeVar

import msgspec
import tomli
import tomli_w

from engine.config.errors import UserError
from engine.config.files import read_regular, remove_tree, unusable_file
from engine.config.hooks import load_all
from engine.config.preset_library import preset_name
from engine.config.settings import nested
from engine.runs.ladder.ladder_state import ADDED_PREFIX, ComparisonState, Ladder, LadderPlan
from engine.runs.run import folder
from engine.runs.run.folder import Folder, FolderEntry, StateFolder, sort_by_start
from engine.runs.run.run_dir import RunDir, values_that_are_set

P = TypeVar("P")
START_SECONDS = 30.0
"""A process that was started has its lock after this time."""


@dataclass(frozen=True)
class ComparisonDir(StateFolder):
    """A directory with a plan, `KIND.toml`, a state, `KIND.json`, and a report."""

    WORK: ClassVar[str]
    """`module:function` that its process calls with it; returns how it ended, and why."""
    page = FolderEntry("report.html")
    markdown = FolderEntry("report.md")

    @property
    def runs(self) -> Path:
        """The folder that contains it and its runs."""
        return self.path.parent

    @property
    def plan_file(self) -> Path:
        return self.path / f"{self.KIND}.toml"

    def state(self) -> ComparisonState | None:
        """As `read_state`."""
        raise NotImplementedError

    def plan(self) -> object:
        """As `read_plan`."""
        raise NotImplementedError

    def ladders(self) -> list[LadderDir]:
        """Itself, or those that it is made of, from its plan. Raises UserError as `read_plan`."""
        raise NotImplementedError

    def has_runs(self) -> bool:
        """Whether a run, timing probe or export has been started. Raises UserError if a file is damaged."""
        states = [ladder.state() for ladder in self.ladders()]
        return any(entry.run for state in states if state is not None for entry in state.entries)

    def remove(self) -> None:
        """Delete one that has not started any run, with its ladders."""
        for comparison in (*self.ladders(), self):
            remove_tree(comparison.path, ignore_errors=True)

    def status_of(self, state: ComparisonState) -> str:
        """The stage while its process works, `died` if that ended unexpectedly, else how it ended."""
        if self.is_active():
            return str(state.stage)
        return "died" if state.status == "running" else str(state.status)

    def was_killed(self) -> bool:
        """Whether its process ended without recording how, or never started; False if it may be starting now."""
        if self.is_active():
            return False
        try:
            state = self.state()
        except UserError:
            return False  # damaged
        if state is None:
            return self.lock_file.exists() or time.time() - self.plan_file.stat().st_mtime > START_SECONDS
        return bool(state.status == "running")

    def read_plan(self, kind: type[P]) -> P:
        """The plan. Raises UserError if the file is missing, damaged or cannot be read."""
        try:
            return msgspec.convert(tomli.loads(read_regular(self.plan_file).decode()), kind)
        except FileNotFoundError as error:
            problem, hint = f"not a {self.KIND}, {self.KIND}.toml not found", "`ftbench runs` lists runs and ladders"
            raise UserError(problem, str(self.path), hint, code=f"{self.KIND}.not_a_{self.KIND}") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise unusable_file(self.plan_file, error, f"start a new {self.KIND}", f"{self.KIND}.damaged") from error

    @property
    def state_hint(self) -> str:
        """What to do about a damaged state."""
        return f"delete it, then `ftbench resume {self.argument}` starts over and reuses finished runs"


@dataclass(frozen=True)
class LadderDir(ComparisonDir):
    """The paths of one ladder."""

    KIND: ClassVar[str] = "ladder"
    WORK: ClassVar[str] = "engine.ladder.pipeline:run_ladder"
    HOW_TO_LIST: ClassVar[str] = "`ftbench ladder PRESET` starts one"
    probes = FolderEntry("probes")

    def added_rung(self, row: str) -> Path:
        """The folder with the answers of a rung that is not trained."""
        return self.path / "rungs" / row.removeprefix(ADDED_PREFIX)

    def state(self) -> Ladder | None:
        return self.read_state(Ladder, self.state_hint)

    def ladders(self) -> list[LadderDir]:
        return [self]

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
            hint = f"name a run: {', '.join(names.values())}"
            raise UserError("the verdict recommends no rung", self.name, hint, code="ladder.no_recommendation")
        return RunDir(self.runs / names[ladder.recommended])

    def _state_with_runs(self) -> Ladder:
        """The state. Raises UserError if no run has finished, and as `state`."""
        ladder = self.state()
        if ladder is None or not ladder.finished_runs():
            hint = "wait until a run has finished"
            raise UserError("no finished run in the ladder", self.name, hint, code="ladder.no_finished_run")
        return ladder

    def plan(self) -> LadderPlan:
        return self.read_plan(LadderPlan)


def create(runs: Path, plan: LadderPlan) -> LadderDir:
    """Create a ladder's directory (mode 0700) with its plan."""
    plan = msgspec.structs.replace(plan, started_in=plan.started_in or folder.current_directory())

    def text(number: int) -> str:
        return plan_text(msgspec.structs.replace(plan, number=number))

    return LadderDir(folder.make(runs, preset_name(plan.preset), "ladder", "ladder.toml", text))


def plan_text(plan: LadderPlan) -> str:
    table = msgspec.to_builtins(plan)
    for rung_table, rung in zip(table["rungs"], plan.rungs, strict=True):
        rung_table["config"] = nested(values_that_are_set(rung.config))
    return tomli_w.dumps(table)


def states(runs: Path) -> Iterator[tuple[LadderDir, Ladder]]:
    """Every ladder whose state can be read, with it, the latest first."""
    for ladder in sort_by_start(LadderDir.iterate(runs), latest_first=True):
        with contextlib.suppress(UserError):  # the ladder screen shows a damaged one
            state = ladder.state()
            if state is not None:
                yield ladder, state


def ladder_of_run(runs: Path, run: str) -> LadderDir | None:
    """The latest ladder that a run belongs to, None for a run that was started alone."""
    return next((ladder for ladder, state in states(runs) if any(entry.run == run for entry in state.entries)), None)


@cache
def comparison_kinds() -> tuple[type[ComparisonDir], ...]:
    """Ladders, and what extensions make of several of them (`ftbench.comparisons`).

    Raises UserError for what is not a ComparisonDir.
    """

    def is_valid(loaded: object) -> bool:
        return isinstance(loaded, type) and issubclass(loaded, ComparisonDir)

    return (LadderDir, *(kind for _, kind in load_all("ftbench.comparisons", "a ComparisonDir", is_valid)))


def comparison_at(path: Path) -> ComparisonDir:
    """The ladder at this path, or what else has its plan there."""
    return next((kind(path) for kind in comparison_kinds() if kind(path).plan_file.exists()), LadderDir(path))


def comparisons(runs: Path) -> Iterator[ComparisonDir]:
    """All of all kinds."""
    return chain.from_iterable(kind.iterate(runs) for kind in comparison_kinds())


def composed_of(runs: Path) -> dict[str, ComparisonDir]:
    """Name of a ladder -> what it is a part of, which alone continues it; damaged ones are skipped."""
    owners: dict[str, ComparisonDir] = {}
    for whole in comparisons(runs):
        if not isinstance(whole, LadderDir):
            with contextlib.suppress(UserError):
                owners |= {ladder.name: whole for ladder in whole.ladders()}
    return owners


def iterate_all(runs: Path) -> Iterator[Folder]:
    return chain[Folder](RunDir.iterate(runs), comparisons(runs))
