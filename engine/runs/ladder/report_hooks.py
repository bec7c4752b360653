"""What extensions add to a ladder where it is read (`ftbench.reports` in `engine/config/hooks.py`).

The ladder's own process knows nothing of it: it can come later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import msgspec

from engine.config.hooks import load_all
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_state import Ladder


@dataclass(frozen=True)
class ReportPart:
    """What one extension shows in the report."""

    tables: Sequence[Any] = ()
    """After those of the results (`ReportTable` in `engine/ladder/report/tables.py`)."""
    note: str = ""
    """How to read these tables."""
    texts: Sequence[tuple[str, str]] = ()
    """Title and content of folded texts in the configuration."""


class ReportHooks(Protocol):
    """A module or an object with these functions, which import what they need when they are called."""

    def extend(self, folder: LadderDir, ladder: Ladder) -> Ladder:
        """The ladder with further sentences of its verdict and warnings. A damaged file is a warning."""

    def facts(self, folder: LadderDir) -> dict[str, Any]:
        """What `ftbench report --json` says next to the verdict."""

    def changed(self, folder: LadderDir) -> float:
        """When any of this changed last, in Unix seconds; 0 if there is nothing."""

    def progress(self, folder: LadderDir) -> list[str]:
        """One line about each process that works on it now, or has failed."""

    def part(self, folder: LadderDir) -> ReportPart: ...


@cache
def report_hooks() -> tuple[ReportHooks, ...]:
    """The report hooks of all extensions. Raises UserError for one that lacks a function."""
    names = ("extend", "facts", "changed", "progress", "part")

    def is_valid(loaded: object) -> bool:
        return all(callable(getattr(loaded, name, None)) for name in names)

    return tuple(loaded for _, loaded in load_all("ftbench.reports", f"an object with {', '.join(names)}", is_valid))


def extended(folder: LadderDir, ladder: Ladder) -> Ladder:
    """The ladder as its user reads it."""
    for hooks in report_hooks():
        ladder = hooks.extend(folder, ladder)
    return ladder


def extended_json(folder: LadderDir, ladder: Ladder) -> dict[str, Any]:
    """The ladder as `ftbench report --json` prints it."""
    table: dict[str, Any] = {}
    for key, value in msgspec.to_builtins(extended(folder, ladder)).items():
        table[key] = value
        if key == "verdict":
            for hooks in report_hooks():
                table |= hooks.facts(folder)
    return table
