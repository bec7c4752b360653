"""The peak memory that a run is expected to reach."""

from __future__ import annotations

from typing import NamedTuple


class ExpectedPeak(NamedTuple):
    """The peak of a run's process, in bytes."""

    bytes: int
    is_probed: bool = False
    """Measured by the memory probe before the first step; else predicted."""

    @property
    def label(self) -> str:
        """Its name in the interface."""
        return "memory probe" if self.is_probed else "predicted peak"
