"""Duration of each phase of a run, from its events."""

from __future__ import annotations

from collections.abc import Iterable

from engine.runs.events import End, Event, Hello, Phase


class PhaseTimes:
    """Seconds in each phase over all workers of a run; time between two workers is not counted.

    Uses the monotonic clock of each worker (`elapsed`) where events have it, so that setting the clock has no effect.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._name = "starting"
        self._since: float | None = None
        self._last, self._last_t = 0.0, 0.0

    def add(self, event: Event) -> None:
        """Hello, phase and end events delimit phases; a worker without an `end` ended at its last event."""
        moment = event.t if event.elapsed is None else event.elapsed
        if isinstance(event, (Hello, Phase, End)):
            self._until(self._last if isinstance(event, Hello) else moment)
            self._name = event.name if isinstance(event, Phase) else "starting"
            self._since = None if isinstance(event, End) else moment
        self._last, self._last_t = moment, event.t

    def seconds(self, now: float | None = None) -> dict[str, float]:
        """Seconds by phase. `now` (Unix seconds) ends the current phase of a running worker."""
        seconds = dict(self._seconds)
        if now is not None and self._since is not None:
            present = self._last + max(0.0, now - self._last_t)
            seconds[self._name] = seconds.get(self._name, 0.0) + max(0.0, present - self._since)
        return {name: round(value, 3) for name, value in seconds.items()}

    def _until(self, moment: float) -> None:
        if self._since is not None:
            self._seconds[self._name] = self._seconds.get(self._name, 0.0) + max(0.0, moment - self._since)


def phase_seconds(events: Iterable[Event], now: float | None = None) -> dict[str, float]:
    """Seconds in each phase, as in `PhaseTimes`."""
    times = PhaseTimes()
    for event in events:
        times.add(event)
    return times.seconds(now)
