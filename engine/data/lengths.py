"""How long rows are in tokens, counted into bins that a screen of any width can draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

BINS = 120
"""Finer than any screen shows; columns are made of whole bins."""
_TAIL = 4
"""A longest row beyond this many times the 99th percentile would squeeze all others into one column."""


def histogram(
    kept: Sequence[int] | np.ndarray, lost: Sequence[int] | np.ndarray, max_length: int
) -> dict[str, Any] | None:
    """Rows by their length before the cut; None where there are none.

    `kept` and `lost` are the lengths of rows that are trained on and of rows that the cut leaves nothing of. Bin n
    counts the lengths n·width+1 … (n+1)·width; the last one also everything longer (`beyond` says how many).
    """
    lengths = np.sort(np.concatenate([np.asarray(kept, dtype=np.int64), np.asarray(lost, dtype=np.int64)]))
    if not len(lengths):
        return None
    top = _top(lengths, max_length)
    width = -(-top // BINS)
    bins = -(-top // width)
    places = np.minimum((np.maximum(lengths, 1) - 1) // width, bins - 1)
    return {
        "width": width,
        "counts": np.bincount(places, minlength=bins).tolist(),
        "rows": len(lengths),
        "longest": int(lengths[-1]),
        "beyond": int((lengths > width * bins).sum()),
        "longer": int((lengths > max_length).sum()),
        "lost": len(lost),
    }


def _top(lengths: np.ndarray, max_length: int) -> int:
    """Where the axis ends: at the longest row, or short of a thin tail, yet never before a cut that touches rows."""
    longest, usual = max(int(lengths[-1]), 1), max(int(lengths[int(0.99 * (len(lengths) - 1))]), 1)
    if longest <= _TAIL * usual:
        return longest
    cut = max_length + max_length // 4 if max_length < longest else 0
    return min(longest, max(_TAIL * usual, cut))
