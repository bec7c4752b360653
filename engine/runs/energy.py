"""Energy by phase, from a run's memory samples."""

from __future__ import annotations

from engine.runs.events import Event, Hello, Memory, Phase


class PhaseEnergy:
    """Joules drawn by the GPU in each phase, over all workers of a run."""

    def __init__(self) -> None:
        self._joules: dict[str, float] = {}
        self._name, self._last = "starting", 0.0

    def add(self, event: Event) -> None:
        """Add an event; the energy counter restarts with every worker."""
        if isinstance(event, Hello):
            self._name, self._last = "starting", 0.0
        elif isinstance(event, Phase):
            self._name = event.name
        elif isinstance(event, Memory) and event.energy is not None:
            self._joules[self._name] = self._joules.get(self._name, 0.0) + max(0.0, event.energy - self._last)
            self._last = event.energy

    def joules(self) -> dict[str, float]:
        """Joules by phase; empty if not measured."""
        return {name: round(value, 3) for name, value in self._joules.items()}
