"""The loss of one row, with what it is divided by for a mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class RowLoss(NamedTuple):
    """Loss of one row."""

    nll: float
    """Summed over the tokens in the loss, each times its weight, nats."""
    tokens: float
    """Tokens in the loss."""
    weight: float
    """Sum of their weights: equal to `tokens` where the row has no weights."""


def mean_loss(losses: Sequence[RowLoss]) -> float:
    """sum(weight * nll) / sum(weight) over the tokens in the loss, nats/token: as in training."""
    return sum(loss.nll for loss in losses) / (sum(loss.weight for loss in losses) or 1)
