"""Whether two computations of the same values agree: the tolerance is the rounding of two unpacked ones.

These are the rows padded to a batch, and one by one with plain attention, unless its scores are too large. Packed rows
use another attention kernel than padded ones, which in bf16 rounds differently, and by how much that changes gradients
depends on the model. Attention of a row to another row, a wrong position or a lost token changes them by far more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

NOISE_FACTOR = 2.0
"""Times the difference between the two unpacked computations that the difference to be checked may have.

Gradients on the embedded model (three seeds) and two earlier ones (six seeds), all methods (LoRA and full in float32),
on an AMD EPYC without AMX with one thread and torch 2.13 (`packed_rounding.py` at 12ed3fc): in bf16 that difference
was 0.7 to 10% of the norm for the earlier two, and packed rows differed from padded ones by 0.85 to 1.08 times as much,
with the faults below by 3.1 times as much or more. In float32 they differed by 2e-6 of the norm at most. The larger of
the differences of losses and of gradients, as a multiple of its limit:

| | bf16 | float32 |
|---|---|---|
| no fault | 0.18 to 0.56 | 0.00 to 0.02 |
| every row attends to all rows before it | at least 63 | at least 159,000 |
| the second row attends to the first | at least 14 | at least 29,000 |
| every row attends to the last token of the row before it | at least 1.8 | at least 4,300 |
| the second half of every row is one position late | at least 1.04 | at least 356 |

Two padded layouts with the same kernel differ by 0.2 to 0.5% only: a multiple of that is no measure of rounding.
"""
LOSS_FLOOR = {torch.bfloat16: 1e-2, torch.float32: 1e-5}
"""Nats/token that are always tolerated: without plain attention both unpacked computations use the same kernel."""
GRADIENT_FLOOR = {torch.bfloat16: 2e-2, torch.float32: 1e-4}
"""The same for the relative difference of gradients."""


@dataclass(frozen=True)
class Agreement:
    """A difference and the largest that is tolerated."""

    difference: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.difference <= self.limit  # False for NaN


def losses_agree(
    packed: Sequence[float], padded: Sequence[float], alone: Sequence[float], dtype: torch.dtype
) -> Agreement:
    """Losses of the same rows in nats/token: packed, padded to a batch, and one by one."""
    noise = _largest(padded, alone)
    return Agreement(_largest(packed, padded), NOISE_FACTOR * noise + LOSS_FLOOR[dtype])


def _largest(first: Sequence[float], second: Sequence[float]) -> float:
    """The largest difference of two sequences; NaN if one of them contains NaN."""
    differences = [abs(one - other) for one, other in zip(first, second, strict=True)]
    return math.nan if any(map(math.isnan, differences)) else max(differences)


def gradients_agree(packed: torch.Tensor, padded: torch.Tensor, alone: torch.Tensor, dtype: torch.dtype) -> Agreement:
    """Gradients (parameters,) of the same rows; the difference is relative to the norm of `padded`."""
    norm = float(padded.norm())
    noise, difference = float((alone - padded).norm()), float((packed - padded).norm())
    if not norm:
        return Agreement(math.nan, 0.0)
    return Agreement(difference / norm, NOISE_FACTOR * noise / norm + GRADIENT_FLOOR[dtype])
