"""A sweep: its plan (`sweep.toml`) from `--vary` and `--budget`, and its state and results (`sweep.json`).

A sweep is a family of ladders that differ in one or two settings, its axes; each of its ladders is a cell.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import tomli
from msgspec import Struct, field

from engine.config.errors import UserError
from engine.config.schema import NOT_VARIED
from engine.config.settings import Flat, known_keys, parse_overrides
from engine.config.text import amount
from engine.runs.ladder.ladder_state import LadderPlan, Outcome
from engine.runs.ladder.rung_results import CostRatio
from engine.runs.run.result import SCHEMA_VERSION, Interval

Check = Literal["holds", "fails", "undecided", "unknown"]
SweepStage = Literal["planned", "measuring", "running", "done"]


class Axis(Struct, kw_only=True, frozen=True):
    """A setting and the values that it has in turn."""

    key: str
    values: list[Any]

    @property
    def is_numeric(self) -> bool:
        """Whether all values are positive numbers, so that there can be a trend."""
        return all(
            isinstance(value, int | float) and not isinstance(value, bool) and value > 0 for value in self.values
        )


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
    started_in: str = ""


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
    full: Interval | None = None


class SweepPoint(Struct, kw_only=True):
    """A rung in a cell."""

    cell: int
    """Index of the cell."""
    rung: str
    title: str
    """Name of the rung in text."""
    score: Interval | None = None
    share_of_gain: Interval | None = None
    cost: CostRatio | None = None
    """Ratio to full fine-tuning's cost."""
    why: str = ""
    """Why there is no share of the gain."""
    quality: Check = "unknown"
    """Whether the share of the gain is at least 94%, at an error rate of 5% for all ladders together."""
    p: float | None = None
    """Two-sided p of the share against 94%, alone."""
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

    v: int = SCHEMA_VERSION
    name: str
    preset: str
    command: str
    created: float
    started_in: str = ""
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
    return ", ".join(f"{key}={axis_value_text(value)}" for key, value in values.items())


def axis_value_text(value: Any) -> str:
    """A value as on the command line: `500`, `all-linear`, `[q_proj, v_proj]`."""
    if isinstance(value, list):
        return f"[{', '.join(map(axis_value_text, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


MAX_AXES = 2
MAX_CELLS = 100
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BUDGET = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])", re.ASCII)


def parse_axes(words: Sequence[str], overrides: Flat) -> list[Axis]:
    """The axes of `--vary KEY=V1,V2,V3`, at most two.

    Raises UserError for an unknown key, fewer than two values, equal values, and a key that --set sets too.
    """
    if len(words) > MAX_AXES:
        problem = f"too many settings to vary ({len(words)})"
        raise UserError(problem, "--vary", f"use at most {MAX_AXES}", code="sweep.axes")
    axes: list[Axis] = []
    for word in words:
        key, equals, text = map(str.strip, word.partition("="))
        example = "for example --vary adapter.rank=4,16,64"
        if not equals or not key:
            raise UserError(f"{word!r} is not KEY=V1,V2", "--vary", example, code="sweep.axes")
        if key not in known_keys() or key in NOT_VARIED:
            problem = "cannot be varied" if key in NOT_VARIED else "unknown setting"
            raise UserError(f"{problem}: {key}", "--vary", "see docs/configuration.md", code="sweep.key")
        try:  # brackets and quotes protect commas
            parts: list[Any] = tomli.loads(f"values = [{text}]")["values"]
            texts = [part if isinstance(part, str) else json.dumps(part, default=str) for part in parts]
        except (ValueError, RecursionError):
            texts = [part.strip() for part in text.split(",") if part.strip()]
        values = [next(iter(parse_overrides([f"{key}={value}"], "--vary").values())) for value in texts]
        if len(values) < 2 or any(values.count(value) > 1 for value in values):
            problem = f"{key} needs two or more different values"
            raise UserError(problem, "--vary", example, code="sweep.values")
        axes.append(Axis(key=key, values=values))
    if len({axis.key for axis in axes}) < len(axes):
        raise UserError(f"{axes[0].key} is varied twice", "--vary", "give all values at once", code="sweep.axes")
    for axis in axes:
        if axis.key in overrides:
            problem = f"{axis.key} is set and varied"
            raise UserError(problem, "--vary", f"remove --set {axis.key}", code="sweep.key_set")
    return axes


def parse_budget(text: str | None) -> float | None:
    """Seconds of `8h`, `90m` or `1h 30m`; None without a budget. Raises UserError for another text."""
    if text is None:
        return None
    parts = _BUDGET.findall(text.lower())
    if not parts or _BUDGET.sub("", text.lower()).strip():
        raise UserError(f"invalid duration {text!r}", "--budget", "for example 8h, 90m or 1h 30m", code="sweep.budget")
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def make_cells(
    axes: Sequence[Axis], overrides: Flat, plan: Callable[[Flat], LadderPlan]
) -> list[tuple[dict[str, Any], LadderPlan]]:
    """(values, plan of the ladder) of each combination of the axes' values, the first axis outermost.

    `plan` makes the plan of a ladder with these settings. Raises UserError for a combination that is invalid.
    """
    combinations = list(itertools.product(*(axis.values for axis in axes)))
    if len(combinations) > MAX_CELLS:
        problem = f"too many ladders ({len(combinations)})"
        raise UserError(problem, "--vary", f"use fewer values: at most {MAX_CELLS} ladders", code="sweep.cells")
    keys = [axis.key for axis in axes]
    cells = [dict(zip(keys, values, strict=True)) for values in combinations]
    return [(values, plan({**overrides, **values})) for values in cells]


def describe_sweep(axes: Sequence[Axis], cells: Sequence[tuple[dict[str, Any], LadderPlan]]) -> str:
    """`3 ladders: adapter.rank=4; adapter.rank=16; adapter.rank=64`."""
    return f"{amount(len(cells), 'ladder')}: {'; '.join(cell_text(values) for values, _ in cells)}"
