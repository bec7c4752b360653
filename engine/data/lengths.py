"""Histogram of row lengths in tokens, in bins that can be drawn at any width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

BINS = 120
"""Finer than any screen; a column of the chart combines several bins."""
_TAIL = 4
"""The axis ends at this many times the 99th percentile: a single long row would squeeze all others into one column."""


def histogram(
    kept: Sequence[int] | np.ndarray, lost: Sequence[int] | np.ndarray, max_length: int
) -> dict[str, Any] | None:
    """Rows by their length before truncation; None without rows.

    `kept` and `lost` are the lengths of rows that are trained on, and of rows with no answer token left after
    truncation. Bin n counts lengths n·width+1 … (n+1)·width; the last bin also all longer ones (`beyond`).
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
    """The end of the axis: the longest row, or less for a thin tail, but not below max_length if rows are truncated."""
    longest, usual = max(int(lengths[-1]), 1), max(int(lengths[int(0.99 * (len(lengths) - 1))]), 1)
    if longest <= _TAIL * usual:
        return longest
    cut = max_length + max_length // 4 if max_length < longest else 0
    return min(longest, max(_TAIL * usual, cut))
