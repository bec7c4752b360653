"""The answers that a choice is made from: those of the training rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.config.errors import UserError
from engine.data.items import EvaluationItem
from engine.data.tokens import IGNORED, Row
from engine.evaluation.metrics import squeezed

MOST = 1000
"""Distinct answers; with more, the task is hardly a choice."""
METRIC = "evaluation.metric"


@dataclass(frozen=True)
class Choices:
    """Distinct answers, in the order in which the training rows first give them."""

    tokens: list[list[int]]
    """Of each, what is learnt of it: its end token included."""
    texts: list[str]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Choices:
        """The last answer of every row that max_length has left whole.

        Raises UserError where there are more than 1,000 or fewer than two: choosing would mean nothing.
        """
        found: dict[tuple[int, ...], str] = {}
        for row in rows:
            if not row.cut:
                answer = tuple(label for label in row.labels[len(row.prompt) :] if label != IGNORED)
                found.setdefault(answer, row.target)
            if len(found) > MOST:
                what = f"choice wants a fixed set of answers; the training rows have more than {MOST:,} distinct ones"
                raise UserError(what, METRIC, "take exact_match, contains or rouge")
        if len(found) < 2:
            what = f"choice needs at least two distinct answers, and the training rows have {len(found)}"
            raise UserError(what, METRIC, "take another metric, or raise train.max_length where it cuts the answers")
        return cls([list(tokens) for tokens in found], list(found.values()))

    def unknown(self, items: Sequence[EvaluationItem]) -> list[EvaluationItem]:
        """Items none of whose references is a choice: they cannot be answered correctly."""
        known = {squeezed(text) for text in self.texts}
        return [item for item in items if not known & {squeezed(text) for text in item.references}]

    def shared(self) -> np.ndarray:
        """(C, C): how many tokens any two choices begin with in common; on the diagonal their lengths."""
        lengths = [len(tokens) for tokens in self.tokens]
        padded = np.full((len(lengths), max(lengths)), -1)
        for number, tokens in enumerate(self.tokens):
            padded[number, : len(tokens)] = tokens
        common = np.zeros((len(lengths), len(lengths)), dtype=int)
        alike = np.ones_like(common, dtype=bool)
        for column in padded.T:
            alike &= (column[:, None] == column) & (column != -1)
            common += alike
        return common
