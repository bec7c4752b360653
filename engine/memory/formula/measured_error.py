"""The planner's own error, as it was last measured: what the tool quotes beside its numbers.

`python tests/bench/planner.py grid published` prints these figures; they go here and into `tests/bench/RESULTS.md`.
An error is predicted / measured - 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.memory.formula.estimate import Device

Tier = Literal["formula", "dry run"]


@dataclass(frozen=True)
class MeasuredError:
    """How far one tier was off, as shares of the measured peak."""

    median: float | None
    """Of absolute errors; None where too few were measured."""
    worst: float
    """Largest absolute error."""
    under: float
    """The most by which a prediction was too small."""
    against: str
    """What it was held against."""

    def room_for(self, predicted: int) -> int:
        """Bytes to leave beside a prediction, were it as much too small as the worst one was."""
        return round(predicted / (1 - self.under)) - predicted

    @property
    def line(self) -> str:
        """In words, on one line."""
        median = f"median {percent(self.median)}, " if self.median is not None else ""
        return f"{median}worst {percent(self.worst)} against {self.against}"


def percent(share: float) -> str:
    """With two digits after the point where it is less than one."""
    return f"{share * 100:.2f} %" if abs(share) < 0.01 else f"{share * 100:.1f} %"


GRID = "the CPU allocator's peak in 48 configurations"
PUBLISHED = "six published peaks on cards"
MEASURED: dict[tuple[Tier, Device], MeasuredError] = {
    ("dry run", "cpu"): MeasuredError(0.0001, 0.0016, 0.0005, GRID),
    ("dry run", "cuda"): MeasuredError(None, 0.090, 0.090, PUBLISHED),
    ("formula", "cpu"): MeasuredError(0.006, 0.133, 0.077, GRID),
    # Not held against a card: its worst on a CPU on top of the dry run's worst on a card.
    ("formula", "cuda"): MeasuredError(None, 0.21, 0.21, f"{GRID} and {PUBLISHED}, one on top of the other"),
}


def error_of(tier: Tier, device: Device) -> MeasuredError:
    """What is known of a tier on a device; a scaled formula counts as the formula."""
    return MEASURED["dry run" if tier == "dry run" else "formula", device]
