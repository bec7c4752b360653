"""Count duplicate rows, and rows with one prompt and different answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.data.counts import SHOWN
from engine.data.keys import KeyTable, group_numbers


@dataclass
class Repeated:
    """Prompts with several answers."""

    rows: int
    """Rows whose prompt has a different answer in an earlier row."""
    prompts: int
    """Prompts with several answers."""
    pairs: list[tuple[int, int]]
    """The first of these rows, each after the first row of its prompt."""
    answers: int
    """Distinct answers in all rows."""


@dataclass
class Groups:
    """Rows grouped by prompt and by answer: (rows,) group numbers."""

    prompts: np.ndarray
    answers: np.ndarray

    @classmethod
    def of(cls, keys: list[KeyTable]) -> Groups:
        """Group the rows of all tables, in order."""
        prompts = group_numbers([np.concatenate([table.prompts for table in keys])])[0]
        answers = group_numbers([np.concatenate([table.answers for table in keys])])[0]
        return cls(prompts, answers)

    def duplicates(self, rows: np.ndarray) -> tuple[int, list[list[int]]]:
        """The number of these rows that equal an earlier one, and the first groups of equal rows."""
        whole = self.prompts[rows] * (self.answers.max(initial=0) + 1) + self.answers[rows]
        order = whole.argsort(kind="stable")
        ordered = whole[order]
        begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(rows) else order
        sizes = np.diff([*begins, len(rows)])
        several = np.flatnonzero(sizes > 1)
        several = several[order[begins[several]].argsort(kind="stable")][:SHOWN]
        groups = [order[begins[n] : begins[n] + min(SHOWN, sizes[n])] for n in several.tolist()]
        return len(rows) - len(begins), [rows[group].tolist() for group in groups]

    def repeated(self, rows: np.ndarray) -> Repeated:
        """The rows among these with the prompt of an earlier one and a different answer."""
        prompts, answers = self.prompts[rows], self.answers[rows]
        _, first, numbers = np.unique(prompts, return_index=True, return_inverse=True)
        other = np.flatnonzero(answers != answers[first[numbers]])
        pairs = [(int(rows[first[numbers[place]]]), int(rows[place])) for place in other[:SHOWN].tolist()]
        return Repeated(len(other), len(np.unique(prompts[other])), pairs, len(np.unique(answers)))
