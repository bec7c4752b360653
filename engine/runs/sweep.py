"""The plan of a sweep (`sweep.toml`), and its state and results (`sweep.json`).

A sweep is a family of ladders that differ in one or two settings, its axes; each of its ladders is a cell.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

from engine.runs.ladder import Outcome
from engine.runs.result import Interval
from engine.runs.rung_results import SeedRange

Check = Literal["holds", "fails", "undecided", "unknown"]
SweepStage = Literal["planned", "measuring", "running", "done"]
SWEEP_VERSION = 1


class Axis(Struct, kw_only=True, frozen=True):
    """A setting and the values that it has in turn."""

    key: str
    values: list[Any]

    @property
    def is_numeric(self) -> bool:
        """Whether all values are positive numbers, so that there can be a trend."""
        return all(isinstance(one, int | float) and not isinstance(one, bool) and one > 0 for one in self.values)


class PlannedCell(Struct, kw_only=True, frozen=True):
    """A cell as planned: its values by key, and the directory of its ladder."""

    values: dict[str, Any]
    ladder: str


class SweepPlan(Struct, kw_only=True, frozen=True):
    """The content of `sweep.toml`; does not change after the start. The plan of each cell is in its ladder."""

    preset: str
    created: float
    axes: list[Axis]
    cells: list[PlannedCell]
    budget: float | None = None
    """Seconds for all cells; a cell that is expected to exceed them is not started."""
    command: str = ""
    """The command line that started the sweep."""
    started_in: str = ""
    """The directory it was started from."""


class SweepCell(Struct, kw_only=True):
    """One ladder of the sweep, planned or done."""

    values: dict[str, Any]
    ladder: str
    status: str = "planned"
    """planned, live, finished, failed, stopped, or missing: the budget did not suffice."""
    reason: str = ""
    low: float | None = None
    high: float | None = None
    """Expected seconds of what this cell adds to the cells before it, from its timing probes; None if not measured."""
    seconds: float = 0.0
    """Time spent on it so far."""
    base: Interval | None = None
    """The score of the base model."""
    full: Interval | None = None
    """The score of full fine-tuning."""


class SweepPoint(Struct, kw_only=True):
    """A rung in a cell."""

    cell: int
    """Index of the cell."""
    rung: str
    title: str
    """Name of the rung in text."""
    score: Interval | None = None
    share_of_gain: Interval | None = None
    cost: SeedRange | None = None
    """Ratio to full fine-tuning's cost."""
    why: str = ""
    """Why there is no share of the gain."""
    quality: Check = "unknown"
    """Whether the share of the gain is at least 94%."""
    cheap: Check = "unknown"
    """Whether the cost is at most one eighth."""

    @property
    def rule(self) -> Check:
        """Whether the rule of thumb holds: in quality and in cost. As in a ladder, it needs a share of the gain."""
        if self.share_of_gain is None:
            return "unknown"
        both = {self.quality, self.cheap}
        for check in ("fails", "unknown", "undecided"):
            if check in both:
                return check
        return "holds"


class Trend(Struct, kw_only=True):
    """Change per doubling of a numeric setting, by weighted least squares."""

    rung: str
    title: str
    key: str
    at: dict[str, Any]
    """The value of the other axis; empty without one."""
    share_of_gain: Interval | None = None
    """Change of the share of the gain; `rows` is the number of cells."""
    cost: Interval | None = None
    """Factor by which the cost ratio changes."""


class Sweep(Struct, kw_only=True):
    """The content of `sweep.json`."""

    v: int = SWEEP_VERSION
    name: str
    preset: str
    command: str
    created: float
    started_in: str = ""
    """The directory it was started from."""
    updated: float = 0.0
    status: Outcome = "running"
    stage: SweepStage = "planned"
    reason: str = ""
    reason_code: str = ""
    axes: list[Axis] = field(default_factory=list)
    budget: float | None = None
    low: float | None = None
    high: float | None = None
    """Expected seconds of all cells together, counted from the start; None if not measured."""
    runs: int = 0
    """Runs of all cells that were not finished when the estimate was made, each counted once."""
    cells: list[SweepCell] = field(default_factory=list)
    points: list[SweepPoint] = field(default_factory=list)
    trends: list[Trend] = field(default_factory=list)
    headline: str = ""
    sentences: list[str] = field(default_factory=list)
    metric: str = ""
    """What the scores are of; '' before a ladder has any."""
    cost: str = ""
    """What the costs are of."""
    warnings: list[str] = field(default_factory=list)

    @property
    def spent(self) -> float:
        """Seconds spent on all cells so far."""
        return sum(cell.seconds for cell in self.cells)


def cell_text(values: dict[str, Any]) -> str:
    """`adapter.rank=16, data.max_rows=500`."""
    return ", ".join(f"{key}={value_text(value)}" for key, value in values.items())


def value_text(value: Any) -> str:
    """A value as on the command line: `500`, `all-linear`, `[q_proj, v_proj]`."""
    if isinstance(value, list):
        return f"[{', '.join(map(value_text, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
