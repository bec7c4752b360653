"""Names of the splits, and counts with their first places."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

SPLITS = ("train", "validation", "test")
SHOWN = 5
"""Number of places that are given with a count."""


def counted(found: Iterable[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Count (kind, place) pairs: kind -> {"rows": n, "where": first SHOWN places}."""
    counts: dict[str, dict[str, Any]] = {}
    for kind, where in found:
        entry = counts.setdefault(kind, {"rows": 0, "where": []})
        entry["rows"] += 1
        if len(entry["where"]) < SHOWN:
            entry["where"].append(where)
    return counts
