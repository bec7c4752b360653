"""The allowed answers of the metric `choice`: the distinct answers of the training rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.config.errors import UserError
from engine.data.items import EvaluationItem
from engine.data.rows import IGNORE_INDEX, Row
from engine.evaluation.metrics import normalized_space

MAX_CHOICES = 1000
"""Maximum number of distinct answers; with more, the task is not multiple choice."""
METRIC = "evaluation.metric"


@dataclass(frozen=True)
class Choices:
    """Distinct answers in order of first occurrence in the training rows."""

    tokens: list[list[int]]
    """Trained tokens of each answer, including its end token."""
    texts: list[str]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Choices:
        """Collect the last answer of every row that `max_length` did not truncate.

        Raises UserError for more than MAX_CHOICES or fewer than two distinct answers.
        """
        found: dict[tuple[int, ...], str] = {}
        for row in rows:
            if not row.cut:
                answer = tuple(label for label in row.labels[len(row.prompt) :] if label != IGNORE_INDEX)
                found.setdefault(answer, row.target)
            if len(found) > MAX_CHOICES:
                what = (
                    f"too many distinct answers for the metric choice: more than {MAX_CHOICES:,} in the training rows"
                )
                raise UserError(what, METRIC, "use exact_match, contains or rouge", code="data.too_many_choices")
        if len(found) < 2:
            what = f"the metric choice needs at least 2 distinct answers; the training rows have {len(found)}"
            do = "use another metric, or increase train.max_length if it truncates the answers"
            raise UserError(what, METRIC, do, code="data.too_few_choices")
        return cls([list(tokens) for tokens in found], list(found.values()))

    def unknown(self, items: Sequence[EvaluationItem]) -> list[EvaluationItem]:
        """Items without a reference among the choices: they cannot be answered correctly."""
        known = {normalized_space(text) for text in self.texts}
        return [item for item in items if not known & {normalized_space(text) for text in item.references}]

    def shared(self) -> np.ndarray:
        """(C, C): length of the common prefix of two choices in tokens; on the diagonal their lengths."""
        lengths = [len(tokens) for tokens in self.tokens]
        padded = np.full((len(lengths), max(lengths)), -1)
        for number, tokens in enumerate(self.tokens):
            padded[number, : len(tokens)] = tokens
        common = np.zeros((len(lengths), len(lengths)), dtype=int)
        equal = np.ones_like(common, dtype=bool)
        for column in padded.T:
            equal &= (column[:, None] == column) & (column != -1)
            common += equal
        return common
