"""The loss of one row with its token count and weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class RowLoss(NamedTuple):
    """Loss of one row."""

    nll: float
    """Weighted sum of the negative log-likelihood over the tokens in the loss, in nats."""
    tokens: float
    """Tokens in the loss."""
    weight: float
    """Sum of their weights; equals `tokens` if the row has no weights."""


def mean_loss(losses: Sequence[RowLoss]) -> float:
    """sum(weight * nll) / sum(weight) over the tokens in the loss, in nats/token, as in training."""
    return sum(loss.nll for loss in losses) / (sum(loss.weight for loss in losses) or 1)
