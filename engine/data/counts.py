"""Splits by name, and counts that come with the first few places."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

SPLITS = ("train", "validation", "test")
SHOWN = 5
"""Places that a count comes with."""


def counted(found: Iterable[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """(kind, where) pairs -> kind -> {"rows": n, "where": the first five}."""
    counts: dict[str, dict[str, Any]] = {}
    for kind, where in found:
        entry = counts.setdefault(kind, {"rows": 0, "where": []})
        entry["rows"] += 1
        if len(entry["where"]) < SHOWN:
            entry["where"].append(where)
    return counts
