"""Count the held-out rows whose prompt, answer, or both also occur in training rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from engine.data.keys import KeyTable, group_numbers
from engine.runs.overlap import SplitOverlap

Place = tuple[str, int]
"""A given split and the index of a row in it."""
SHOWN = 5
"""Number of pairs of places that are given with an overlap."""


@dataclass
class Overlap:
    """Counts of the rows of one split that occur in another."""

    of: int
    """Rows of the split that is compared with the other."""
    prompt: int
    """Rows whose prompt the other split has."""
    answer: int
    """Rows whose answer the other split has: nearly all in classification."""
    both: int
    """Rows whose prompt and answer the other split has in one row."""
    near: int | None = None
    """Rows whose prompt is not in the other split, but a similar one is; None if not computed."""
    near_reason: str = "not computed"
    """Why `near` is None."""
    where: list[tuple[Place, Place]] = field(default_factory=list)
    """The first pairs of rows with the same prompt."""

    def with_places(self, where: Callable[[Place], str]) -> SplitOverlap:
        """The same for results and screens, with the rows' places in their files."""
        return SplitOverlap(
            of=self.of,
            prompt=self.prompt,
            answer=self.answer,
            both=self.both,
            near=self.near,
            near_reason=self.near_reason,
            where=[[where(one), where(other)] for one, other in self.where],
        )


RowIndices = list[tuple[str, np.ndarray]]
"""Given splits and indices of rows in them."""


def overlap(keys: dict[str, KeyTable], one: RowIndices, other: RowIndices) -> Overlap:
    """Count the rows of `one` that occur in `other`."""
    prompt = group_numbers([_picked(keys, rows, "prompts") for rows in (one, other)])
    answer = group_numbers([_picked(keys, rows, "answers") for rows in (one, other)])
    pairs = [np.stack([p, a], axis=1).astype(np.uint64) for p, a in zip(prompt, answer, strict=True)]
    both = group_numbers(pairs)
    found = np.isin(prompt[0], prompt[1])
    return Overlap(
        of=len(prompt[0]),
        prompt=int(found.sum()),
        answer=int(np.isin(answer[0], answer[1]).sum()),
        both=int(np.isin(both[0], both[1]).sum()),
        where=_pairs(prompt[0], prompt[1], _places(one), _places(other), found),
    )


def _pairs(
    mine: np.ndarray, theirs: np.ndarray, places: list[Place], other: list[Place], found: np.ndarray
) -> list[tuple[Place, Place]]:
    """The first overlapping rows, each with the first row of the other split that has its prompt."""
    first = [int(np.flatnonzero(theirs == mine[number])[0]) for number in np.flatnonzero(found)[:SHOWN]]
    return [(places[n], other[m]) for n, m in zip(np.flatnonzero(found)[:SHOWN].tolist(), first, strict=True)]


def _picked(keys: dict[str, KeyTable], rows: RowIndices, part: str) -> np.ndarray:
    return np.concatenate([getattr(keys[name], part)[numbers] for name, numbers in rows])


def _places(rows: RowIndices) -> list[Place]:
    return [(name, int(number)) for name, numbers in rows for number in numbers]
