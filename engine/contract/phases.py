"""Where a run's time went, from its events."""

from __future__ import annotations

from collections.abc import Iterable

from engine.contract.events import End, Event, Hello, Phase


def phase_seconds(events: Iterable[Event], now: float | None = None) -> dict[str, float]:
    """Seconds in each phase over all lives of a run; time between lives belongs to none.

    `now` (Unix seconds) is the end so far of one that lives. Of events that are neither hello, phase nor end only the
    last before a hello counts: it says when a life without an end was over.
    """
    seconds: dict[str, float] = {}
    name, since, last = "starting", 0.0, 0.0

    def until(moment: float) -> None:
        if since:
            seconds[name] = seconds.get(name, 0.0) + max(0.0, moment - since)

    for event in events:
        if isinstance(event, (Hello, Phase, End)):
            until(last if isinstance(event, Hello) else event.t)
            name = event.name if isinstance(event, Phase) else "starting"
            since = 0.0 if isinstance(event, End) else event.t
        last = event.t
    if now is not None:
        until(now)
    return {name: round(value, 3) for name, value in seconds.items()}
