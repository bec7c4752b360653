"""How long rows are in tokens, counted into bins that a screen of any width can draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BINS = 120
"""Finer than any screen shows; columns are made of whole bins."""
_TAIL = 4
"""A longest row beyond this many times the 99th percentile would squeeze all others into one column."""


def histogram(kept: Sequence[int], lost: Sequence[int], max_length: int) -> dict[str, Any] | None:
    """Rows by their length before the cut; None where there are none.

    `kept` and `lost` are the lengths of rows that are trained on and of rows that the cut leaves nothing of. Bin n
    counts the lengths n·width+1 … (n+1)·width; the last one also everything longer (`beyond` says how many).
    """
    lengths = sorted((*kept, *lost))
    if not lengths:
        return None
    top = _top(lengths, max_length)
    width = -(-top // BINS)
    counts = [0] * -(-top // width)
    for length in lengths:
        counts[min((max(length, 1) - 1) // width, len(counts) - 1)] += 1
    return {
        "width": width,
        "counts": counts,
        "rows": len(lengths),
        "longest": lengths[-1],
        "beyond": sum(length > width * len(counts) for length in lengths),
        "longer": sum(length > max_length for length in lengths),
        "lost": len(lost),
    }


def _top(lengths: Sequence[int], max_length: int) -> int:
    """Where the axis ends: at the longest row, or short of a thin tail, yet never before a cut that touches rows."""
    longest, usual = max(lengths[-1], 1), max(lengths[int(0.99 * (len(lengths) - 1))], 1)
    if longest <= _TAIL * usual:
        return longest
    cut = max_length + max_length // 4 if max_length < longest else 0
    return min(longest, max(_TAIL * usual, cut))
