"""What extensions do with runs (`ftbench.runs` in `engine/config/hooks.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Protocol

from engine.config.hooks import load_all
from engine.config.schema import Config
from engine.runs.run.run_dir import RunDir


class RunHooks(Protocol):
    """A module or an object with these functions."""

    def check(self, config: Config) -> None:
        """Raise UserError for settings with which no run can be started."""

    def started(self, run: RunDir) -> None:
        """Called once the worker of a run holds its lock. Errors do not end the run: `problems` returns them."""

    def problems(self, run: RunDir) -> list[str]:
        """What failed in the extension for this run, one sentence each."""


@cache
def run_hooks() -> tuple[RunHooks, ...]:
    """Those of all extensions. Raises UserError for one that lacks a function."""

    def is_valid(loaded: object) -> bool:
        return all(callable(getattr(loaded, name, None)) for name in ("check", "started", "problems"))

    found = load_all("ftbench.runs", "an object with check, started and problems", is_valid)
    return tuple(loaded for _, loaded in found)


def check(config: Config) -> None:
    """Raise UserError for settings with which an extension cannot start a run."""
    for hooks in run_hooks():
        hooks.check(config)


def started(run: RunDir) -> None:
    """Call all extensions once the worker of a run holds its lock."""
    for hooks in run_hooks():
        hooks.started(run)


def problems(run: RunDir) -> Iterator[str]:
    """What failed in extensions for a run, one sentence each."""
    for hooks in run_hooks():
        yield from hooks.problems(run)
