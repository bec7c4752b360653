"""From batches of raw rows to packed columns: conversation, split keys and tokens of every row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from engine.data.conversation import Example, Problem
from engine.data.formats import Format, converse
from engine.data.keys import KeyTable
from engine.data.packed_rows import Batch, pack
from engine.data.parallel import batched, in_order
from engine.data.row_limits import Raw
from engine.data.tokens import Row, RowMaker

NOT_CHOSEN = "data.not_chosen"
"""Kind of a row that is not tokenized because it is in no split."""


@dataclass(frozen=True)
class Piece:
    """What a batch of raw rows became."""

    keys: KeyTable
    """Of the rows that are conversations or texts."""
    has_references: bool
    """Whether any row has further accepted answers."""
    keyed: np.ndarray
    """(rows,) whether a row has keys."""
    batch: Batch | None
    """All rows, packed; None where only keys were asked for."""


@dataclass(frozen=True)
class Work:
    """How raw rows become pieces."""

    format: Format
    tokenizer: Any
    max_length: int
    split_version: int
    ids: str
    """Type of token ids."""

    def keys_only(self, raws: list[Raw]) -> Piece:
        """A piece without tokens."""
        return self._piece(raws, None)

    def tokens(self, raws: list[Raw], wanted: np.ndarray | None = None) -> Piece:
        """A piece with tokens of the rows that are wanted."""
        return self._piece(raws, np.ones(len(raws), dtype=bool) if wanted is None else wanted)

    def _piece(self, raws: list[Raw], wanted: np.ndarray | None) -> Piece:
        said = [converse(raw, self.format) for raw in raws]
        keys = KeyTable.of((one for one in said if isinstance(one, Example)), self.split_version)
        keyed = np.array([isinstance(one, Example) for one in said])
        has_references = any(isinstance(one, Example) and one.references for one in said)
        return Piece(keys, has_references, keyed, None if wanted is None else self._packed(said, wanted))

    def tokenize(self, examples: list[Example]) -> list[Row | Problem]:
        """Rows with the notes and further answers of their examples."""
        found = self.maker.rows(examples)
        return [_completed(result, example) for result, example in zip(found, examples, strict=True)]

    @cached_property
    def maker(self) -> RowMaker:
        return RowMaker(self.tokenizer, self.max_length)

    def _packed(self, said: list[Example | Problem], wanted: np.ndarray) -> Batch:
        chosen = [one for one, wish in zip(said, wanted, strict=True) if wish and isinstance(one, Example)]
        tokens = iter(self.tokenize(chosen))
        return pack([self._result(one, wish, tokens) for one, wish in zip(said, wanted, strict=True)], self.ids)

    def _result(self, one: Example | Problem, wanted: bool, tokens: Iterator[Any]) -> Any:
        if isinstance(one, Problem):
            return one
        return next(tokens) if wanted else Problem(NOT_CHOSEN, "", one.where)


def _completed(result: Row | Problem, example: Example) -> Row | Problem:
    """The row with the notes of its conversion in front, and with its further accepted answers."""
    if isinstance(result, Problem) or not (example.notes or example.references):
        return result
    missing = tuple(note for note in example.notes if note not in result.notes)
    return replace(result, notes=(*missing, *result.notes), references=example.references)


def pieces(
    work: Work, rows: Iterable[Raw], processes: int, wanted: np.ndarray | None = None, keys_only: bool = False
) -> Iterator[Piece]:
    """The pieces of a split in order. `rows` is iterated once in every process; `wanted`: (rows,) which to tokenize."""

    def batches() -> Iterator[tuple[int, list[Raw]]]:
        start = 0
        for batch in batched(rows):
            yield start, batch
            start += len(batch)

    def one(numbered: tuple[int, list[Raw]]) -> Piece:
        start, raws = numbered
        if keys_only:
            return work.keys_only(raws)
        return work.tokens(raws, None if wanted is None else wanted[start : start + len(raws)])

    make: Callable[[tuple[int, list[Raw]]], Piece] = one
    return in_order(batches, make, processes)
