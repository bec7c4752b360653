"""What the evaluation of one test item gave. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from engine.evaluation.row_loss import RowLoss

Number = int | float
"""A number as it was computed: a worker that resumes the run writes what it read, 30 and not 30.0."""


@dataclass(frozen=True)
class ScoredItem:
    """The result of one evaluation item: the model's answer, its scores, and the loss on the references."""

    nll: Number
    """Weighted sum of the negative log-likelihood of a reference in nats; mean over the item's references."""
    tokens: Number
    """Tokens of a reference; mean over the item's references."""
    output: str = ""
    scores: dict[str, Number] | None = None
    """Scores against the best reference."""
    weight: Number | None = None
    """Sum of the tokens' loss weights; None if all are 1."""
    ended: bool | None = None
    """Whether an end token ended the answer; None if it was not generated, as with the metric `choice`."""
    formatted: bool | None = None
    """Whether the answer has the format that the metric needs; None if the metric needs none."""

    @property
    def loss_weight(self) -> float:
        """The divisor of `nll` in a mean."""
        return self.tokens if self.weight is None else self.weight

    @classmethod
    def of(
        cls,
        loss: RowLoss,
        output: str = "",
        scores: dict[str, float] | None = None,
        ended: bool | None = None,
        formatted: bool | None = None,
    ) -> ScoredItem:
        weight = None if loss.weight == loss.tokens else loss.weight
        return cls(loss.nll, loss.tokens, output, scores, weight, ended, formatted)
