"""The result of preparing a dataset: the rows of each split, and why other rows are left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np

from engine.config.errors import Notice
from engine.data.counts import SHOWN, SPLITS
from engine.data.store import ColumnStore
from engine.data.tokenized import TokenizedRows
from engine.runs.account import ColumnUse
from engine.runs.overlap import SplitOverlap


class Places(msgspec.Struct):
    """A number of rows, and the places of the first few."""

    rows: int = 0
    where: list[list[str]] = []


class Facts(msgspec.Struct):
    """Facts about a preparation besides its rows; stored as JSON next to them."""

    source: str
    """One sentence on what was read."""
    source_fingerprint: str
    files: dict[str, list[str]]
    notes: list[str]
    format: str
    why: str
    template: str
    split_version: int
    split: list[str]
    """Sentences on what the split did."""
    read: dict[str, int]
    """Given split -> rows that were read."""
    columns: list[ColumnUse]
    overlap: dict[str, SplitOverlap]
    test_items: int
    """Distinct prompts among the test rows."""
    duplicates: Places
    same_prompt: Places
    """Training rows whose prompt has a different answer in an earlier row."""
    repeated_prompts: int
    """Prompts with several answers in the training rows."""
    distinct_answers: int
    """Distinct answers in the training rows."""
    notices: list[Notice]
    """Warnings of the format and the split."""
    fingerprint: str = ""
    """Fingerprint of the rows in use."""


@dataclass(frozen=True)
class LeftOutRows:
    """Rows of one split that are left out for the same reason."""

    kind: str
    rows: int
    where: list[str]
    """The first few places."""
    what: str
    """Details of the first one."""


@dataclass
class Preparation:
    """Rows and facts, before the decision whether they are good enough to train on."""

    columns: ColumnStore
    facts: Facts
    notices: tuple[Notice, ...] = ()
    """Warnings of the preparation: that it could not be cached."""

    @property
    def read(self) -> int:
        """Number of rows that were read. Rows for further accepted answers (`references`) are stored after them."""
        return sum(self.facts.read.values())

    @property
    def references(self) -> TokenizedRows:
        """A row for each further accepted answer of a test row."""
        return TokenizedRows(self.columns, np.arange(self.read, self.columns.count))

    @cached_property
    def rows(self) -> dict[str, TokenizedRows]:
        """The rows in use, by split."""
        used = self.columns["reason"] == 0
        return {
            name: TokenizedRows(self.columns, np.flatnonzero(used & (self.columns["split"] == number)))
            for number, name in enumerate(SPLITS)
        }

    def left_out(self, name: str) -> list[LeftOutRows]:
        """The reasons why rows of a split are left out, in order of appearance."""
        return [self._reason(numbers) for numbers in self._left_out(name)]

    def lengths_left_out(self, name: str) -> np.ndarray:
        """Tokens per row of a split's rows that were tokenized and left out."""
        lengths = [self.columns["length"][numbers] for numbers in self._left_out(name)]
        return np.concatenate(lengths).astype(np.int64) if lengths else np.zeros(0, dtype=np.int64)

    def _left_out(self, name: str) -> Iterator[np.ndarray]:
        reasons = np.where(self.columns["split"] == SPLITS.index(name), self.columns["reason"], 0)
        found, first = np.unique(reasons, return_index=True)
        for reason in found[np.argsort(first)].tolist():
            if reason:
                yield np.flatnonzero(reasons == reason)

    def _reason(self, numbers: np.ndarray) -> LeftOutRows:
        first = int(numbers[0])
        return LeftOutRows(
            self.columns.kinds[self.columns["reason"][first]],
            len(numbers),
            [self.columns.where(number) for number in numbers[:SHOWN].tolist()],
            self.columns.text(first),
        )

    def details(self, name: str, kind: str) -> list[str]:
        """`place: details` of the first rows of a split that are left out for a reason."""
        for numbers in self._left_out(name):
            if self.columns.kinds[self.columns["reason"][numbers[0]]] == kind:
                return [f"{self.columns.where(n)}: {self.columns.text(n)}" for n in numbers[:SHOWN].tolist()]
        return []
