"""The rule that divides rows into training, validation and test, by number: scores compare only under the same rule."""

from __future__ import annotations

SPLIT_VERSION = 2
"""Rule of new runs. 1: rows grouped by prompt and answer together; a prompt with two answers could train and test.
2: rows grouped by prompt; the test rows of a prompt are one item, scored against all its answers.
"""
OLDEST = 1
"""Rule of runs and ladders that record none."""


def versions_differ(one: int, other: int) -> str:
    """Why two runs are not compared, '' where they follow the same rule."""
    if one == other:
        return ""
    return (
        f"split version {one} is not compared with {other}: "
        "their test rows were chosen by different rules; run the older one again"
    )
