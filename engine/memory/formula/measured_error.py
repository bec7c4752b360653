"""Measured errors of the memory predictions, which ftbench shows next to them.

`python tests/bench/planner.py grid others published` prints these values; copy them here and to
`tests/bench/RESULTS.md`. An error is predicted / measured - 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.config.quantities import relative_error
from engine.memory.formula.estimate import Device

Tier = Literal["formula", "dry run"]


@dataclass(frozen=True)
class MeasuredError:
    """Errors of one tier as fractions of the measured peak."""

    median: float | None
    """Median of absolute errors; None with too few measurements."""
    worst: float
    """Largest absolute error."""
    under: float
    """Largest underestimate."""
    against: str
    """What predictions were compared with."""

    def required_headroom(self, predicted: int) -> int:
        """Bytes to leave free for a prediction that is as much too small as the largest underestimate."""
        return round(predicted / (1 - self.under)) - predicted

    @property
    def line(self) -> str:
        """The errors in one line of text."""
        median = f"median {relative_error(self.median)}, " if self.median is not None else ""
        return f"{median}worst {relative_error(self.worst)} against {self.against}"


GRID = "the CPU allocator's peak in 68 configurations"
PUBLISHED = "six published GPU peaks"
_DRY_RUN_CPU = MeasuredError(0.0001, 0.0122, 0.0122, GRID)
_FORMULA_CPU = MeasuredError(0.005, 0.107, 0.044, GRID)
_DRY_RUN_GPU = MeasuredError(None, 0.090, 0.090, PUBLISHED)
MEASURED: dict[tuple[Tier, Device], MeasuredError] = {
    ("dry run", "cpu"): _DRY_RUN_CPU,
    ("dry run", "cuda"): _DRY_RUN_GPU,
    ("formula", "cpu"): _FORMULA_CPU,
    # Not compared with GPU measurements: the worst error on a CPU plus the dry run's worst on a GPU.
    ("formula", "cuda"): MeasuredError(
        None,
        _FORMULA_CPU.worst + _DRY_RUN_GPU.worst,
        _FORMULA_CPU.under + _DRY_RUN_GPU.under,
        f"{GRID} and {PUBLISHED}, errors added",
    ),
}


def error_of(tier: Tier, device: Device) -> MeasuredError:
    """The measured error of a tier on a device; a corrected formula counts as the formula."""
    return MEASURED["dry run" if tier == "dry run" else "formula", device]
