"""What a run cost by its phases, without those that not every rung has, and whether its timing was disturbed."""

from __future__ import annotations

from engine.runs.result import Result
from engine.runs.run_dir import RunDir

UNCOUNTED_PHASES = ("waiting", "baseline")
"""Phases that not every rung has; they do not count as work."""


def worked_seconds(result: Result) -> float:
    """Seconds of all phases except waiting for the GPU and scoring the base model."""
    return sum(seconds for phase, seconds in result.seconds.items() if phase not in UNCOUNTED_PHASES)


def worked_joules(result: Result) -> float | None:
    """Energy that the GPU used in the same phases; None if it was not measured."""
    joules = [value for phase, value in result.joules.items() if phase not in UNCOUNTED_PHASES]
    return sum(joules) if joules else None


def disturbance(run: RunDir, allowed: float) -> str:
    """Why the timing of this finished run is disturbed; '' if it is not, or if the run did not record its load."""
    result = run.result()
    if result is None or result.load is None:
        return ""
    return result.load.disturbance(allowed)
