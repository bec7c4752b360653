"""Bootstrap resamples of test items, and the factors that make the deviations of their means t-distributed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000
MAX_COUNTS = 1 << 22
"""Item counts of the resamples in memory at a time."""

Floats = NDArray[np.float64]


def resample_items(values: Mapping[str, Floats], weights: Floats | None, n: int, seed: int) -> dict[str, Floats]:
    """(RESAMPLES,) means of each rung over resampled items, the same items for all rungs.

    values: (n,) of each rung; with `weights` (n,) the mean is the sum of the values over the sum of the weights.
    """
    columns = [*values.values(), np.ones(n) if weights is None else weights]
    sums = np.concatenate([counts @ np.stack(columns, axis=1) for counts in _item_counts(n, seed)])
    return dict(zip(values, (sums[:, :-1] / sums[:, -1:]).T, strict=True))


def t_widening(n: int, seed: int) -> Floats:
    """(RESAMPLES,) factors that make the deviations of resampled means t-distributed; close to 1 for many items."""
    if n == 1:
        return np.ones(RESAMPLES)
    return np.asarray(np.sqrt(n / np.random.default_rng(seed).chisquare(n - 1, RESAMPLES)))


def _item_counts(n: int, seed: int) -> Iterator[Floats]:
    """Chunks (resamples, n) of how often each item was drawn: RESAMPLES in total, smaller chunks for many items."""
    if n * RESAMPLES <= MAX_COUNTS:
        yield _counts(n, seed)
        return
    random = np.random.default_rng(seed)
    chunk = max(1, MAX_COUNTS // n)
    for start in range(0, RESAMPLES, chunk):
        yield random.multinomial(n, np.full(n, 1 / n), min(chunk, RESAMPLES - start)).astype(float)


@lru_cache(maxsize=2)
def _counts(n: int, seed: int) -> Floats:
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(float)
