"""Sentences on timings that were disturbed by other load, and on CPU time, which such load hardly affects."""

from __future__ import annotations

from engine.config.text import listed
from engine.ladder import rung_format as fmt
from engine.runs.ladder import Ladder, LadderEntry

RETIME = "repeat them with --retime"


def disturbed_runs(ladder: Ladder) -> list[LadderEntry]:
    """The finished runs whose timing is not used."""
    return [entry for entry in ladder.entries if entry.kind == "run" and entry.disturbed]


def disturbed_timings(ladder: Ladder) -> str:
    """The caveat on disturbed timings; '' without any."""
    runs = disturbed_runs(ladder)
    if not runs:
        return ""
    causes: dict[str, list[str]] = {}
    for entry in runs:
        causes.setdefault(entry.disturbed, []).append(f"{fmt.rung_title(entry.rung)} seed {entry.seed}")
    parts = [f"{listed(names)} ({cause})" for cause, names in causes.items()]
    return f"Disturbed timings are left out of times and costs: {', '.join(parts)}; {RETIME}."
