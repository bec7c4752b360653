"""How a recording differs from what is stored: a line per field, with its first differing value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from recorder.normal import Recording, leaves

MISSING = "–"
WIDTH = 46


def print_differences(stored: Recording, now: Recording) -> bool:
    """Print a table; returns whether there are differences."""
    for key in sorted({*stored.about, *now.about}):
        if stored.about.get(key) != now.about.get(key):
            print(f"  recorded with {key} {stored.about.get(key)}, now {now.about.get(key)}: floats may differ")
    before, after = (dict(leaves(recording.values)) for recording in (stored, now))
    fields: dict[str, list[str]] = {}
    totals: dict[str, int] = {}
    for path in [*before, *(path for path in after if path not in before)]:
        field = re.sub(r"\[\d+\]", "[*]", path)
        totals[field] = totals.get(field, 0) + 1
        if not equal(before.get(path, MISSING), after.get(path, MISSING)):
            fields.setdefault(field, []).append(path)
    if not fields:
        print(f"  equal: {len(before):,} values of {len(stored.values)} recordings")
        return False
    print("  | field | differ | first | stored | now | largest relative difference |\n  |---|--:|---|---|---|--:|")
    for field, paths in fields.items():
        first = paths[0]
        values = [shortened(side.get(first, MISSING)) for side in (before, after)]
        place = "".join(re.findall(r"\[\d+\]", first))
        relative = largest_difference([(before.get(path), after.get(path)) for path in paths])
        print(f"  | {field} | {len(paths)} of {totals[field]} | {place} | {' | '.join(values)} | {relative} |")
    return True


def equal(first: Any, second: Any) -> bool:
    return bool(first == second) and isinstance(first, bool) == isinstance(second, bool)


def shortened(value: Any) -> str:
    text = repr(value).replace("|", "¦")
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def largest_difference(pairs: Sequence[tuple[Any, Any]]) -> str:
    numbers = [pair for pair in pairs if all(isinstance(value, int | float) for value in pair)]
    return f"{max(abs(a - b) / (max(abs(a), abs(b)) or 1) for a, b in numbers):.1e}" if numbers else ""
