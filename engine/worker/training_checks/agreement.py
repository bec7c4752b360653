"""Whether two computations of the same values agree: the tolerance is what two layouts of the same rows differ by.

Attention of a row to another row, a wrong position or a lost token changes losses by far more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

NOISE_FACTOR = 3.0
"""Times the difference between two layouts that the difference to be checked may have."""
LOSS_FLOOR = {torch.bfloat16: 1e-2, torch.float32: 1e-5}
"""Nats/token that are always tolerated: two padded layouts use the same kernel, and packed rows another one."""
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
    """Losses of the same rows in nats/token: packed, padded to a batch, and padded one by one."""
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
