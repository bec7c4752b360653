"""Version of the rule that splits rows into training, validation and test. Scores compare only within a version."""

from __future__ import annotations

SPLIT_VERSION = 2
"""Version of new runs.

1: rows grouped by prompt and answer; a prompt with two answers could be in training and test.
2: rows grouped by prompt; the test rows of a prompt are one item, scored against all its answers.
"""
OLDEST_SPLIT_VERSION = 1
"""Version of runs and ladders that do not record one."""


def versions_differ(one: int, other: int) -> str:
    """Why two runs are not compared; '' where their split versions are equal."""
    if one == other:
        return ""
    return (
        f"different split versions ({one} and {other}): "
        "the test rows were chosen by different rules; start the older run again to compare"
    )
